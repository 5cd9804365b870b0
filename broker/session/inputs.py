"""Everything that can happen to a session, one frozen class each."""

from __future__ import annotations

from dataclasses import dataclass

from broker.session.model import CloseReason, Condition, Failure, SessionNotice


@dataclass(frozen=True, slots=True)
class LinkUp:
    """A handshake was completed: version, nextValidId and a non-empty account list were read.

    ``conditions`` are those that the Gateway told meanwhile.
    """

    server_version: int
    accounts: tuple[str, ...]
    conditions: tuple[Condition, ...] = ()


@dataclass(frozen=True, slots=True)
class AttemptFailed:
    """A dial failed, and its socket has ended.

    ``delay`` is in seconds, until the next one if there is to be one; None if that waits for an
    operator. ``next_client_id`` is
    the id that the broker now holds for the session instead, if ``machine.moves_client_id``
    asked for one. ``auth_grace`` is for how many seconds a disclaimer may stay unaccepted.
    """

    failure: Failure
    delay: float | None
    next_client_id: int | None = None
    auth_grace: float = 0.0


@dataclass(frozen=True, slots=True)
class LinkLost:
    """The link ended, or was aborted because it no longer answered. ``reason`` is a constant,
    ``delay`` the seconds until the first dial for it.
    """

    failure: Failure
    reason: str
    delay: float | None = 0.0


@dataclass(frozen=True, slots=True)
class TaskCrashed:
    """The session's own task failed: a bug of ours, which must not cost the session.

    Its link has been aborted. ``in_a_row`` counts the crashes since anything else happened,
    ``delay`` is in seconds.
    """

    failure: Failure
    delay: float
    in_a_row: int


@dataclass(frozen=True, slots=True)
class ConditionSeen:
    """The Gateway told how something beside the state is now."""

    condition: Condition


@dataclass(frozen=True, slots=True)
class Told:
    """Something happened that the session's watchers should know."""

    notice: SessionNotice


@dataclass(frozen=True, slots=True)
class EndRequested:
    """Somebody wants the session to end; ``actor`` is who."""

    close_reason: CloseReason
    actor: str


@dataclass(frozen=True, slots=True)
class LinkEnded:
    """The session that is closing owns no socket any more."""


@dataclass(frozen=True, slots=True)
class LeaseChanged:
    """A renewal asked for another length; ``lease_ttl`` is in seconds, ``actor`` is who."""

    lease_ttl: float
    actor: str


@dataclass(frozen=True, slots=True)
class BrokerStopping:
    """The broker stops; the next one takes the session up, unless only its caller, who can no
    longer be answered, wanted it.
    """

    failure: Failure


@dataclass(frozen=True, slots=True)
class BrokerRestarted:
    """The broker found the session in the database at its start: no socket of it is left."""

    failure: Failure


Input = (
    LinkUp
    | AttemptFailed
    | LinkLost
    | TaskCrashed
    | ConditionSeen
    | Told
    | EndRequested
    | LinkEnded
    | LeaseChanged
    | BrokerStopping
    | BrokerRestarted
)
