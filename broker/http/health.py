"""Whether the broker lives, and whether it can be used."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from broker.events.log import EventLog
from broker.gateway.endpoint import Endpoint
from broker.runtime.manager import SessionManager


@dataclass(frozen=True, slots=True)
class Readiness:
    """Says whether sessions can be opened, and if not, every reason why.

    Args:
        manager: knows the gateways, and whether the broker stops.
        log: knows whether the database takes the record.
        holds_lock: whether the database is this broker's.
    """

    manager: SessionManager
    log: EventLog
    holds_lock: Callable[[], bool]

    def reasons(self) -> dict[str, Any]:
        """Why it is not ready; empty if it is.

        One gateway that answers is enough; without any, each is named with its last failure.
        """
        found: dict[str, Any] = {}
        if self.manager.is_draining:
            found["broker"] = "it is stopping"
        if not self.log.available:
            found["database"] = "it does not take the record"
        if not self.holds_lock():
            found["lock"] = "the connection that holds the database's lock is lost"
        endpoints = self.manager.gateways.endpoints
        if not any(endpoint.reachable for endpoint in endpoints.values()):
            found["gateways"] = {name: _why(endpoint) for name, endpoint in endpoints.items()}
        return found


def _why(endpoint: Endpoint) -> str:
    failure = endpoint.last_failure
    if endpoint.reachable is None or failure is None:
        return "not tried yet"
    return f"{failure.code.reason}: {failure.message}"
