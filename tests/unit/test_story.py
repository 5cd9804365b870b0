"""What `sessions watch` tells is one story: each message in its place, nothing twice."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from ibgateway.broker.v1 import error_pb2, session_event_pb2, session_pb2
from ibgateway.broker.v1 import session_service_pb2 as pb
from ibgateway.client import BrokerUnreachableError, Interrupted

from broker.cli.client import Told
from broker.cli.output import Format, clock, moment
from broker.cli.story import Story
from broker.cli.timeline import Timeline

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
HINT = (
    "start one with `gateway-broker serve` or `gateway-broker dev`, "
    "or say where it is with --broker, and with --tls-ca if it serves TLS"
)
SESSION = "11111111-1111-4111-8111-111111111111"
CONNECTED = session_pb2.SESSION_STATE_CONNECTED
CONNECTING = session_pb2.SESSION_STATE_CONNECTING
RECONNECTING = session_pb2.SESSION_STATE_RECONNECTING
FAILED = session_pb2.SESSION_STATE_FAILED


def at(seconds: float) -> Timestamp:
    time = Timestamp()
    time.FromDatetime(NOW + timedelta(seconds=seconds))
    return time


def refused(message: str = "refused", hint: str = "look at it") -> error_pb2.ConnectionFailure:
    return error_pb2.ConnectionFailure(reason="IB_CONN_001", message=message, hint=hint)


def session(state: session_pb2.SessionState, since: float = 0, **more: Any) -> session_pb2.Session:
    return session_pb2.Session(
        session_id=SESSION,
        gateway_id="default",
        client_id=7,
        state=state,
        state_time=at(since),
        **more,
    )


def event(
    now: float, after: session_pb2.Session, *, persisted: bool = True, **change: Any
) -> pb.WatchSessionsResponse:
    return pb.WatchSessionsResponse(
        event=session_event_pb2.SessionEvent(
            session_id=SESSION,
            time=at(now),
            sequence=after.sequence,
            persisted=persisted,
            session=after,
            **change,
        )
    )


def moved(
    now: float, old: session_pb2.SessionState, after: session_pb2.Session, reason: str
) -> pb.WatchSessionsResponse:
    move = session_event_pb2.Transition(to=after.state, reason=reason, **{"from": old})
    return event(now, after, transition=move)


def attempt(now: float, number: int, due: float, failure: Any = None) -> pb.WatchSessionsResponse:
    change = session_event_pb2.Attempt(
        number=number, failure=failure or refused(), next_attempt_time=at(due)
    )
    return event(now, session(RECONNECTING, 0, next_attempt_time=at(due)), attempt=change)


def lost(due: float | None = 0.0) -> pb.WatchSessionsResponse:
    more = {"next_attempt_time": at(due)} if due is not None else {}
    after = session(RECONNECTING, 0, last_failure=refused("closed", "it dials anew"), **more)
    return moved(0, CONNECTED, after, "PEER_CLOSED")


def back(now: float) -> pb.WatchSessionsResponse:
    after = session(CONNECTED, now, generation=2, accounts=["DU1"])
    return moved(now, RECONNECTING, after, "HANDSHAKE_COMPLETED")


def told(*messages: Told, form: Format = Format.TABLE) -> list[str]:
    story = Story()
    return [str(line) for message in messages for line in story.tell(message, form)]


def test_an_outage_is_told_from_the_loss_to_the_return() -> None:
    head = "  11111111  client 7  "
    indent = " " * 14
    again = f"{clock(at(1.3))}{head}attempt 2: IB_CONN_001 again; the next attempt in 2.0 s,"
    returned = "RECONNECTING -> CONNECTED generation 2 after 12.3 s  HANDSHAKE_COMPLETED"
    assert told(lost(), attempt(0.1, 1, 1.3), attempt(1.3, 2, 3.3), back(12.3)) == [
        f"{clock(at(0))}{head}CONNECTED -> RECONNECTING  PEER_CLOSED",
        f"{indent}IB_CONN_001: closed",
        f"{indent}it dials anew",
        f"{indent}the next attempt follows at once",
        f"{clock(at(0.1))}{head}attempt 1: failed; the next attempt in 1.2 s, at {clock(at(1.3))}",
        f"{indent}IB_CONN_001: refused",
        f"{indent}look at it",
        f"{again} at {clock(at(3.3))}",
        f"{clock(at(12.3))}{head}{returned}  accounts DU1",
    ]


def test_another_cause_is_told_in_full() -> None:
    other = error_pb2.ConnectionFailure(reason="IB_CONN_002", message="in use", hint="wait")
    lines = told(attempt(0, 1, 1), attempt(1, 2, 2, other))
    assert "attempt 2: failed" in lines[-3]
    assert [line.strip() for line in lines[-2:]] == ["IB_CONN_002: in use", "wait"]


def test_words_that_change_do_not_bring_the_same_advice_again() -> None:
    lines = told(attempt(0, 1, 1, refused("7 s ago")), attempt(1, 2, 2, refused("8 s ago")))
    assert "attempt 2: IB_CONN_001 again" in lines[-2]
    assert lines[-1].strip() == "IB_CONN_001: 8 s ago"


def test_the_next_outage_tells_its_cause_again() -> None:
    lines = told(lost(), attempt(0.1, 1, 1), back(1), lost(), attempt(1.1, 1, 2), back(2))
    assert lines.count("              IB_CONN_001: closed") == 2
    assert lines.count("              IB_CONN_001: refused") == 2


def test_a_watcher_that_came_during_the_outage_knows_its_length_too() -> None:
    waits = session(RECONNECTING, -5, last_failure=refused(), next_attempt_time=at(1))
    lines = told(pb.WatchSessionsResponse(snapshot=waits), back(2.5))
    assert f"              the next attempt is due at {clock(at(1))}" in lines
    assert "CONNECTED generation 2 after 7.5 s" in lines[-1]


def test_after_a_reset_only_what_was_seen_since_counts() -> None:
    anew = pb.WatchSessionsResponse(reset=pb.Reset(reason="TOKEN_NOT_CONTINUED"))
    assert " after " not in told(lost(), anew, back(9))[-1]


def test_the_first_connect_is_no_return() -> None:
    after = session(CONNECTED, 1, generation=1)
    [line] = told(moved(1, CONNECTING, after, "HANDSHAKE_COMPLETED"))
    assert line.endswith("CONNECTING -> CONNECTED  HANDSHAKE_COMPLETED  accounts ")


def test_a_session_that_waits_for_an_operator_has_no_next_attempt() -> None:
    assert told(lost(None))[-1].strip() == "no attempt is planned"


def test_a_failed_session_says_why_even_if_it_said_so_before() -> None:
    failed = session(FAILED, 2, last_failure=refused(), disconnect_time=at(2))
    lines = told(attempt(1, 1, 2), moved(2, RECONNECTING, failed, "ATTEMPTS_EXHAUSTED"))
    assert lines[-2:] == ["              IB_CONN_001: refused", "              look at it"]


@pytest.mark.parametrize(
    "reason",
    ["OVERDUE", "MAINTENANCE_OVERRUN", "CIRCUIT_OPEN", "GATEWAY_DRAINING", "SOMETHING_NEW"],
)
def test_a_notice_is_told_with_its_hint(reason: str) -> None:
    notice = session_event_pb2.Notice(reason=reason, message="so it is", hint="do this")
    assert told(event(0, session(RECONNECTING), notice=notice)) == [
        f"{clock(at(0))}  11111111  client 7  {reason}  so it is",
        "              do this",
    ]


def test_an_alarm_does_not_repeat_the_hint_that_was_just_told() -> None:
    notice = session_event_pb2.Notice(reason="OVERDUE", message="still away", hint="look at it")
    lines = told(attempt(0, 1, 1), event(1, session(RECONNECTING), notice=notice))
    assert lines[-1].endswith("OVERDUE  still away")


def fact(kind: str, status: str, **more: Any) -> session_pb2.Condition:
    return session_pb2.Condition(
        type=kind, status=getattr(session_pb2, f"CONDITION_STATUS_{status}"), **more
    )


def test_a_condition_names_its_subject_and_the_gateways_number() -> None:
    farm = fact("MARKET_DATA_FARM", "FALSE", subject="usfarm", message="broken", tws_code=2103)
    [line] = told(event(0, session(CONNECTED), condition=farm))
    assert line.endswith("MARKET_DATA_FARM/usfarm is FALSE (2103): broken")


def test_interrupted_data_says_how_to_acknowledge() -> None:
    data = fact("DATA_CONTINUOUS", "FALSE", reason="NEW_GENERATION")
    first, second = told(event(0, session(CONNECTED), condition=data))
    assert first.endswith("DATA_CONTINUOUS is FALSE: NEW_GENERATION")
    assert second.endswith(f"gateway-broker sessions acknowledge {SESSION}")


def test_a_snapshot_tells_what_is_not_as_it_should_be_only() -> None:
    facts = [fact("UPSTREAM", "FALSE", message="lost"), fact("SECDEF_FARM", "TRUE", message="ok")]
    now = session(CONNECTED, conditions=facts, generation=3)
    first, second = told(pb.WatchSessionsResponse(snapshot=now))
    assert " generation 3" in first
    assert second.strip() == "UPSTREAM is FALSE: lost"


def test_in_json_a_message_is_a_line_and_nothing_is_left_out() -> None:
    gone = Interrupted(error=BrokerUnreachableError("gone", hint="wait"), retry_in=0.2, token="t")
    lines = told(attempt(0, 1, 1), attempt(1, 2, 2), gone, form=Format.JSON)
    first, second, third = (json.loads(line) for line in lines)
    assert first["event"]["attempt"]["failure"]["hint"] == "look at it"
    assert second["event"]["attempt"]["failure"]["hint"] == "look at it"
    assert third == {
        "resume_token": "t",
        "interrupted": {"message": "gone", "hint": HINT, "retry_in": 0.2},
    }


def updated(sequence: int, *, persisted: bool) -> pb.WatchSessionsResponse:
    after = session(CONNECTED, sequence=sequence)
    after.lease_ttl.FromSeconds(60 + sequence)
    change = session_event_pb2.Update(fields=["lease_ttl"], actor="alice")
    return event(sequence, after, persisted=persisted, updated=change)


def test_what_is_told_before_it_is_on_record_is_said_to_be_so_and_not_told_again() -> None:
    unkept = [updated(n, persisted=False) for n in (3, 4)]
    kept = [updated(n, persisted=True) for n in (3, 4, 5)]
    lines = told(*unkept, *kept)
    assert [line for line in lines if line.startswith("--")] == [
        "-- the record is behind: what follows is lost if the broker dies before it is written --",
        "-- all of that is on record now --",
    ]
    assert [line.partition("lease_ttl ")[2] for line in lines if "lease_ttl" in line] == [
        "63 s by alice",
        "64 s by alice",
        "65 s by alice",
    ]


def recalled(timeline: Timeline, *messages: pb.WatchSessionsResponse) -> list[str]:
    return [str(line) for message in messages for line in timeline.recall(message.event)]


def test_a_history_names_each_day_once() -> None:
    lines = recalled(Timeline(), lost(), back(3600), back(24 * 3600))
    days = [line for line in lines if line.startswith("-- ")]
    assert len(days) == len(set(days)) == 2


def test_a_history_tells_how_long_after_the_last_event_each_is() -> None:
    lines = recalled(Timeline(), lost(), attempt(0.1, 1, 1.3), back(12.3))
    heads = [line for line in lines if line[:2].isdigit()]
    assert [line[14:23].strip() for line in heads] == ["", "+100 ms", "+12 s"]
    assert "RECONNECTING -> CONNECTED generation 2 after 12.3 s" in heads[-1]


def test_a_history_sums_up_how_long_the_session_was_in_which_state() -> None:
    timeline = Timeline()
    opened = moved(0, CONNECTING, session(CONNECTED, 0), "HANDSHAKE_COMPLETED")
    second = session(RECONNECTING, 70, last_failure=refused())
    recalled(timeline, opened, lost(), back(20), moved(70, CONNECTED, second, "PEER_CLOSED"))
    lines = timeline.summary(second, NOW + timedelta(seconds=100))
    assert [" ".join(str(line).split()) for line in lines] == [
        "CONNECTED 50.0% 50 s (2 times, the longest 50 s)",
        "RECONNECTING 50.0% 50 s (2 times, the longest 30 s)",
        f"It is RECONNECTING, since {moment(at(70))} (30 s)",
    ]


def test_a_history_says_which_events_are_gone_and_how_the_session_ended() -> None:
    timeline = Timeline()
    failed = session(FAILED, 2, sequence=8, last_failure=refused(), disconnect_time=at(2))
    first, *_ = recalled(timeline, moved(2, RECONNECTING, failed, "ATTEMPTS_EXHAUSTED"))
    assert first == "-- the first 7 events are no longer kept --"
    [last] = timeline.summary(failed, NOW)
    assert str(last) == f"It is over: FAILED, IB_CONN_001, at {moment(at(2))}"
    [nothing] = Timeline().summary(failed, NOW)
    assert "nothing" in str(nothing)
