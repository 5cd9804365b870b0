"""Who is told what happens, to count and to trace it: the runtime knows no vendor of telemetry."""

from __future__ import annotations

from typing import Protocol
from uuid import UUID

from broker.errors import ErrorCode, GatewayError
from broker.gateway.base import Dialled
from broker.session.model import Session, SessionEvent


class Observer(Protocol):
    """Is told what has happened; what it does with that is quick, and raises nothing.

    Times are in seconds.
    """

    def dialled(self, dial: Dialled) -> None:
        """A Gateway was dialled, and the dial has succeeded or failed; one that was given up is
        not told. Called in the context of whoever dialled.
        """

    def retried(self, gateway_id: str, code: ErrorCode) -> None:
        """A session dials again, after a failure with this code."""

    def lost(self, gateway_id: str, error: GatewayError) -> None:
        """A live link to a Gateway was lost."""

    def answered(self, gateway_id: str, latency: float) -> None:
        """A Gateway has answered a heartbeat."""

    def seen(self, before: Session | None, event: SessionEvent) -> None:
        """An event became visible, for the first time; ``before`` is the session before it."""

    def stored(self, operation: str, duration: float, *, failed: bool) -> None:
        """A statement of the database has ended. Called in the context of whoever wanted it."""

    def written(self, events: int, duration: float) -> None:
        """So many events of a session are in the record, by a transaction that took so long. Called
        in the context of whoever submitted them.
        """

    def outage_began(self, session: Session, correlation_id: UUID) -> None:
        """What the calling task does from now on for its session is because a link was lost."""

    def settled(self) -> None:
        """What the calling task was at has come to its end: what follows has other causes."""


class Nobody:
    """Hears nothing; an observer that derives from it hears only what it overrides."""

    def dialled(self, dial: Dialled) -> None:
        """Nothing."""

    def retried(self, gateway_id: str, code: ErrorCode) -> None:
        """Nothing."""

    def lost(self, gateway_id: str, error: GatewayError) -> None:
        """Nothing."""

    def answered(self, gateway_id: str, latency: float) -> None:
        """Nothing."""

    def seen(self, before: Session | None, event: SessionEvent) -> None:
        """Nothing."""

    def stored(self, operation: str, duration: float, *, failed: bool) -> None:
        """Nothing."""

    def written(self, events: int, duration: float) -> None:
        """Nothing."""

    def outage_began(self, session: Session, correlation_id: UUID) -> None:
        """Nothing."""

    def settled(self) -> None:
        """Nothing."""
