"""What a run has recorded: the material that the guarantees are held against.

Times are seconds of the test's own monotonic clock, except where a field is called a wall time.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ibgateway.broker.v1 import session_event_pb2, session_pb2
from ibgateway.broker.v1 import session_service_pb2 as pb

CANCELLED = "CANCELLED"
"""A stream or a call that we ended ourselves."""
OK = "OK"
REFUSED = "CANCELLED by the peer"
"""What gRPC says while it is shut down to a call that has just arrived."""
STOP = 10.0
"""Seconds that a broker may take to stop."""
BOOT = 0.3
"""Seconds within which no process can serve yet."""


class Start(enum.Enum):
    """With what a stream began."""

    SNAPSHOT = "without a token"
    CONTINUE = "with the token of a message at or after snapshot_complete"
    INCOMPLETE = "with the token of a message before snapshot_complete"
    FOREIGN = "with a token of another store"
    AHEAD = "with a token ahead of the log"


@dataclass(frozen=True, slots=True)
class Received:
    """One message of a stream, and when it came."""

    at: float
    message: pb.WatchSessionsResponse
    kind: str

    @classmethod
    def of(cls, at: float, message: pb.WatchSessionsResponse) -> Received:
        """A message that came just now."""
        return cls(at, message, message.WhichOneof("message") or "")

    @property
    def event(self) -> session_event_pb2.SessionEvent | None:
        """The event, if it is one."""
        return self.message.event if self.kind == "event" else None

    @property
    def complete(self) -> bool:
        """Whether its token stands for a position in the log."""
        return self.kind not in {"snapshot", "reset"}


@dataclass(slots=True)
class Stream:
    """One call of WatchSessions, from the request to the end.

    Args:
        name: the watcher, and how many streams it had before.
        request: as it was sent.
        start: what its token is.
        position: the revision that the token stands for; 0 unless ``start`` is CONTINUE.
        known: the events that the stream of the token had told as persisted by then.
        began: when it was asked for.
        received: all messages, in order.
        pauses: when the watcher did not read although messages may have come.
        ended: when it ended.
        end: OK, CANCELLED (by us), the reason of the API's error, or a status of gRPC's own.
        lag: that of a SLOW_CONSUMER, as the error says.
    """

    name: str
    request: pb.WatchSessionsRequest
    start: Start
    began: float
    position: int = 0
    known: frozenset[int] = frozenset()
    received: list[Received] = field(default_factory=list)
    pauses: list[tuple[float, float]] = field(default_factory=list)
    ended: float = 0.0
    end: str = CANCELLED
    lag: int = 0

    def told(self, upto: int) -> frozenset[int]:
        """The revisions of the persisted events up to a message."""
        events = (received.event for received in self.received[: upto + 1])
        return frozenset(event.revision for event in events if event is not None) - {0}

    def where(self, index: int) -> str:
        """A message of the stream, for a report."""
        return f"{self.name}, message {index}"


@dataclass(slots=True)
class Call:
    """One unary call: what was asked, how long we would wait, and what came of it."""

    caller: str
    owner: str
    method: str
    request: Any
    began: float
    began_wall: float
    ended: float = 0.0
    ended_wall: float = 0.0
    end: str = CANCELLED
    response: Any = None
    timeout: float = 0.0

    @property
    def sessions(self) -> Sequence[session_pb2.Session]:
        """The sessions that were answered."""
        if self.end != OK:
            return ()
        if self.method == "ListSessions":
            return list(self.response.sessions)
        if "session" in self.response.DESCRIPTOR.fields_by_name and self.response.session.sequence:
            return (self.response.session,)
        return ()

    @property
    def where(self) -> str:
        """The call, for a report."""
        return f"{self.method} of {self.caller} at {self.began:.3f}"


@dataclass(slots=True)
class Incarnation:
    """One process of the broker.

    Args:
        number: from 1.
        started: when the process was.
        ready: when it served; 0 if it never did.
        ended: when the signal was sent, or its end was noticed; 0 while it runs.
        how: KILLED, TERMINATED, or EXITED by itself.
        code: with what it exited.
        epoch: of the database, as GetBrokerInfo says; 0 if it never served.
        pauses: when it was stopped by SIGSTOP.
        crashes: lines of its log that tell of a bug.
    """

    number: int
    started: float
    ready: float = 0.0
    ended: float = 0.0
    how: str = ""
    code: int | None = None
    epoch: int = 0
    pauses: list[tuple[float, float]] = field(default_factory=list)
    crashes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Outage:
    """The database could not be used as always: from ``began`` until it answered at ``ended``."""

    kind: str
    began: float
    ended: float


@dataclass(frozen=True, slots=True)
class Entry:
    """One event of the log as PostgreSQL has it."""

    event: session_event_pb2.SessionEvent
    epoch: int
    request_id: str = ""


@dataclass(frozen=True, slots=True)
class Limits:
    """What the broker was told, as far as guarantees depend on it, and what we allow on top.

    Args:
        bookmark_interval: seconds.
        margin: seconds by which a bookmark may be late on a busy machine.
        watch_lag: events.
        drain_patience: seconds within which a journal must be written once the database is back.
        slack: seconds around an outage of the database in which a broker may still suffer from it.
        stop_grace: seconds.
    """

    bookmark_interval: float = 1.0
    margin: float = 4.0
    watch_lag: int = 1000
    drain_patience: float = 6.0
    slack: float = 3.0
    stop_grace: float = 3.0


@dataclass(slots=True)
class History:
    """Everything that a run has recorded.

    Args:
        log: by revision, from the first event on, those that have expired meanwhile too.
        newest: the revision counter of the database at the end.
        oldest: its retention horizon at the end: the oldest event that is kept.
        rows: gateway_connections at the end, as sessions.
        listed: what ListSessions answered in a quiet moment before the last stop.
        listed_wall: when, as wall time.
        recorded: gateway_connections in that moment.
        claims: per client id, how many connections asked the Gateway for it at once, at most.
        held: client ids of the connections that the Gateway had in that moment.
        left: connections that the Gateway still had after the last broker was stopped.
        stuck: watchers that did not reach the end of the log in time, and the like.
        rewritten: events of the log that were read twice and had changed.
    """

    limits: Limits = field(default_factory=Limits)
    streams: list[Stream] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    incarnations: list[Incarnation] = field(default_factory=list)
    outages: list[Outage] = field(default_factory=list)
    log: list[Entry] = field(default_factory=list)
    newest: int = 0
    oldest: int = 1
    rows: dict[str, session_pb2.Session] = field(default_factory=dict)
    listed: dict[str, session_pb2.Session] = field(default_factory=dict)
    listed_wall: float = 0.0
    recorded: dict[str, session_pb2.Session] = field(default_factory=dict)
    held: list[int] = field(default_factory=list)
    claims: Mapping[int, int] = field(default_factory=dict)
    left: int = 0
    stuck: list[str] = field(default_factory=list)
    rewritten: list[int] = field(default_factory=list)

    def incarnation_of(self, stream: Stream) -> Incarnation | None:
        """The process that served a stream."""
        return self.serving(stream.received[0].at if stream.received else stream.ended)

    def serving(self, at: float) -> Incarnation | None:
        """The process that had sent what came at a time: a moment after its end, still that one."""
        able = [item for item in self.incarnations if item.ready and item.started + BOOT <= at]
        return able[-1] if able else None

    def stopping(self, at: float) -> bool:
        """Whether a broker was just told to stop."""
        return any(
            broker.how == "TERMINATED" and 0 <= at - broker.ended <= STOP
            for broker in self.incarnations
        )

    def away(self, since: float, until: float) -> float:
        """For how many seconds of an interval the database was away."""
        return sum(
            max(0.0, min(until, outage.ended) - max(since, outage.began)) for outage in self.outages
        )


def overlap(intervals: Sequence[tuple[float, float]], since: float, until: float) -> float:
    """For how many seconds of an interval others were under way."""
    return sum(max(0.0, min(until, end) - max(since, begin)) for begin, end in intervals)
