"""What a watch tells, item by item, as frozen values that `match` tells apart.

    async for item in broker.watch():
        match item:
            case Snapshot(session=session): ...
            case SessionEvent(change=Transition(to_state=SessionState.RECONNECTING)): ...
            case Interrupted(error=error): ...

Each item has a `token`: the place in the log up to which whoever has handled it knows everything.
A process that keeps the last one continues from there. It is empty where nothing can be
continued: before a snapshot is complete, and in histories.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TypeAlias

from ibgateway.client.errors import BrokerError
from ibgateway.client.model import Condition, ConnectionFailure, SessionInfo, SessionState


@dataclass(frozen=True, slots=True, kw_only=True)
class Transition:
    """A move along one of the edges of the state machine.

    Attributes:
        from_state: the state that was left.
        to_state: the state that was entered.
        reason: a constant such as ``"OPENED"``, ``"HANDSHAKE_COMPLETED"`` or ``"PEER_CLOSED"``.
    """

    from_state: SessionState
    to_state: SessionState
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """A dial that failed without moving the state.

    Attributes:
        number: that of the dial, from 1.
        failure: why it failed.
        next_attempt_time: when the next dial is due; None while an operator drains the gateway.
    """

    number: int
    failure: ConnectionFailure
    next_attempt_time: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """Something that changed neither state nor condition, but that somebody should know.

    Attributes:
        reason: a constant such as ``"OVERDUE"`` or ``"CIRCUIT_OPEN"``.
        subject: what it is about: a state, a condition, or the gateway.
        message: for people.
        hint: what happens next and who must act.
        since_time: when what it is about began.
    """

    reason: str
    subject: str
    message: str
    hint: str
    since_time: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """A change of the session that moved neither state nor condition.

    Attributes:
        fields: the names of the fields of the session that changed.
        actor: who caused it: an owner's name, or ``"broker"``.
    """

    fields: tuple[str, ...]
    actor: str


Change: TypeAlias = Transition | Attempt | Condition | Notice | Update
"""What happened. A changed `Condition` stands for itself, as it is now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionEvent:
    """One entry of a session's log.

    Attributes:
        session_id: the session.
        sequence: its place in its session's log, from 1, without gap.
        revision: broker-wide, growing with each event; 0 while it is not persisted.
        persisted: whether it is in the database. While the database is away an event is told
            before that; it comes again once it is kept, and supersedes what was told with the same
            session_id and sequence.
        time: when it happened, by the broker's clock.
        correlation_id: that of the request or the outage that caused it.
        session: the session as it is after the event.
        change: what happened; None if this library does not know it.
        token: continues after this event.
    """

    session_id: str
    sequence: int
    revision: int
    persisted: bool
    time: datetime | None
    correlation_id: str
    session: SessionInfo
    change: Change | None
    token: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A session as it is now: how a watch without a token begins.

    Attributes:
        session: the session.
        token: empty; the snapshot is not complete.
    """

    session: SessionInfo
    token: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotComplete:
    """All sessions that match were told; what happens from now on follows.

    Attributes:
        revision: that of the newest event that the snapshot holds.
        token: continues after the snapshot.
    """

    revision: int
    token: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Bookmark:
    """Nothing else that matches has happened up to here; sent while all is quiet.

    Attributes:
        revision: up to where.
        oldest_revision: the oldest event that the broker still has: a token of an older one can
            no longer be continued.
        token: continues from here.
    """

    revision: int
    oldest_revision: int
    token: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Reset:
    """What is known is void: the snapshot that follows replaces all of it.

    Attributes:
        reason: a constant: ``"TOKEN_TOO_OLD"``, ``"TOKEN_OF_ANOTHER_STORE"``, ``"TOKEN_AHEAD"``,
            ``"EVENTS_EXPIRED"``, or ``"SNAPSHOT_INCOMPLETE"`` if the watch was interrupted before
            its snapshot was complete.
        oldest_revision: the oldest event that the broker still has; 0 if it did not say.
        token: empty; the snapshot is not complete.
    """

    reason: str
    oldest_revision: int = 0
    token: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Draining:
    """The broker is about to stop. The watch continues with its successor by itself.

    Attributes:
        stop_time: when it stops at the latest.
        token: continues from here.
    """

    stop_time: datetime | None
    token: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Interrupted:
    """The stream was lost: nothing is known until `Resumed`, which comes by itself.

    Told once for each loss, again when the cause changes, and before each wait of more than 30 s.
    It waits as long as the broker asks, for an hour at most.

    Attributes:
        error: why, with a hint.
        retry_in: seconds until the next try.
        token: where the watch will continue; empty if it must begin anew.
    """

    error: BrokerError
    retry_in: float
    token: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Resumed:
    """The stream is open again after an interruption; what was missed follows.

    Attributes:
        token: where the watch continues; empty if it begins anew.
    """

    token: str


WatchItem: TypeAlias = (
    Snapshot | SnapshotComplete | SessionEvent | Bookmark | Reset | Draining | Interrupted | Resumed
)
"""What a watch tells."""
