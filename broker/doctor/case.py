"""What the checks look at, and what they have learnt so far."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from broker.config import Configuration, Settings
from broker.gateway.base import Notice, Probe
from broker.store.inspection import Inspection


@dataclass(frozen=True, slots=True)
class GatewayReport:
    """What a running broker says of one of its gateways.

    Args:
        gateway_id: its name.
        address: HOST:PORT.
        reachable: whether its last attempt was answered; None before any has ended.
        server_version: of the last version reply; 0 before.
        sessions: how many are open.
        failure: the last failure in a line, and what to do about it; empty if none.
        hint: what to do about the failure.
        drained: by whom and why; empty if it is not.
        circuit: CLOSED, OPEN or HALF_OPEN.
        maintenance_end: when its maintenance window ends; None outside one.
        next_attempt: when it is tried again; None if it answers, or nobody dials it.
    """

    gateway_id: str
    address: str
    reachable: bool | None = None
    server_version: int = 0
    sessions: int = 0
    failure: str = ""
    hint: str = ""
    drained: str = ""
    circuit: str = "CLOSED"
    maintenance_end: datetime | None = None
    next_attempt: datetime | None = None


@dataclass(frozen=True, slots=True)
class RunningBroker:
    """A broker that serves on the configured address.

    Args:
        address: where it was asked.
        gateways: what it says of its gateways; None if it does not tell us.
        refusal: why it does not tell us.
    """

    address: str
    gateways: tuple[GatewayReport, ...] | None
    refusal: str = ""


class Ask(Protocol):
    """Asks whatever listens at an address whether it is a broker, and for its gateways."""

    def __call__(self, address: str) -> Awaitable[RunningBroker | None]:
        """Return what it says; None if it is no broker."""


@dataclass(frozen=True, slots=True)
class Visit:
    """What one handshake with a Gateway has shown.

    Args:
        server_version: the negotiated one.
        accounts: as the Gateway named them.
        notices: what it said unasked.
        probe: its answer to the request for its time.
        seen_at: our time at that answer, in UTC.
    """

    server_version: int
    accounts: tuple[str, ...]
    notices: tuple[Notice, ...]
    probe: Probe
    seen_at: datetime


@dataclass(slots=True)
class Case:
    """One examination. What is learnt is set by one check each, and read by later ones.

    Args:
        configuration: what is configured.
        ask: asks a running broker.
        now: the time, in UTC.
        dsn: the database; None if none can be asked.
        broker: the broker that runs on this configuration, if one does.
        database: what the database is like, if it could be asked.
        visits: the gateways that completed a handshake, by name.
    """

    configuration: Configuration
    ask: Ask
    now: Callable[[], datetime]
    dsn: str | None = None
    broker: RunningBroker | None = None
    database: Inspection | None = None
    visits: dict[str, Visit] = field(default_factory=dict)

    @property
    def settings(self) -> Settings:
        """The settings."""
        return self.configuration.settings
