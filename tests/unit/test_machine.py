"""The session core: every (state, input) pair, and what each input does."""

from __future__ import annotations

import uuid
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, get_args

import pytest

from broker.errors import ErrorCode, IllegalInputError, Phase
from broker.session import machine
from broker.session.effects import Dial, EndLink, HoldLink, Rest
from broker.session.inputs import (
    AttemptFailed,
    BrokerRestarted,
    BrokerStopping,
    ConditionSeen,
    EndRequested,
    Input,
    LeaseChanged,
    LinkEnded,
    LinkLost,
    LinkUp,
    TaskCrashed,
    Told,
)
from broker.session.model import (
    DISCLAIMER,
    Attempt,
    ClientIdPolicy,
    CloseReason,
    Condition,
    ConditionChange,
    ConditionStatus,
    Failure,
    Session,
    SessionNotice,
    SessionSpec,
    SessionState,
    Transition,
    Update,
)

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
CORRELATION = uuid.UUID("5f0c7a57-6a7e-4b8d-9d4b-0d0f3a1f2c11")
UP = LinkUp(server_version=178, accounts=("DU1",))
END = EndRequested(CloseReason.CLOSE_REQUESTED, "alice")


def failure(code: ErrorCode = ErrorCode.CONNECTION) -> Failure:
    return Failure(code=code, phase=Phase.TCP, message="no", hint="wait", time=NOW)


def failed(code: ErrorCode = ErrorCode.CONNECTION, next_client_id: int | None = None) -> Input:
    return AttemptFailed(failure(code), 1.0, next_client_id)


def spec(**changes: object) -> SessionSpec:
    base = SessionSpec(
        session_id=uuid.UUID("0b8f4a6e-6a60-4c12-8f7f-0a6f2b9f9d01"),
        gateway_id="default",
        host="127.0.0.1",
        port=4002,
        owner="alice",
        requested_client_id=7,
        client_id_policy=ClientIdPolicy.INCREMENT,
        readonly=False,
        timeout=30.0,
        max_attempts=3,
        reconnect_max_attempts=None,
        return_immediately=False,
    )
    return replace(base, **changes)  # type: ignore[arg-type]


def step(session: Session, item: Input, now: datetime = NOW) -> machine.Step:
    return machine.step(session, item, now=now, correlation_id=CORRELATION)


def opened(**changes: object) -> machine.Step:
    return machine.open_session(spec(**changes), 7, now=NOW, correlation_id=CORRELATION)


def in_state(state: SessionState, *, closing: bool = False, **changes: object) -> Session:
    """A session driven to a state by inputs, never built by hand."""
    session = opened(**changes).session
    path: dict[SessionState, tuple[Input, ...]] = {
        SessionState.CONNECTING: (),
        SessionState.CONNECTED: (UP,),
        SessionState.RECONNECTING: (UP, LinkLost(failure(), "PEER_CLOSED")),
        SessionState.FAILED: (failed(ErrorCode.AUTHENTICATION),),
        SessionState.DISCONNECTED: (END, LinkEnded()),
    }
    for item in (*path[state], *((END,) if closing else ())):
        session = step(session, item).session
    return session


CONNECTING, CONNECTED, RECONNECTING, FAILED, DISCONNECTED = (
    SessionState.CONNECTING,
    SessionState.CONNECTED,
    SessionState.RECONNECTING,
    SessionState.FAILED,
    SessionState.DISCONNECTED,
)
LOST = LinkLost(failure(), "PEER_CLOSED")
NOTICE = SessionNotice("OVERDUE", "CONNECTING", "still CONNECTING", "look", NOW)


def condition(
    kind: str = "UPSTREAM",
    status: ConditionStatus = ConditionStatus.FALSE,
    *,
    subject: str = "",
    reason: str = "TOLD",
    time: datetime = NOW,
) -> Condition:
    return Condition(kind, subject, status, reason, "as the Gateway says", time)


def crashed(in_a_row: int, time: datetime = NOW) -> TaskCrashed:
    return TaskCrashed(replace(failure(), time=time), 1.0, in_a_row)


def disclaimer(grace: float, time: datetime = NOW) -> AttemptFailed:
    unaccepted = Failure(
        code=ErrorCode.AUTHENTICATION,
        phase=Phase.START_API,
        message="accept it",
        hint="a human must",
        time=time,
        tws_code=DISCLAIMER,
    )
    return AttemptFailed(unaccepted, 1.0, auth_grace=grace)


STOPPING = BrokerStopping(failure())
RESTARTED = BrokerRestarted(failure())

# Every input, and the state after it in CONNECTING, CONNECTED and RECONNECTING; None is a refusal.
# While closing only that the link ended and that the broker was restarted are taken, and a final
# session takes none.
TABLE: dict[str, tuple[Input, tuple[SessionState | None, ...]]] = {
    "up": (UP, (CONNECTED, None, CONNECTED)),
    "up, with conditions": (
        LinkUp(178, ("DU1",), (condition(),)),
        (CONNECTED, None, CONNECTED),
    ),
    "failed": (failed(), (CONNECTING, None, RECONNECTING)),
    "failed for good": (failed(ErrorCode.INCOMPATIBLE_VERSION), (FAILED, None, FAILED)),
    "id in use, another held": (failed(ErrorCode.CLIENT_ID_IN_USE, 8), (CONNECTING, None, None)),
    "id in use, none left": (failed(ErrorCode.CLIENT_ID_IN_USE), (FAILED, None, RECONNECTING)),
    "disclaimer, within the grace": (disclaimer(30.0), (CONNECTING, None, RECONNECTING)),
    "disclaimer, without a grace": (disclaimer(0.0), (FAILED, None, RECONNECTING)),
    "lost": (LOST, (None, RECONNECTING, None)),
    "lost, drained": (LinkLost(failure(), "PEER_CLOSED", None), (None, RECONNECTING, None)),
    "crashed": (crashed(1), (CONNECTING, RECONNECTING, RECONNECTING)),
    "crashed twice": (crashed(2), (CONNECTING, RECONNECTING, RECONNECTING)),
    "crashed three times": (crashed(3), (FAILED, RECONNECTING, FAILED)),
    "condition": (ConditionSeen(condition()), (None, CONNECTED, None)),
    "told": (Told(NOTICE), (CONNECTING, CONNECTED, RECONNECTING)),
    "end": (END, (CONNECTING, CONNECTED, RECONNECTING)),
    "link ended": (LinkEnded(), (None, None, None)),
    "lease changed": (LeaseChanged(60.0, "alice"), (CONNECTING, CONNECTED, RECONNECTING)),
    "broker stopping": (STOPPING, (CONNECTING, RECONNECTING, RECONNECTING)),
    "broker restarted": (RESTARTED, (DISCONNECTED, RECONNECTING, RECONNECTING)),
}
LIVING = (CONNECTING, CONNECTED, RECONNECTING)
CASES = [
    pytest.param(state, closing, item, after, id=f"{state}{'-closing' * closing}-{name}")
    for name, (item, row) in TABLE.items()
    for state, closing, after in (
        *((state, False, after) for state, after in zip(LIVING, row, strict=True)),
        *(
            (state, True, DISCONNECTED if isinstance(item, LinkEnded | BrokerRestarted) else None)
            for state in LIVING
        ),
        (FAILED, False, None),
        (DISCONNECTED, False, None),
    )
]


def test_the_table_has_every_input() -> None:
    assert {type(item) for item, _ in TABLE.values()} == set(get_args(Input))


@pytest.mark.requirement("AC-008")
@pytest.mark.parametrize(("state", "closing", "item", "after"), CASES)
def test_every_state_takes_just_its_inputs(
    state: SessionState, closing: bool, item: Input, after: SessionState | None
) -> None:
    session = in_state(state, closing=closing)
    if after is None:
        with pytest.raises(IllegalInputError):
            step(session, item)
        assert session == in_state(state, closing=closing)
    else:
        done = step(session, item)
        assert done.session.state is after
        if state is RECONNECTING and not closing and item in (STOPPING, RESTARTED):
            # It dials on, whichever broker it belongs to.
            assert done == machine.Step(session, ())
        else:
            assert done.events
            assert done.events[-1].session == done.session


@pytest.mark.requirement("AC-008")
def test_there_are_five_states_and_nine_transitions_numbered_one_to_nine() -> None:
    assert len(SessionState) == 5
    assert sorted(machine.TRANSITIONS.values()) == list(range(1, 10))
    assert all(not source.is_final or source is DISCONNECTED for source, _ in machine.TRANSITIONS)


def test_every_transition_can_be_reached() -> None:
    lost = LinkLost(failure(), "PEER_CLOSED")
    stories: list[tuple[Input, ...]] = [
        (UP, lost, UP, END, LinkEnded()),
        (failed(ErrorCode.AUTHENTICATION),),
        (END, LinkEnded()),
        (UP, lost, failed(ErrorCode.INCOMPATIBLE_VERSION)),
        (UP, lost, END, LinkEnded()),
    ]
    seen = set()
    for story in stories:
        first = opened()
        session, events = first.session, list(first.events)
        for item in story:
            done = step(session, item)
            session = done.session
            events += done.events
        seen |= {event.change.number for event in events if isinstance(event.change, Transition)}
    assert seen == set(range(1, 10))


def test_an_open_that_fails_for_good_keeps_the_code_of_its_last_failure() -> None:
    session = opened(max_attempts=2, client_id_policy=ClientIdPolicy.EXACT).session
    session = step(session, failed(ErrorCode.CONNECTION)).session
    assert (session.state, session.attempt) == (CONNECTING, 1)
    session = step(session, failed(ErrorCode.TIMEOUT)).session
    assert session.state is FAILED
    assert session.last_failure is not None
    assert session.last_failure.code is ErrorCode.TIMEOUT


@pytest.mark.requirement("AC-004")
def test_an_authentication_failure_is_never_retried() -> None:
    session = step(opened(max_attempts=100).session, failed(ErrorCode.AUTHENTICATION)).session
    assert session.state is FAILED
    assert session.error_count == 1


def test_a_failed_attempt_says_when_the_next_one_is_due() -> None:
    done = step(opened().session, AttemptFailed(failure(), 2.5))
    [event] = done.events
    assert isinstance(event.change, Attempt)
    assert event.change.next_attempt_time == NOW + timedelta(seconds=2.5)
    assert done.session.next_attempt_time == NOW + timedelta(seconds=2.5)


@pytest.mark.requirement("AC-005")
def test_increment_dials_ten_ids_and_then_fails_with_002() -> None:
    session = opened(max_attempts=1).session
    dialled = [session.client_id]
    while machine.moves_client_id(session, ErrorCode.CLIENT_ID_IN_USE):
        session = step(
            session, failed(ErrorCode.CLIENT_ID_IN_USE, next_client_id=session.client_id + 1)
        ).session
        dialled.append(session.client_id)
    assert dialled == list(range(7, 17))
    assert (session.state, session.attempt, session.client_id_changed) == (CONNECTING, 0, True)
    session = step(session, failed(ErrorCode.CLIENT_ID_IN_USE)).session
    assert session.state is FAILED


def test_exact_keeps_its_id_and_backs_off() -> None:
    session = opened(client_id_policy=ClientIdPolicy.EXACT).session
    assert not machine.moves_client_id(session, ErrorCode.CLIENT_ID_IN_USE)
    with pytest.raises(IllegalInputError):
        step(session, failed(ErrorCode.CLIENT_ID_IN_USE, next_client_id=8))
    session = step(session, failed(ErrorCode.CLIENT_ID_IN_USE)).session
    assert (session.state, session.client_id, session.attempt) == (CONNECTING, 7, 1)


def test_a_session_that_was_connected_never_changes_its_client_id() -> None:
    session = in_state(RECONNECTING)
    assert not machine.moves_client_id(session, ErrorCode.CLIENT_ID_IN_USE)


def test_without_a_budget_a_lost_link_is_reconnecting_and_then_failed() -> None:
    session = in_state(CONNECTED, reconnect_max_attempts=0)
    done = step(session, LinkLost(failure(), "PEER_CLOSED"))
    assert [event.session.state for event in done.events] == [RECONNECTING, FAILED]
    assert done.events[0].session.next_attempt_time is None
    assert done.session.last_failure == failure()


def moves(done: machine.Step) -> list[tuple[int, str]]:
    return [
        (event.change.number, event.change.reason)
        for event in done.events
        if isinstance(event.change, Transition)
    ]


def test_a_broker_that_stops_or_died_leaves_a_link_lost_and_a_session_that_dials_at_once() -> None:
    for item, reason in ((STOPPING, "BROKER_STOPPING"), (RESTARTED, "BROKER_RESTARTED")):
        done = step(in_state(CONNECTED), item)
        assert moves(done) == [(5, reason)]
        assert done.session.next_attempt_time == NOW
        assert done.session.last_failure == failure()


@pytest.mark.parametrize(
    "outlives", [{"return_immediately": True}, {"request_id": uuid.UUID(int=4)}]
)
def test_an_open_whose_caller_can_find_out_what_came_of_it_outlives_the_broker(
    outlives: dict[str, Any],
) -> None:
    session = in_state(CONNECTING, closing=False, **outlives)
    for item in (STOPPING, RESTARTED):
        assert step(session, item) == machine.Step(session, ())


def test_an_open_that_only_its_caller_knows_of_ends_with_the_broker() -> None:
    session = in_state(CONNECTING)
    stopping = step(session, STOPPING).session
    assert (stopping.state, stopping.close_reason) == (CONNECTING, CloseReason.BROKER_STOPPING)
    assert moves(step(stopping, LinkEnded())) == [(4, "BROKER_STOPPING")]
    died = step(session, RESTARTED)
    assert moves(died) == [(4, "CALLER_GONE")]
    assert died.session.close_reason == CloseReason.CALLER_GONE


@pytest.mark.parametrize(("state", "number"), [(CONNECTING, 4), (CONNECTED, 6), (RECONNECTING, 9)])
def test_an_end_that_the_broker_died_over_is_ended_by_the_next_as_it_was_asked_for(
    state: SessionState, number: int
) -> None:
    assert moves(step(in_state(state, closing=True), RESTARTED)) == [(number, "CLOSE_REQUESTED")]


def test_without_a_budget_a_session_fails_when_its_broker_does() -> None:
    done = step(in_state(CONNECTED, reconnect_max_attempts=0), RESTARTED)
    assert moves(done) == [(5, "BROKER_RESTARTED"), (8, "ATTEMPTS_EXHAUSTED")]


def test_a_lease_of_another_length_is_an_update_and_one_of_the_same_is_no_event() -> None:
    done = step(in_state(CONNECTED), LeaseChanged(60.0, "alice"))
    assert [event.change for event in done.events] == [Update(("lease_ttl",), "alice")]
    assert done.session.lease_ttl == 60.0
    assert step(done.session, LeaseChanged(60.0, "bob")) == machine.Step(done.session, ())


def test_needs_are_derived_from_the_session_alone() -> None:
    assert machine.needed(in_state(CONNECTING)) == Dial(7, None)
    assert machine.needed(in_state(CONNECTED)) == HoldLink()
    assert machine.needed(in_state(CONNECTED, closing=True)) == EndLink()
    assert machine.needed(in_state(CONNECTING, closing=True)) == EndLink()
    assert machine.needed(in_state(FAILED)) == Rest()


def test_fold_refuses_a_gap_a_foreign_edge_and_a_wrong_state() -> None:
    first = opened()
    up = step(first.session, UP)
    [opening], [connected] = first.events, up.events
    assert machine.fold(machine.fold(None, opening), connected) == up.session
    with pytest.raises(IllegalInputError, match="event 2"):
        machine.fold(None, connected)
    with pytest.raises(IllegalInputError, match="does not leave"):
        machine.fold(opening.session, replace(opening, sequence=2))
    with pytest.raises(IllegalInputError, match="after"):
        machine.fold(opening.session, replace(connected, session=opening.session))


# -- conditions ------------------------------------------------------------------------


def seen(session: Session, *items: Condition) -> machine.Step:
    done = machine.Step(session, ())
    for item in items:
        after = step(done.session, ConditionSeen(item))
        done = machine.Step(after.session, (*done.events, *after.events))
    return done


def test_a_condition_that_is_told_again_changes_nothing() -> None:
    known = seen(in_state(CONNECTED), condition()).session
    again = step(known, ConditionSeen(condition(time=NOW + timedelta(hours=1))))
    assert again == machine.Step(known, ())


def test_a_change_of_a_condition_is_one_event_that_holds_it() -> None:
    broken = condition("MARKET_DATA_FARM", subject="usfarm")
    well = replace(broken, status=ConditionStatus.TRUE, reason="OK")
    done = seen(in_state(CONNECTED), broken, well)
    assert [event.change for event in done.events] == [
        ConditionChange(broken),
        ConditionChange(well),
    ]
    assert done.session.conditions == (well,)


def test_farms_differ_by_name() -> None:
    farms = [condition("MARKET_DATA_FARM", subject=name) for name in ("usfarm", "eufarm")]
    assert seen(in_state(CONNECTED), *farms).session.conditions == tuple(farms[::-1])


def many(count: int) -> tuple[Condition, ...]:
    return tuple(condition("MARKET_DATA_FARM", subject=f"farm{n:03}") for n in range(count))


@pytest.mark.parametrize("in_handshake", [True, False])
def test_a_gateway_that_names_farms_without_end_cannot_make_a_session_grow(
    in_handshake: bool,
) -> None:
    up = LinkUp(178, ("DU1",), many(1000) if in_handshake else ())
    session = step(in_state(RECONNECTING), up).session
    session = seen(session, *many(1000)).session
    assert len(session.conditions) <= machine.CONDITIONS
    known = session.conditions[0]
    other = replace(known, status=ConditionStatus.UNKNOWN)
    assert other in seen(session, other).session.conditions


def test_what_was_told_in_the_handshake_is_known_once_it_is_complete() -> None:
    told = (condition("MARKET_DATA_FARM", ConditionStatus.TRUE, subject="usfarm"), condition())
    done = step(opened().session, LinkUp(178, ("DU1",), told))
    assert done.session.conditions == told
    # What is well is in the session of the transition; what is not is an event of its own.
    assert [event.change for event in done.events[1:]] == [ConditionChange(condition())]


def test_conditions_end_with_the_link_that_told_them() -> None:
    for end in (LOST, crashed(1)):
        session = seen(in_state(CONNECTED), condition()).session
        session = step(session, end).session
        assert session.conditions == ()
        session = step(session, UP).session
        assert [item.type for item in session.conditions] == [machine.DATA_CONTINUOUS]


def test_data_are_continuous_until_a_second_link_and_then_not_until_acknowledged() -> None:
    assert in_state(CONNECTED).conditions == ()
    done = step(in_state(RECONNECTING), UP)
    [told] = done.session.conditions
    assert (told.type, told.status, told.reason) == (
        "DATA_CONTINUOUS",
        ConditionStatus.FALSE,
        "NEW_GENERATION",
    )
    assert done.events[-1].change == ConditionChange(told)
    acknowledged = replace(told, status=ConditionStatus.TRUE, reason="ACKNOWLEDGED")
    session = seen(done.session, acknowledged).session
    assert session.conditions == (acknowledged,)
    [again] = step(step(session, LOST).session, UP).session.conditions
    assert again.status is ConditionStatus.FALSE


# -- failures in a row -----------------------------------------------------------------


def later(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def since(session: Session) -> datetime | None:
    assert session.last_failure is not None
    return session.last_failure.since


def fail(session: Session, seconds: float, code: ErrorCode = ErrorCode.CONNECTION) -> Session:
    item = AttemptFailed(replace(failure(code), time=later(seconds)), 1.0)
    return step(session, item, later(seconds)).session


def test_failures_of_one_kind_remember_when_the_first_of_them_was() -> None:
    session = fail(fail(opened(max_attempts=9).session, 1), 2)
    assert since(session) == later(1)
    session = fail(session, 3, ErrorCode.TIMEOUT)
    assert since(session) == later(3)
    session = fail(session, 4)
    assert since(session) == later(4)


def test_a_lost_link_starts_the_count_of_failures_anew() -> None:
    session = fail(opened(max_attempts=9).session, 1)
    session = step(session, UP, later(2)).session
    lost = LinkLost(replace(failure(), time=later(3)), "PEER_CLOSED")
    session = step(session, lost, later(3)).session
    assert since(fail(fail(session, 4), 5)) == later(4)


def test_a_crash_of_a_session_without_a_link_is_a_failed_attempt() -> None:
    for state in (CONNECTING, RECONNECTING):
        before = in_state(state)
        [event] = step(before, crashed(1)).events
        assert isinstance(event.change, Attempt)
        assert event.session.attempt == before.attempt + 1
        assert event.session.next_attempt_time == NOW + timedelta(seconds=1)
        done = step(event.session, crashed(3))
        assert done.session.state is FAILED
        assert done.session.last_failure is not None
        assert done.session.last_failure.code is ErrorCode.CONNECTION


def test_a_disclaimer_is_waited_for_until_the_grace_is_over() -> None:
    session = opened(max_attempts=99).session
    for seconds in (1, 10, 30.9):
        session = step(session, disclaimer(30.0, later(seconds)), later(seconds)).session
        assert session.state is CONNECTING
    session = step(session, disclaimer(30.0, later(31)), later(31)).session
    assert session.state is FAILED


def test_another_failure_between_begins_the_grace_anew() -> None:
    session = step(opened(max_attempts=99).session, disclaimer(30.0, later(1)), later(1)).session
    session = fail(session, 20)
    session = step(session, disclaimer(30.0, later(40)), later(40)).session
    assert session.state is CONNECTING


def test_the_grace_does_not_outlast_the_attempts() -> None:
    session = opened(max_attempts=2).session
    session = step(session, disclaimer(30.0, later(1)), later(1)).session
    assert step(session, disclaimer(30.0, later(2)), later(2)).session.state is FAILED


def test_a_session_that_reconnects_without_a_budget_waits_for_a_human_for_ever() -> None:
    session = in_state(RECONNECTING)
    for hours in range(1, 60):
        time = later(3600 * hours)
        session = step(session, disclaimer(30.0, time), time).session
    assert (session.state, session.attempt) == (RECONNECTING, 59)
    assert since(session) == later(3600)


def test_a_session_that_reconnects_with_a_budget_waits_for_the_grace_only() -> None:
    session = in_state(RECONNECTING, reconnect_max_attempts=99)
    session = step(session, disclaimer(30.0, later(1)), later(1)).session
    assert session.state is RECONNECTING
    assert step(session, disclaimer(30.0, later(31)), later(31)).session.state is FAILED


@pytest.mark.parametrize("budget", [1, 2, 5])
def test_a_budget_of_reconnecting_is_the_number_of_dials(budget: int) -> None:
    session = in_state(RECONNECTING, reconnect_max_attempts=budget)
    for number in range(1, budget):
        session = fail(session, number)
        assert (session.state, session.attempt) == (RECONNECTING, number)
    session = fail(session, budget)
    assert (session.state, session.attempt) == (FAILED, budget)


def test_a_link_gives_a_session_its_budget_back() -> None:
    session = fail(in_state(RECONNECTING, reconnect_max_attempts=2), 1)
    session = step(step(session, UP).session, LOST).session
    assert (session.attempt, session.generation) == (0, 2)
    assert fail(session, 2).state is RECONNECTING


def test_a_lost_link_says_when_it_is_dialled_again_unless_the_gateway_is_drained() -> None:
    for delay, due in ((0.0, NOW), (2.5, later(2.5)), (None, None)):
        session = step(in_state(CONNECTED), LinkLost(failure(), "PEER_CLOSED", delay)).session
        assert session.next_attempt_time == due


def test_a_condition_keeps_the_time_of_its_last_change_of_status() -> None:
    """1100 and 2110 in turn: IB's servers have been lost since the first of them."""
    lost = condition(reason="CONNECTIVITY_LOST")
    broken = condition(reason="CONNECTIVITY_BROKEN", time=NOW + timedelta(minutes=4))
    done = seen(in_state(CONNECTED), lost, broken)
    assert done.session.conditions == (replace(broken, transition_time=NOW),)
    assert done.events[-1].change == ConditionChange(done.session.conditions[0])


def test_no_number_of_farms_hides_that_data_was_interrupted_or_that_ib_is_lost() -> None:
    session = step(in_state(RECONNECTING), LinkUp(178, ("DU1",), many(1000))).session
    session = seen(session, condition("UPSTREAM")).session
    assert {item.type for item in session.conditions} >= {machine.DATA_CONTINUOUS, "UPSTREAM"}


def test_a_crash_is_a_failure_in_a_row_as_any_other() -> None:
    session = opened(max_attempts=9).session
    for seconds in (1, 2):
        session = step(session, crashed(1, later(seconds)), later(seconds)).session
        assert since(session) == later(1)
    assert since(fail(session, 3)) == later(1)
