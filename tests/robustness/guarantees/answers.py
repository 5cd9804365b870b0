"""What callers were told: opened, closed, once, leased, answered; and the Gateway: exclusive."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise

from ibgateway.broker.v1 import session_pb2
from ibgateway.broker.v1.error_pb2 import ErrorReason

from tests.robustness.guarantees.reads import lost_with_its_broker
from tests.robustness.history import CANCELLED, OK, REFUSED, Call, Entry, History, overlap
from tests.robustness.timeline import FINAL, Log
from tests.robustness.verdict import Finding, guarantee

CONNECTED = session_pb2.SESSION_STATE_CONNECTED

REASONS = {name.removeprefix("ERROR_REASON_") for name in ErrorReason.DESCRIPTOR.values_by_name} - {
    "UNSPECIFIED",
    "INTERNAL",
}
TRANSPORT = {"UNAVAILABLE", "DEADLINE_EXCEEDED", CANCELLED, OK}
"""How a call ends without an answer: the broker died or was not there, or we did not wait."""

PATIENCE = 5.0
"""Seconds within which what needs no Gateway is answered."""

OVERDUE = 2.0
"""Seconds that a busy broker may need to end a session whose lease has run out."""

CLOCK = 0.05
"""Seconds by which two readings of one wall clock may be apart in either direction."""


def _acknowledged(history: History, method: str) -> Iterator[Call]:
    return (call for call in history.calls if call.method == method and call.end == OK)


@guarantee
def opened(history: History) -> Iterator[Finding]:
    """An open that was answered is not lost: its session is in the log, and if the answer was
    CONNECTED, so is that it was; unless that was not kept yet, and its broker died before the
    database was back.
    """
    log = Log(history.log)
    for call in _acknowledged(history, "OpenSession"):
        for session in call.sessions:
            entries = log.by_session.get(session.session_id)
            name = f"session {session.session_id}"
            if session.owner != call.owner or dict(session.labels) != dict(call.request.labels):
                yield call.where, f"{name} is another's"
            elif not entries:
                yield call.where, f"{name} is not in the log"
            elif session.state == CONNECTED and not (
                _connected(entries) or lost_with_its_broker(history, call, session, log)
            ):
                at = f"at {session.revision}, sequence {session.sequence}"
                yield call.where, f"{name} was answered CONNECTED {at}, but never was by the log"


@guarantee
def closed(history: History) -> Iterator[Finding]:
    """A close that was answered has ended its session for good. Only what was answered while the
    database was away is lost if that broker died before it was back.
    """
    log = Log(history.log)
    for call in _acknowledged(history, "CloseSession"):
        session = call.response.session
        name = f"session {session.session_id}"
        if session.state not in FINAL:
            yield call.where, f"{name} was answered in state {session.state}"
            continue
        entries = log.by_session.get(session.session_id)
        if entries is None:
            yield call.where, f"{name} is not in the log"
            continue
        if entries[-1].event.session.state in FINAL:
            continue
        if not lost_with_its_broker(history, call, session, log):
            yield call.where, f"{name} was answered as ended at {session.revision}, and lives"


@guarantee
def once(history: History) -> Iterator[Finding]:
    """An owner's request_id stands for one session at a time: another begins only after the one
    before has ended without ever being CONNECTED. All who were answered were told that one.
    """
    log = Log(history.log)
    bound: defaultdict[tuple[str, str], list[list[Entry]]] = defaultdict(list)
    for entries in log.by_session.values():
        first = entries[0]
        if first.request_id:
            bound[first.event.session.owner, first.request_id].append(entries)
    for (owner, request_id), sessions in bound.items():
        sessions.sort(key=lambda entries: entries[0].event.revision)
        for before, after in pairwise(sessions):
            where = f"request_id {request_id} of {owner}"
            pair = f"{before[0].event.session_id} and {after[0].event.session_id}"
            if before[-1].event.revision < history.oldest:
                continue  # nothing of it is kept any more
            if _connected(before):
                yield where, f"{pair}: the first was CONNECTED"
            elif (
                before[-1].event.session.state not in FINAL
                or before[-1].event.revision > after[0].event.revision
            ):
                yield where, f"{pair}: the first had not ended"
    for call in _acknowledged(history, "OpenSession"):
        if not call.request.request_id:
            continue
        sessions = bound[call.owner, call.request.request_id]
        known = {entries[0].event.session_id for entries in sessions}
        if call.response.HasField("session") and call.response.session.session_id not in known:
            yield call.where, "was answered with a session of another request_id"


@guarantee
def leased(history: History) -> Iterator[Finding]:
    """No lease runs out before the time that was last granted, nor one of a session without; and
    none is left that has run out.
    """
    grants: defaultdict[str, list[Call]] = defaultdict(list)
    for call in history.calls:
        if call.method == "OpenSession" and call.end == OK:
            session = call.response.session
            if session.HasField("lease_ttl") and not session.close_reason:
                grants[session.session_id].append(call)
        elif call.method == "RenewSession" and (call.end == OK or call.end in TRANSPORT):
            grants[call.request.session_id].append(call)
    for entry in history.log:
        event = entry.event
        if event.WhichOneof("change") != "updated" or event.session.close_reason != "LEASE_EXPIRED":
            continue
        where = f"log, revision {event.revision}"
        if not event.session.HasField("lease_ttl"):
            yield where, f"session {event.session_id} has no lease that could run out"
        at = event.time.ToNanoseconds() / 1e9
        asked = [call for call in grants[event.session_id] if call.began_wall < at]
        early = _granted(asked) - at
        if early > CLOCK:
            yield where, f"the lease of {event.session_id} ran out {early:.2f} s too early"
    for session_id, session in history.listed.items():
        if session.HasField("lease_ttl") and session.state == CONNECTED:
            left = session.lease_expire_time.ToNanoseconds() / 1e9 - history.listed_wall
            if not session.HasField("lease_expire_time"):
                yield f"session {session_id}", "has a lease that does not run"
            elif left < -OVERDUE:
                yield f"session {session_id}", f"lives, but its lease ran out {-left:.1f} s ago"


def _granted(calls: list[Call]) -> float:
    """Until when a lease lasts at least, as wall time: by the call that the broker took last. Of
    calls that overlap, and of those that were not answered, nobody knows.
    """
    until = []
    for call in calls:
        if any(later.end == OK and later.began > call.ended for later in calls):
            continue
        asked = call.response.session if call.end == OK else call.request
        if asked.HasField("lease_ttl"):
            until.append(call.began_wall + asked.lease_ttl.ToNanoseconds() / 1e9)
    return min(until, default=0.0)


@guarantee
def answered(history: History) -> Iterator[Finding]:
    """Every call ends with an answer, with an error that the contract knows, or because the
    broker was not there; within 5 s, unless an open must wait for the Gateway. A call that reaches
    gRPC while it is shut down gets a bare CANCELLED.
    """
    for call in history.calls:
        patient = call.method != "OpenSession" and call.timeout >= PATIENCE
        if patient and call.end == "DEADLINE_EXCEEDED" and not _disturbed(history, call):
            yield call.where, "was not answered, although nothing was broken"
        if call.end in REASONS or call.end in TRANSPORT:
            continue
        if call.end != REFUSED or not history.stopping(call.ended):
            yield call.where, f"ended with {call.end}"


def _disturbed(history: History, call: Call) -> bool:
    """Whether the broker or its database had other worries."""
    since, slack = call.began - history.limits.slack, history.limits.slack
    broker = history.serving(call.began)
    return (
        broker is None
        or broker.ready > since
        or bool(broker.ended and broker.ended < call.ended + slack)
        or bool(overlap(broker.pauses, since, call.ended))
        or bool(history.away(since, call.ended))
    )


@guarantee
def exclusive(history: History) -> Iterator[Finding]:
    """The Gateway never sees one client id asked for by two connections at once (I3)."""
    for client_id, claims in history.claims.items():
        if claims > 1:
            yield "Gateway", f"client id {client_id} was asked for by {claims} connections at once"


def _connected(entries: list[Entry]) -> bool:
    return any(entry.event.session.state == CONNECTED for entry in entries)
