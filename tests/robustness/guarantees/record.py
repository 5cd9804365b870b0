"""What PostgreSQL has kept: dense, legal, folded."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from ibgateway.broker.v1 import session_event_pb2, session_pb2

from tests.robustness.history import History
from tests.robustness.timeline import FINAL, Log, differences
from tests.robustness.verdict import Finding, guarantee

DISCONNECTED = session_pb2.SESSION_STATE_DISCONNECTED
CONNECTING = session_pb2.SESSION_STATE_CONNECTING
CONNECTED = session_pb2.SESSION_STATE_CONNECTED
RECONNECTING = session_pb2.SESSION_STATE_RECONNECTING
FAILED = session_pb2.SESSION_STATE_FAILED

EDGES = frozenset(
    {
        (DISCONNECTED, CONNECTING),
        (CONNECTING, CONNECTED),
        (CONNECTING, FAILED),
        (CONNECTING, DISCONNECTED),
        (CONNECTED, RECONNECTING),
        (CONNECTED, DISCONNECTED),
        (RECONNECTING, CONNECTED),
        (RECONNECTING, FAILED),
        (RECONNECTING, DISCONNECTED),
    }
)
"""The nine transitions, written down once more: the broker's own table is what is judged."""

KEPT = ("session_id", "gateway_id", "owner", "labels", "readonly", "create_time")
"""What of a session never changes."""


@guarantee
def dense(history: History) -> Iterator[Finding]:
    """Revisions are 1, 2, 3 … up to the counter of the database, each once; the sequences of each
    session, too. What was once in the log never changes.
    """
    revisions = [entry.event.revision for entry in history.log]
    for before, after in pairwise([0, *sorted(revisions)]):
        if after != before + 1:
            yield "log", f"revision {after} follows {before}"
    newest = max(revisions, default=0)
    if history.newest != newest:
        yield "log", f"ends with {newest}, but the counter is at {history.newest}"
    for session_id, entries in Log(history.log).by_session.items():
        last = 0
        for event in (entry.event for entry in entries):
            if event.sequence != last + 1:
                what = f"sequence {event.sequence} of {session_id} follows {last}"
                yield f"log, revision {event.revision}", what
            last = event.sequence
    for revision in history.rewritten:
        yield f"log, revision {revision}", "was changed after it was written"


@guarantee
def legal(history: History) -> Iterator[Finding]:
    """Sessions move along the nine transitions only, by events that say so, and not after they
    are final (I1, I4, I5). What identifies a session never changes, its client id only while
    CONNECTING, its generation with each handshake; FAILED has one of the six codes (I6).
    """
    log = Log(history.log)
    for entry in log.entries:
        event, where = entry.event, f"log, revision {entry.event.revision}"
        before = log.before(event)
        if before is None and event.sequence > 1:
            continue  # see dense
        for what in (*_moves(event, before), *_keeps(event.session, before)):
            yield where, f"session {event.session_id}: {what}"


def _moves(
    event: session_event_pb2.SessionEvent, before: session_pb2.Session | None
) -> Iterator[str]:
    state = before.state if before is not None else DISCONNECTED
    now = event.session
    if before is not None and before.state in FINAL:
        yield "moved after it was final"
    if event.WhichOneof("change") == "transition":
        edge = (getattr(event.transition, "from"), event.transition.to)
        if edge not in EDGES:
            yield f"transition {edge}"
        if edge != (state, now.state):
            yield f"transition {edge} from {state} to {now.state}"
    elif now.state != state:
        yield f"moved from {state} to {now.state} without a transition"
    elif before is None:
        yield "did not begin with a transition"
    if (now.sequence, now.session_id) != (event.sequence, event.session_id):
        yield f"the event {event.sequence} holds session {now.session_id} at {now.sequence}"
    if now.state == FAILED and not now.last_failure.reason.startswith("IB_CONN_00"):
        yield f"FAILED with {now.last_failure.reason or 'no code'}"
    if now.state == CONNECTED and not (now.generation and now.accounts and now.server_version):
        yield "CONNECTED without a handshake"


def _keeps(now: session_pb2.Session, before: session_pb2.Session | None) -> Iterator[str]:
    if before is None:
        return
    for name in KEPT:
        if getattr(now, name) != getattr(before, name):
            yield f"{name} changed"
    if now.client_id != before.client_id and before.state != CONNECTING:
        yield f"client id {before.client_id} became {now.client_id}"
    handshakes = before.state != CONNECTED and now.state == CONNECTED
    if now.generation != before.generation + handshakes:
        yield f"generation {before.generation} became {now.generation}"


@guarantee
def folded(history: History) -> Iterator[Finding]:
    """The row of a session is what its events add up to; every session of the log has a row,
    unless all its events have expired.
    """
    log = Log(history.log)
    for session_id, entries in log.by_session.items():
        last = entries[-1].event
        row = history.rows.get(session_id)
        if row is None:
            if last.session.state not in FINAL or last.revision >= history.oldest:
                yield f"session {session_id}", "has no row"
        elif difference := differences(row, last.session):
            yield f"session {session_id}", f"its row has {difference}"
    for session_id in history.rows.keys() - log.by_session.keys():
        yield f"session {session_id}", "has a row, but no event"
