"""What is read is true, and not of the past: truthful, fresh."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from ibgateway.broker.v1 import session_pb2

from tests.robustness.history import Call, Entry, History, Stream
from tests.robustness.timeline import Log, differences
from tests.robustness.verdict import Finding, guarantee


@guarantee
def truthful(history: History) -> Iterator[Finding]:
    """A session in an answer is what the log has at its sequence, or will have if it is not kept
    yet; unless the broker that answered died before the database was back.
    """
    log = Log(history.log)
    for call in history.calls:
        for session in call.sessions:
            name = f"session {session.session_id} at sequence {session.sequence}"
            entry = log.by_sequence.get((session.session_id, session.sequence))
            broker = history.serving(call.ended)
            kept = log.by_revision.get(session.revision)
            if kept is not None and kept.event.session_id != session.session_id:
                yield call.where, f"{name} was answered at {session.revision}, not its own"
            elif kept is None or kept.event.sequence < session.sequence:
                if entry is None or broker is None or entry.epoch != broker.epoch:
                    if not lost_with_its_broker(history, call, session, log):
                        yield call.where, f"{name} was answered, but never was"
                elif difference := differences(session, _at(entry, session.revision)):
                    yield call.where, f"{name} was answered before it was kept with {difference}"
            elif difference := differences(session, kept.event.session):
                yield call.where, f"{name} was answered with {difference}"


def _at(entry: Entry, revision: int) -> session_pb2.Session:
    """The session of an event as it was told before the event had a revision."""
    session = session_pb2.Session()
    session.CopyFrom(entry.event.session)
    session.revision = revision
    return session


def lost_with_its_broker(
    history: History, call: Call, session: session_pb2.Session, log: Log
) -> bool:
    """Whether a call was answered with what was not kept yet, by a broker that died: the revision
    of a session is that of its last kept event, 0 without one, and its sequence is beyond that.
    """
    kept = log.by_revision.get(session.revision)
    sequence = kept.event.sequence if kept is not None else 0
    broker = history.serving(call.ended)
    provisional = (kept is not None or not session.revision) and sequence < session.sequence
    return provisional and broker is not None and bool(broker.ended)


@guarantee
def fresh(history: History) -> Iterator[Finding]:
    """Nobody is told of the past: a snapshot is not behind a revision, nor an answer behind a
    session's event, that anybody had been told as persisted before it was asked for.
    """
    log = Log(history.log)
    known: list[tuple[float, str, int]] = []
    for stream in history.streams:
        known += _learned(stream, log)
    for call in history.calls:
        for session in call.sessions:
            entry = log.by_sequence.get((session.session_id, session.sequence))
            if entry is not None and entry.event.revision == session.revision:
                known.append((call.ended, session.session_id, session.sequence))
    known.sort()
    asked: list[tuple[float, str, list[tuple[str, int]]]] = [
        (stream.began, f"the snapshot of {stream.name}", [("", received.message.revision)])
        for stream in history.streams
        for received in stream.received[:FIRST]
        if received.kind == "snapshot_complete"
    ]
    for call in history.calls:
        told = [(session.session_id, session.sequence) for session in call.sessions]
        asked.append((call.began, call.where, told))
    newest: defaultdict[str, int] = defaultdict(int)
    facts = iter(known)
    fact = next(facts, None)
    for began, where, told in sorted(asked):
        while fact is not None and fact[0] < began:
            newest[fact[1]] = max(newest[fact[1]], fact[2])
            fact = next(facts, None)
        for what, place in told:
            if place < newest[what]:
                of = f"session {what} at sequence" if what else "at revision"
                yield where, f"is {of} {place}, but somebody knew {newest[what]} before"


FIRST = 1000
"""Messages among which the first snapshot of a stream is complete."""


def _learned(stream: Stream, log: Log) -> Iterator[tuple[float, str, int]]:
    """What a watcher knew by events, and when: revisions under "", and sequences of sessions."""
    for received in stream.received:
        event = received.event
        if event is not None and event.revision in log.by_revision:
            yield received.at, "", event.revision
            yield received.at, event.session_id, event.sequence
