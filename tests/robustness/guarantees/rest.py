"""How it is once nothing is broken any more: settled."""

from __future__ import annotations

from collections.abc import Iterator

from ibgateway.broker.v1 import session_pb2

from tests.robustness.history import History
from tests.robustness.timeline import FINAL, differences
from tests.robustness.verdict import Finding, guarantee

CONNECTED = session_pb2.SESSION_STATE_CONNECTED


@guarantee
def settled(history: History) -> Iterator[Finding]:
    """After the last fault every session that is not final is CONNECTED, or says why not and when
    it is tried again. The broker lists just the sessions that its record has, as they are there;
    and each that is CONNECTED has the one connection at the Gateway with its client id (I2).
    """
    connected = [one.client_id for one in history.listed.values() if one.state == CONNECTED]
    if sorted(connected) != sorted(history.held):
        have = f"connections with the client ids {sorted(history.held)}"
        yield "Gateway", f"has {have}, but CONNECTED are {sorted(connected)}"
    rows = {key: row for key, row in history.recorded.items() if row.state not in FINAL}
    for session_id in rows.keys() - history.listed.keys():
        yield f"session {session_id}", "is forgotten: it has a row, and the broker does not list it"
    for session_id in history.listed.keys() - rows.keys():
        yield f"session {session_id}", "is listed, but has no row that is not final"
    for session_id in history.listed.keys() & rows.keys():
        session = history.listed[session_id]
        if difference := differences(session, rows[session_id]):
            yield f"session {session_id}", f"is listed with {difference}"
        if session.state != CONNECTED:
            failure = session.last_failure
            if not (failure.reason and failure.hint and session.HasField("next_attempt_time")):
                yield f"session {session_id}", f"is in state {session.state} and does not say why"


@guarantee
def upright(history: History) -> Iterator[Finding]:
    """A broker ends when it is told to, with 0 if politely, and leaves no connection; it does not
    start only while the database is away. Nothing in it crashes.
    """
    slack = history.limits.slack
    for broker in history.incarnations:
        where = f"broker {broker.number}"
        for line in broker.crashes:
            yield where, f"its log says: {line}"
        if broker.how == "EXITED":
            since = broker.started if not broker.ready else broker.ended
            if broker.ready or not history.away(since - slack, broker.ended):
                yield where, f"ended by itself with {broker.code}"
        elif broker.how == "TERMINATED" and broker.code != 0:
            yield where, f"was stopped, and ended with {broker.code}"
    if history.left:
        yield "Gateway", f"{history.left} connections are left"
