"""Everything that can happen to a session, one frozen class each."""

from __future__ import annotations

from dataclasses import dataclass

from broker.session.model import CloseReason, Failure


@dataclass(frozen=True, slots=True)
class LinkUp:
    """A handshake was completed: version, nextValidId and a non-empty account list were read."""

    server_version: int
    accounts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AttemptFailed:
    """A dial failed, and its socket has ended.

    ``delay`` is in seconds, until the next one if there is to be one. ``next_client_id`` is
    the id that the broker now holds for the session instead, if ``machine.moves_client_id``
    asked for one.
    """

    failure: Failure
    delay: float
    next_client_id: int | None = None


@dataclass(frozen=True, slots=True)
class LinkLost:
    """The link ended, or was aborted because it no longer answered. ``reason`` is a constant."""

    failure: Failure
    reason: str


@dataclass(frozen=True, slots=True)
class EndRequested:
    """Somebody wants the session to end; ``actor`` is who."""

    close_reason: CloseReason
    actor: str


@dataclass(frozen=True, slots=True)
class LinkEnded:
    """The session that is closing owns no socket any more."""


@dataclass(frozen=True, slots=True)
class BrokerRestarted:
    """The broker found the session in the database at its start."""


Input = LinkUp | AttemptFailed | LinkLost | EndRequested | LinkEnded | BrokerRestarted
