"""The live table of `sessions watch`: what is wrong comes first, on any screen."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp
from ibgateway.broker.v1 import error_pb2, session_event_pb2, session_pb2
from ibgateway.broker.v1 import session_service_pb2 as pb
from ibgateway.client import BrokerUnreachableError, Interrupted, Resumed
from rich.console import Console

from broker.cli.board import Board
from broker.cli.client import Filter, Told
from broker.session.model import SessionState

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
COMPLETE = pb.WatchSessionsResponse(snapshot_complete=pb.SnapshotComplete())
HINT = "Nothing listens there: look whether the Gateway is running, and whether it has logged in."


def at(seconds: float) -> Timestamp:
    time = Timestamp()
    time.FromDatetime(NOW + timedelta(seconds=seconds))
    return time


def session(number: int, state: str, since: float = 0, **more: Any) -> session_pb2.Session:
    return session_pb2.Session(
        session_id=f"{number:08}-1111-4111-8111-111111111111",
        gateway_id="default",
        client_id=number,
        owner="momentum",
        state=getattr(session_pb2, f"SESSION_STATE_{state}"),
        state_time=at(since),
        **more,
    )


def away(number: int, since: float = -5, **more: Any) -> session_pb2.Session:
    failure = error_pb2.ConnectionFailure(reason="IB_CONN_001", message="it refused", hint=HINT)
    fields: dict[str, Any] = {"last_failure": failure, "attempt": 3, "next_attempt_time": at(4)}
    return session(number, "RECONNECTING", since, **(fields | more))


def snapshot(found: session_pb2.Session) -> pb.WatchSessionsResponse:
    return pb.WatchSessionsResponse(snapshot=found)


def event(after: session_pb2.Session) -> pb.WatchSessionsResponse:
    return pb.WatchSessionsResponse(
        event=session_event_pb2.SessionEvent(
            session_id=after.session_id,
            time=at(0),
            persisted=True,
            session=after,
            notice=session_event_pb2.Notice(reason="OVERDUE", message="so it is"),
        )
    )


def board(*told: Told, wanted: Filter | None = None) -> Board:
    made = Board("127.0.0.1:50051", wanted or Filter(), NOW)
    for item in told:
        made.take(item, NOW)
    return made


def drawn(shown: Board, width: int = 80, height: int = 24) -> list[str]:
    out = io.StringIO()
    Console(file=out, width=width, height=height, force_terminal=False).print(shown)
    return out.getvalue().splitlines()


def rows(shown: Board) -> list[str]:
    return [line.split()[0][7:] for line in drawn(shown) if line[:7] == "0000000"]


def test_what_is_wrong_comes_first_and_of_that_what_is_so_for_longest() -> None:
    broken = session_pb2.Condition(type="UPSTREAM", status=session_pb2.CONDITION_STATUS_FALSE)
    shown = board(
        snapshot(session(1, "CONNECTED")),
        snapshot(session(2, "CONNECTED", conditions=[broken])),
        snapshot(session(3, "CONNECTING")),
        snapshot(away(4, -5)),
        snapshot(away(5, -50)),
        snapshot(session(6, "FAILED")),
        COMPLETE,
    )
    assert rows(shown) == ["6", "5", "4", "3", "2", "1"]
    assert "1 FAILED, 2 RECONNECTING, 1 CONNECTING, 2 CONNECTED" in drawn(shown)[0]


def test_a_session_that_is_away_says_for_how_long_why_and_what_comes_next() -> None:
    lines = drawn(board(snapshot(away(1)), COMPLETE))
    [row] = [line for line in lines if line.startswith("00000001")]
    assert row.endswith("RECONNECTING  5.0 s  attempt 4 in 4.0 s")
    assert "          IB_CONN_001: it refused" in lines
    assert HINT in " ".join(" ".join(lines).split())


def test_one_that_waits_for_an_operator_has_no_attempt() -> None:
    waits = away(1)
    waits.ClearField("next_attempt_time")
    assert any("none is planned" in line for line in drawn(board(snapshot(waits), COMPLETE)))


def test_time_passes_though_nothing_happens() -> None:
    shown = board(snapshot(away(1)), COMPLETE)
    shown.take(None, NOW + timedelta(seconds=70))
    [row] = [line for line in drawn(shown) if line.startswith("00000001")]
    assert "1 m 15 s" in row
    assert "attempt 4 now" in row


def test_advice_is_given_once() -> None:
    lines = drawn(board(snapshot(away(1)), snapshot(away(2)), COMPLETE))
    assert sum("Nothing listens there" in line for line in lines) == 1
    assert sum("it refused" in line for line in lines) == 2


def test_a_hundred_sessions_fit_a_small_terminal() -> None:
    calm = [snapshot(session(n, "CONNECTED")) for n in range(1, 100)]
    shown = board(snapshot(away(100)), *calm, COMPLETE, *(event(away(100)) for _ in range(20)))
    for width, height in ((80, 24), (60, 12), (200, 50)):
        lines = drawn(shown, width, height)
        assert len(lines) <= height
        assert max(map(len, lines)) <= width
        assert any(line.startswith("00000100") for line in lines)
        assert any(line.startswith("… and ") for line in lines)


def test_a_broker_that_is_gone_is_said_in_the_second_line_until_it_is_back() -> None:
    gone = Interrupted(error=BrokerUnreachableError("nobody answers"), retry_in=1.0, token="t")
    shown = board(snapshot(session(1, "CONNECTED")), COMPLETE, gone)
    shown.take(None, NOW + timedelta(seconds=12))
    assert drawn(shown)[1].startswith("NO BROKER for 12 s: what is shown is of ")
    shown.take(Resumed(token="t"), NOW)
    assert not any("NO BROKER" in line for line in drawn(shown))
    assert any("it is back" in line for line in drawn(shown))


def test_a_stop_of_the_broker_is_announced() -> None:
    shown = board(COMPLETE, pb.WatchSessionsResponse(draining=pb.Draining()))
    assert drawn(shown)[1] == "the broker stops; the watch waits for the next one"


def test_sessions_that_end_leave_and_those_that_failed_stay() -> None:
    shown = board(snapshot(session(1, "CONNECTED")), snapshot(session(2, "CONNECTED")), COMPLETE)
    shown.take(event(session(1, "DISCONNECTED")), NOW)
    shown.take(event(session(2, "FAILED")), NOW)
    assert rows(shown) == ["2"]


def test_failures_without_end_do_not_fill_the_memory() -> None:
    shown = board(COMPLETE, *(event(session(n, "FAILED")) for n in range(1, 100)))
    assert "20 FAILED" in drawn(shown)[0]


def test_a_session_that_leaves_the_filter_leaves_the_board() -> None:
    wanted = Filter.of(
        session_ids=(),
        gateway_id="",
        owner="",
        labels=None,
        states=[SessionState.RECONNECTING],  # type: ignore[list-item]
        include_final=False,
    )
    shown = board(snapshot(away(1)), COMPLETE, wanted=wanted)
    shown.take(event(session(1, "CONNECTED")), NOW)
    assert drawn(shown)[0].endswith("no session")


def test_a_reset_replaces_what_was_known() -> None:
    shown = board(snapshot(session(1, "CONNECTED")), COMPLETE)
    shown.take(pb.WatchSessionsResponse(reset=pb.Reset(reason="TOKEN_TOO_OLD")), NOW)
    shown.take(snapshot(session(2, "CONNECTED")), NOW)
    assert rows(shown) == ["1"]
    shown.take(COMPLETE, NOW)
    assert rows(shown) == ["2"]
