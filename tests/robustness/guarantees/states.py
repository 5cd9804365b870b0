"""What is told of a session is what the log says: atomic."""

from __future__ import annotations

from collections.abc import Iterator

from tests.robustness.history import History
from tests.robustness.timeline import (
    FINAL,
    Log,
    Segment,
    differences,
    matches,
    segments,
    wants_final,
)
from tests.robustness.verdict import Finding, guarantee


@guarantee
def atomic(history: History) -> Iterator[Finding]:
    """A snapshot is of one instant: each session is as the log has it at the revision of
    snapshot_complete, all that matched then are there and no others, each once. An event has the
    session as it is after it, and is told as it is in the log.
    """
    log = Log(history.log)
    for stream in history.streams:
        for segment in segments(stream):
            if segment.complete is not None:
                yield from _snapshot(segment, log, history.oldest)
            for index, event in segment.persisted:
                entry = log.by_revision.get(event.revision)
                if entry is None:
                    continue  # see reliable
                kept = entry.event
                where = stream.where(index)
                if difference := differences(event.session, kept.session):
                    yield where, f"event {event.revision} has a session with {difference}"
                elif event != kept:
                    for name in ("session_id", "sequence", "time", "correlation_id"):
                        if getattr(event, name) != getattr(kept, name):
                            yield where, f"event {event.revision} has another {name}"
                            break
                    else:
                        yield where, f"event {event.revision} tells another change"


def _snapshot(segment: Segment, log: Log, oldest: int) -> Iterator[Finding]:
    assert segment.start is not None
    stream, revision = segment.stream, segment.start
    seen: set[str] = set()
    for index, session in segment.snapshot:
        where, name = stream.where(index), f"session {session.session_id}"
        if session.session_id in seen:
            yield where, f"{name} twice in one snapshot"
        seen.add(session.session_id)
        then = log.at(session.session_id, revision)
        if then is None:
            yield where, f"{name} did not exist at {revision}"
        elif difference := differences(session, then):
            yield where, f"{name} in the snapshot at {revision} has {difference}"
        elif not matches(stream.request, then):
            yield where, f"{name} does not match"
        elif then.state in FINAL and not wants_final(stream.request):
            yield where, f"{name} is final, and nobody asked for such"
    for session in log.sessions_at(revision):
        if session.session_id in seen or not matches(stream.request, session):
            continue
        if session.state in FINAL and not (wants_final(stream.request)):
            continue
        ended = log.by_session[session.session_id][-1].event
        if ended.session.state in FINAL and ended.revision < oldest:
            continue  # it may have been deleted
        where = stream.where(segment.complete or 0)
        yield where, f"session {session.session_id} is missing in the snapshot at {revision}"
