"""The log, looked at from all sides, and streams, taken apart."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from ibgateway.broker.v1 import session_event_pb2, session_pb2
from ibgateway.broker.v1 import session_service_pb2 as pb

from tests.robustness.history import Entry, Received, Start, Stream

FINAL = frozenset({session_pb2.SESSION_STATE_DISCONNECTED, session_pb2.SESSION_STATE_FAILED})
VOLATILE = ("heartbeat_latency", "lease_expire_time")
"""Fields of a session that are no part of its log."""


def matches(request: pb.WatchSessionsRequest, session: session_pb2.Session) -> bool:
    """Whether a filter wants a session: every field that is given must match."""
    return (
        (not request.session_ids or session.session_id in request.session_ids)
        and request.gateway_id in {"", session.gateway_id}
        and request.owner in {"", session.owner}
        and (not request.states or session.state in request.states)
        and all(
            key in session.labels and session.labels[key] == value
            for key, value in request.labels.items()
        )
    )


def wants_final(request: pb.WatchSessionsRequest) -> bool:
    """Whether the snapshot holds final sessions: if asked for, or if such a state is named."""
    return request.include_final or bool(FINAL & set(request.states))


def logged(session: session_pb2.Session) -> session_pb2.Session:
    """A session without what is no part of its log."""
    copy = session_pb2.Session()
    copy.CopyFrom(session)
    for name in VOLATILE:
        copy.ClearField(name)
    return copy


def differences(ours: session_pb2.Session, theirs: session_pb2.Session) -> str:
    """The fields in which two sessions differ; empty if in none but volatile ones."""
    if ours == theirs:
        return ""
    ours, theirs = logged(ours), logged(theirs)
    return ", ".join(
        f"{name} {_brief(getattr(ours, name))} instead of {_brief(getattr(theirs, name))}"
        for name in (item.name for item in session_pb2.Session.DESCRIPTOR.fields)
        if getattr(ours, name) != getattr(theirs, name)
    )


def _brief(value: object) -> str:
    text = " ".join(str(value).split())
    return repr(text if len(text) <= 60 else f"{text[:57]}...")


def same_event(told: session_event_pb2.SessionEvent, kept: session_event_pb2.SessionEvent) -> bool:
    """Whether a provisional event is the one that was kept: all but its place in the log."""
    copy = session_event_pb2.SessionEvent()
    copy.CopyFrom(told)
    copy.revision, copy.persisted = kept.revision, kept.persisted
    copy.session.CopyFrom(logged(told.session))
    copy.session.revision = kept.session.revision
    return copy == kept


class Log:
    """The log by revision, by session, and as of any revision."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        self.entries = sorted(entries, key=lambda entry: entry.event.revision)
        self.newest = self.entries[-1].event.revision if self.entries else 0
        self.by_revision = {entry.event.revision: entry for entry in self.entries}
        self.by_sequence = {
            (entry.event.session_id, entry.event.sequence): entry for entry in self.entries
        }
        self.by_session: defaultdict[str, list[Entry]] = defaultdict(list)
        for entry in self.entries:
            self.by_session[entry.event.session_id].append(entry)
        self._revisions = {
            session_id: [entry.event.revision for entry in entries]
            for session_id, entries in self.by_session.items()
        }

    def at(self, session_id: str, revision: int) -> session_pb2.Session | None:
        """A session as of a revision; None before it began."""
        count = bisect_right(self._revisions.get(session_id, ()), revision)
        return self.by_session[session_id][count - 1].event.session if count else None

    def sessions_at(self, revision: int) -> Iterator[session_pb2.Session]:
        """All sessions as of a revision, final ones too."""
        for session_id in self.by_session:
            session = self.at(session_id, revision)
            if session is not None:
                yield session

    def before(self, event: session_event_pb2.SessionEvent) -> session_pb2.Session | None:
        """The session as it was before an event of the log; None before its first."""
        entry = self.by_sequence.get((event.session_id, event.sequence - 1))
        return entry.event.session if entry is not None else None

    def concerns(
        self, request: pb.WatchSessionsRequest, event: session_event_pb2.SessionEvent
    ) -> bool:
        """Whether a filter is told of an event: if the session matched before or after it."""
        if matches(request, event.session):
            return True
        before = self.before(event)
        return before is not None and matches(request, before)

    def concerning(
        self, request: pb.WatchSessionsRequest, after: int, upto: int
    ) -> list[session_event_pb2.SessionEvent]:
        """The events that a filter is told of, with revisions in (after, upto]."""
        return [
            entry.event
            for entry in self.entries[self._index(after) : self._index(upto)]
            if self.concerns(request, entry.event)
        ]

    def _index(self, revision: int) -> int:
        return bisect_right(self.entries, revision, key=lambda entry: entry.event.revision)


@dataclass(slots=True)
class Segment:
    """A stretch of a stream that is told without gap: from a token or a snapshot to its end, or to
    the next reset. Messages come with their index in the stream.

    Args:
        start: the revision after which events are told; None if the snapshot never was complete.
        reset: what it began with, unless with the stream.
        snapshot: its sessions.
        complete: the index of snapshot_complete; None without one.
        tail: all that follows: events, bookmarks, draining.
        strays: messages that have no business where they are.
    """

    stream: Stream
    start: int | None
    reset: tuple[int, Received] | None = None
    snapshot: list[tuple[int, session_pb2.Session]] = field(default_factory=list)
    complete: int | None = None
    tail: list[tuple[int, Received]] = field(default_factory=list)
    strays: list[tuple[int, Received]] = field(default_factory=list)

    @property
    def events(self) -> Iterator[tuple[int, session_event_pb2.SessionEvent]]:
        """The events of the tail."""
        for index, received in self.tail:
            if received.event is not None:
                yield index, received.event

    @property
    def persisted(self) -> Iterator[tuple[int, session_event_pb2.SessionEvent]]:
        """Those of them that are in the log."""
        return ((index, event) for index, event in self.events if event.persisted)

    @property
    def provisional(self) -> Iterator[tuple[int, session_event_pb2.SessionEvent]]:
        """Those of them that were not in the log yet."""
        return ((index, event) for index, event in self.events if not event.persisted)

    @property
    def last(self) -> int:
        """The position that the watcher has reached."""
        assert self.start is not None
        return max([self.start, *(received.message.revision for _, received in self.tail)])


def segments(stream: Stream) -> list[Segment]:
    """A stream, taken apart at its resets."""
    position = stream.position if stream.start is Start.CONTINUE else None
    current = Segment(stream, position)
    found = [current]
    for index, received in enumerate(stream.received):
        match received.kind:
            case "reset":
                current = Segment(stream, None, reset=(index, received))
                found.append(current)
            case "snapshot" if current.start is None:
                current.snapshot.append((index, received.message.snapshot))
            case "snapshot_complete" if current.start is None:
                current.start, current.complete = received.message.revision, index
            case "event" | "bookmark" | "draining" if current.start is not None:
                current.tail.append((index, received))
            case _:
                current.strays.append((index, received))
    return found
