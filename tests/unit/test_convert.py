"""What is encoded once stays right when the session changes."""

from __future__ import annotations

import uuid
from dataclasses import replace
from datetime import timedelta

from ibgateway.broker.v1 import session_event_pb2

from broker.rpc import convert
from broker.runtime.supervisor import Vitals
from broker.session.model import SessionEvent, SessionNotice, SessionState
from tests.unit.test_machine import CORRELATION, NOW, in_state

NONE, LATE = Vitals(), Vitals(heartbeat_latency=0.25)


def test_an_encoded_session_is_made_anew_when_it_or_its_vitals_change() -> None:
    encoded = convert.Sessions()
    session = in_state(SessionState.CONNECTING)
    first = encoded.encode(session, NONE)
    assert encoded.encode(session, NONE) is first
    assert encoded.encode(session, LATE).session.heartbeat_latency.ToNanoseconds() == 250_000_000
    assert encoded.encode(replace(session, sequence=9), LATE).session.sequence == 9
    leased = encoded.encode(session, Vitals(lease_expire_time=NOW)).session
    assert leased.lease_expire_time == convert.timestamp(NOW)


def test_only_so_many_encoded_sessions_are_kept() -> None:
    encoded = convert.Sessions(limit=1)
    one = in_state(SessionState.CONNECTING)
    other = in_state(SessionState.CONNECTING, session_id=uuid.UUID(int=1))
    first = encoded.encode(one, NONE)
    encoded.encode(other, NONE)
    assert encoded.encode(one, NONE) is not first


def test_a_notice_reaches_watchers_with_every_field() -> None:
    session = in_state(SessionState.CONNECTED)
    since = NOW - timedelta(minutes=5)
    notice = SessionNotice("OVERDUE", "UPSTREAM", "lost for 5 min", "wait", since)
    id_, sequence = session.spec.session_id, session.sequence
    message = convert.event(SessionEvent(id_, sequence, NOW, CORRELATION, notice, session))
    assert message.WhichOneof("change") == "notice"
    assert message.notice == session_event_pb2.Notice(
        reason="OVERDUE",
        subject="UPSTREAM",
        message="lost for 5 min",
        hint="wait",
        since_time=convert.timestamp(since),
    )
