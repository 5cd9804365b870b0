"""Which events a stream tells, and in which order: ordered, unique, reliable, provisional."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from ibgateway.broker.v1 import session_event_pb2

from tests.robustness.history import History, Stream
from tests.robustness.timeline import Log, Segment, same_event, segments
from tests.robustness.verdict import Finding, guarantee


@guarantee
def ordered(history: History) -> Iterator[Finding]:
    """Persisted events come by increasing revision, those of one session by increasing sequence;
    provisional ones by increasing sequence among themselves, and none after it was persisted.
    """
    for stream in history.streams:
        for segment in segments(stream):
            revision = 0
            kept: defaultdict[str, int] = defaultdict(int)
            told: defaultdict[str, int] = defaultdict(int)
            for index, event in segment.events:
                last = kept if event.persisted else told
                name = f"sequence {event.sequence} of {event.session_id}"
                if event.persisted:
                    if event.revision < revision:
                        yield stream.where(index), f"revision {event.revision} after {revision}"
                    revision = max(revision, event.revision)
                elif event.sequence <= kept[event.session_id]:
                    yield stream.where(index), f"provisional {name} after it was persisted"
                if event.sequence < last[event.session_id]:
                    yield stream.where(index), f"{name} after {last[event.session_id]}"
                last[event.session_id] = max(last[event.session_id], event.sequence)


@guarantee
def unique(history: History) -> Iterator[Finding]:
    """No event is told twice as persisted, or twice as provisional, on a stream; nor again on one
    that resumes after it.
    """
    for stream in history.streams:
        revisions: set[int] = set()
        keys: set[tuple[bool, str, int]] = set()
        for index, received in enumerate(stream.received):
            event = received.event
            if event is None:
                continue
            key = (event.persisted, event.session_id, event.sequence)
            if key in keys or event.revision in revisions:
                kind = f"revision {event.revision}" if event.persisted else "a provisional event"
                yield (
                    stream.where(index),
                    f"{kind} (sequence {event.sequence} of {event.session_id}) once more",
                )
            elif event.revision in stream.known:
                yield (
                    stream.where(index),
                    f"revision {event.revision}, which {stream.name} resumed after",
                )
            keys.add(key)
            if event.persisted:
                revisions.add(event.revision)


@guarantee
def reliable(history: History) -> Iterator[Finding]:
    """Between the position at which a stream began and the one that it has reached, each event of
    the log that concerns its filter is told, and nothing else: an event concerns a filter if its
    session matched before or after it. Watchers get to the end of the log.
    """
    log = Log(history.log)
    for stream in history.streams:
        for segment in segments(stream):
            if segment.start is None:
                continue
            wanted = {
                event.revision: event
                for event in log.concerning(stream.request, segment.start, segment.last)
            }
            told = set()
            for index, event in segment.persisted:
                told.add(event.revision)
                if event.revision not in log.by_revision:
                    yield stream.where(index), f"revision {event.revision} is not in the log"
                elif segment.start < event.revision and event.revision not in wanted:
                    yield stream.where(index), f"revision {event.revision} is not wanted"
            for revision, event in wanted.items():
                if revision not in told:
                    name = f"revision {revision} (sequence {event.sequence} of {event.session_id})"
                    between = f"between {segment.start} and {segment.last}"
                    yield stream.name, f"{name} is missing {between}"
    for watcher in history.stuck:
        yield watcher, "did not get on"


@guarantee
def provisional(history: History) -> Iterator[Finding]:
    """An event that was told before it was persisted is kept just as it was told. It is lost only
    if the broker that told it died before the database was back, or was stopped and could not wait
    any longer; and then all that it told later is lost, too.
    Those of one session are told without gap.
    """
    log = Log(history.log)
    for stream in history.streams:
        for segment in segments(stream):
            yield from _without_gap(segment, log)
        yield from _kept(history, stream, log)


def _without_gap(segment: Segment, log: Log) -> Iterator[Finding]:
    if segment.stream.request.states:
        return  # what is left out may have concerned nobody: only the log could tell
    told: set[tuple[str, int]] = set()
    for index, event in segment.provisional:
        position = segment.stream.received[index].message.revision
        kept = log.at(event.session_id, position)
        first = kept.sequence + 1 if kept is not None else 1
        missing = [
            sequence
            for sequence in range(first, event.sequence)
            if (event.session_id, sequence) not in told
        ]
        told.add((event.session_id, event.sequence))
        if missing:
            name = f"provisional sequence {event.sequence} of {event.session_id}"
            yield segment.stream.where(index), f"{name}, but {missing} was not told"


def _kept(history: History, stream: Stream, log: Log) -> Iterator[Finding]:
    """Judge the provisional events of a stream. One process serves a stream, and it writes events
    in the order in which it tells them.
    """
    told = [
        (index, received.event)
        for index, received in enumerate(stream.received)
        if received.event is not None and not received.event.persisted
    ]
    if not told:
        return
    broker = history.incarnation_of(stream)
    epoch = broker.epoch if broker is not None else 0
    lost: tuple[int, session_event_pb2.SessionEvent] | None = None
    for index, event in told:
        entry = log.by_sequence.get((event.session_id, event.sequence))
        name = f"provisional sequence {event.sequence} of {event.session_id}"
        if entry is not None and entry.epoch == epoch:
            if not same_event(event, entry.event):
                yield stream.where(index), f"{name} was kept as another event"
            elif lost is not None:
                gone = f"provisional sequence {lost[1].sequence} of {lost[1].session_id}"
                later = f"what was told later (message {index}) was kept"
                yield stream.where(lost[0]), f"{gone} is lost, but {later}"
                lost = None
            continue
        lost = lost or (index, event)
        at = stream.received[index].at
        if broker is None or not broker.ended:
            yield stream.where(index), f"{name} never was persisted, and its broker lives"
            continue
        limits = history.limits
        politely = broker.how == "TERMINATED"
        if politely and not history.away(broker.ended - limits.slack, broker.ended + limits.slack):
            yield stream.where(index), f"{name} was not persisted before its broker was stopped"
        there = broker.ended - at - history.away(at, broker.ended)
        if there > limits.drain_patience:
            why = f"although the database was there for {there:.1f} s before its broker died"
            yield stream.where(index), f"{name} was not persisted {why}"
