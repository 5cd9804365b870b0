"""What a caller wants when it opens a session."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from uuid import UUID

from broker.session.model import ClientIdPolicy


@dataclass(frozen=True, slots=True)
class OpenRequest:
    """One request, checked field by field; None is the gateway's own setting.

    ``timeout`` and ``lease_ttl`` are in seconds; without a lease the session lives until it is
    closed. ``request_id`` makes the request repeatable.
    """

    gateway_id: str
    owner: str
    client_id: int | None = None
    client_id_policy: ClientIdPolicy = ClientIdPolicy.INCREMENT
    readonly: bool = False
    timeout: float | None = None
    max_attempts: int | None = None
    reconnect_max_attempts: int | None = None
    request_id: UUID | None = None
    lease_ttl: float | None = None
    return_immediately: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        """A hash of what a repeat must ask for, too: all but how long and for what it waits."""
        compared = {
            "gateway_id": self.gateway_id,
            "client_id": self.client_id,
            "client_id_policy": self.client_id_policy.value,
            "readonly": self.readonly,
            "max_attempts": self.max_attempts,
            "reconnect_max_attempts": self.reconnect_max_attempts,
            "lease_ttl": self.lease_ttl,
            "labels": dict(self.labels),
        }
        return hashlib.sha256(json.dumps(compared, sort_keys=True).encode()).hexdigest()
