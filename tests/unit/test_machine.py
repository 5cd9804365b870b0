"""The session core: every (state, input) pair, and random walks under Hypothesis."""

from __future__ import annotations

import itertools
import uuid
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from broker.errors import ErrorCode, IllegalInputError, Phase
from broker.session import machine
from broker.session.effects import Dial, EndLink, HoldLink, Rest
from broker.session.inputs import (
    AttemptFailed,
    BrokerRestarted,
    EndRequested,
    Input,
    LinkEnded,
    LinkLost,
    LinkUp,
)
from broker.session.model import (
    Attempt,
    ClientIdPolicy,
    CloseReason,
    Failure,
    Session,
    SessionEvent,
    SessionSpec,
    SessionState,
    Transition,
)

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
CORRELATION = uuid.UUID("5f0c7a57-6a7e-4b8d-9d4b-0d0f3a1f2c11")
UP = LinkUp(server_version=178, accounts=("DU1",))
END = EndRequested(CloseReason.CLOSE_REQUESTED, "alice")
STATES = tuple(SessionState)


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


INPUTS: tuple[Input, ...] = (
    UP,
    failed(),
    failed(ErrorCode.INCOMPATIBLE_VERSION),
    LinkLost(failure(), "PEER_CLOSED"),
    END,
    LinkEnded(),
    BrokerRestarted(),
)
CONNECTING, CONNECTED, RECONNECTING, FAILED, DISCONNECTED = (
    SessionState.CONNECTING,
    SessionState.CONNECTED,
    SessionState.RECONNECTING,
    SessionState.FAILED,
    SessionState.DISCONNECTED,
)
# (state, closing) -> the state after each of INPUTS, None where it is refused.
EXPECTED: dict[tuple[SessionState, bool], tuple[SessionState | None, ...]] = {
    (CONNECTING, False): (CONNECTED, CONNECTING, FAILED, None, CONNECTING, None, DISCONNECTED),
    (CONNECTED, False): (None, None, None, RECONNECTING, CONNECTED, None, DISCONNECTED),
    (RECONNECTING, False): (
        CONNECTED,
        RECONNECTING,
        FAILED,
        None,
        RECONNECTING,
        None,
        DISCONNECTED,
    ),
    (CONNECTING, True): (None, None, None, None, None, DISCONNECTED, DISCONNECTED),
    (CONNECTED, True): (None, None, None, None, None, DISCONNECTED, DISCONNECTED),
    (RECONNECTING, True): (None, None, None, None, None, DISCONNECTED, DISCONNECTED),
    (FAILED, False): (None,) * 7,
    (DISCONNECTED, False): (None,) * 7,
}


@pytest.mark.requirement("AC-008")
@pytest.mark.parametrize(
    ("state", "closing", "item", "after"),
    [
        (state, closing, item, after)
        for (state, closing), row in EXPECTED.items()
        for item, after in zip(INPUTS, row, strict=True)
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Input) else str(value),
)
def test_every_state_takes_just_its_inputs(
    state: SessionState, closing: bool, item: Input, after: SessionState | None
) -> None:
    session = in_state(state, closing=closing)
    if after is None:
        before = session
        with pytest.raises(IllegalInputError):
            step(session, item)
        assert session == before
    else:
        assert step(session, item).session.state is after


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
    assert done.session.last_failure == failure()


def test_a_session_left_by_a_crash_is_finalised_by_5_and_9_or_by_4() -> None:
    for state, numbers in ((CONNECTED, [5, 9]), (CONNECTING, [4]), (RECONNECTING, [9])):
        done = step(in_state(state), BrokerRestarted())
        changes = [event.change for event in done.events]
        assert [change.number for change in changes if isinstance(change, Transition)] == numbers
        assert done.session.close_reason == CloseReason.BROKER_RESTARTED


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


class Walk(RuleBasedStateMachine):
    """Random inputs, legal or not: the invariants hold after each."""

    @initialize(
        policy=st.sampled_from(ClientIdPolicy),
        max_attempts=st.integers(1, 4),
        budget=st.none() | st.integers(0, 3),
    )
    def open(self, policy: ClientIdPolicy, max_attempts: int, budget: int | None) -> None:
        first = opened(
            client_id_policy=policy, max_attempts=max_attempts, reconnect_max_attempts=budget
        )
        self.session = first.session
        self.events: list[SessionEvent] = list(first.events)
        self.now = NOW

    @rule(item=st.sampled_from(INPUTS), later=st.integers(0, 100))
    def give(self, item: Input, later: int) -> None:
        self.now += timedelta(seconds=later)
        before = self.session
        try:
            done = step(self.session, item, self.now)
        except IllegalInputError:
            assert self.session == before
            return
        assert not before.state.is_final
        self.session = done.session
        self.events += done.events

    @precondition(lambda self: machine.moves_client_id(self.session, ErrorCode.CLIENT_ID_IN_USE))
    @rule()
    def conflict(self) -> None:
        if self.session.is_closing:
            return
        item = failed(ErrorCode.CLIENT_ID_IN_USE, self.session.client_id + 1)
        done = step(self.session, item, self.now)
        self.session = done.session
        self.events += done.events

    @invariant()
    def the_log_is_dense_and_folds_to_the_session(self) -> None:
        folded: Session | None = None
        for event in self.events:
            folded = machine.fold(folded, event)
        assert folded == self.session
        assert [event.sequence for event in self.events] == list(range(1, len(self.events) + 1))

    @invariant()
    def every_move_is_one_of_the_nine(self) -> None:
        states = [DISCONNECTED, *(event.session.state for event in self.events)]
        for source, target in itertools.pairwise(states):
            assert source is target or (source, target) in machine.TRANSITIONS

    @invariant()
    def a_failed_session_names_its_failure(self) -> None:
        assert self.session.state is not FAILED or self.session.last_failure is not None

    @invariant()
    def identity_is_kept(self) -> None:
        assert self.session.spec == self.events[0].session.spec
        ids = [event.session.client_id for event in self.events if event.session.generation]
        assert len(set(ids)) <= 1


TestWalk = Walk.TestCase
