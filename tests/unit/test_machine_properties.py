"""The session core under random inputs, legal and illegal: the invariants hold after each."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

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
    SessionEvent,
    SessionNotice,
    SessionSpec,
    SessionState,
    Transition,
)

BEGIN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
DIALLING = (SessionState.CONNECTING, SessionState.RECONNECTING)
CLIENT_ID = 7

delays = st.floats(0, 100)
failures = st.builds(
    Failure,
    code=st.sampled_from(ErrorCode),
    phase=st.sampled_from(Phase),
    message=st.just("no"),
    hint=st.just("wait"),
    time=st.just(BEGIN),
    tws_code=st.sampled_from((0, 0, 326, DISCLAIMER)),
)
conditions = st.builds(
    Condition,
    type=st.sampled_from(("UPSTREAM", "MARKET_DATA_FARM", machine.DATA_CONTINUOUS)),
    subject=st.sampled_from(("", *(f"farm{number}" for number in range(100)))),
    status=st.sampled_from(ConditionStatus),
    reason=st.sampled_from(("ONE", "OTHER")),
    message=st.just("told"),
    transition_time=st.just(BEGIN),
)


def farm(number: int) -> Condition:
    return Condition(
        "MARKET_DATA_FARM", f"farm{number}", ConditionStatus.FALSE, "BROKEN", "told", BEGIN
    )


notices = st.builds(
    SessionNotice,
    reason=st.just("OVERDUE"),
    subject=st.just("gateway"),
    message=st.just("still"),
    hint=st.just("look"),
    since=st.just(BEGIN),
)
inputs: st.SearchStrategy[Input] = st.one_of(
    st.builds(
        LinkUp,
        server_version=st.just(178),
        accounts=st.just(("DU1",)),
        conditions=st.lists(conditions, max_size=3).map(tuple)
        | st.just(tuple(farm(number) for number in range(100))),
    ),
    st.builds(AttemptFailed, failures, delays, auth_grace=st.sampled_from((0.0, 30.0))),
    st.builds(LinkLost, failures, st.just("PEER_CLOSED"), st.none() | delays),
    st.builds(TaskCrashed, failures, delays, st.integers(1, 4)),
    st.builds(ConditionSeen, conditions),
    st.builds(Told, notices),
    st.builds(EndRequested, st.sampled_from(CloseReason), st.just("alice")),
    st.just(LinkEnded()),
    st.builds(LeaseChanged, st.floats(1, 100), st.just("alice")),
    st.builds(BrokerStopping, failures),
    st.builds(BrokerRestarted, failures),
)
# Those that keep a session alive, so that a walk sees more than its end.
vital: st.SearchStrategy[Input] = st.one_of(
    st.builds(LinkUp, st.just(178), st.just(("DU1",)), st.lists(conditions, max_size=3).map(tuple)),
    st.builds(LinkLost, failures, st.just("PEER_CLOSED"), delays),
    st.builds(ConditionSeen, conditions),
    st.builds(BrokerStopping, failures),
    st.builds(BrokerRestarted, failures),
)


def is_legal(session: Session, item: Input) -> bool:
    """What a session takes, written down a second time and in other words."""
    if session.state.is_final:
        return False
    match item:
        case BrokerRestarted():
            return True
        case LinkEnded():
            return session.is_closing
        case _ if session.is_closing:
            return False
        case LinkUp():
            return session.state in DIALLING
        case AttemptFailed(next_client_id=next_id):
            return session.state in DIALLING and (next_id is None or _may_move(session, item))
        case LinkLost() | ConditionSeen():
            return session.state is SessionState.CONNECTED
    return True


def _may_move(session: Session, item: AttemptFailed) -> bool:
    return machine.moves_client_id(session, item.failure.code)


def dated(item: Input, now: datetime) -> Input:
    """The input, as if what it tells of had happened just now."""
    changes: dict[str, Any] = {}
    if isinstance(item, AttemptFailed | LinkLost | TaskCrashed | BrokerStopping | BrokerRestarted):
        changes["failure"] = replace(item.failure, time=now)
    elif isinstance(item, ConditionSeen):
        changes["condition"] = replace(item.condition, transition_time=now)
    elif isinstance(item, LinkUp):
        changes["conditions"] = tuple(
            replace(each, transition_time=now) for each in item.conditions
        )
    return replace(item, **changes) if changes else item


class Walk(RuleBasedStateMachine):
    """A session, its log as watchers fold it, and what it was before the last step."""

    @initialize(
        policy=st.sampled_from(ClientIdPolicy),
        max_attempts=st.integers(1, 6),
        budget=st.none() | st.integers(0, 4),
        return_immediately=st.booleans(),
    )
    def open(
        self,
        policy: ClientIdPolicy,
        max_attempts: int,
        budget: int | None,
        return_immediately: bool,
    ) -> None:
        self.now = BEGIN
        self.spec = SessionSpec(
            session_id=uuid.UUID("0b8f4a6e-6a60-4c12-8f7f-0a6f2b9f9d01"),
            gateway_id="default",
            host="127.0.0.1",
            port=4002,
            owner="alice",
            requested_client_id=CLIENT_ID,
            client_id_policy=policy,
            readonly=False,
            timeout=30.0,
            max_attempts=max_attempts,
            reconnect_max_attempts=budget,
            return_immediately=return_immediately,
            labels={"strategy": "one"},
        )
        self.before: Session | None = None
        self.session: Session
        self.folded: Session | None = None
        self.events: tuple[SessionEvent, ...] = ()
        self.correlation = uuid.UUID(int=1)
        self.item: Input | None = None
        self._take(
            machine.open_session(
                self.spec, CLIENT_ID, now=self.now, correlation_id=self.correlation
            )
        )

    @rule(item=inputs, later=st.integers(1, 100))
    def give(self, item: Input, later: int) -> None:
        self._give(item, later)

    @precondition(lambda self: not self.session.state.is_final)
    @rule(item=vital, later=st.integers(1, 100))
    def live(self, item: Input, later: int) -> None:
        self._give(item, later)

    @rule(item=failures, step=st.integers(1, 3))
    def move_on(self, item: Failure, step: int) -> None:
        """The shell holds the next id whether the core takes it or not."""
        in_use = replace(item, code=ErrorCode.CLIENT_ID_IN_USE)
        self._give(AttemptFailed(in_use, 0.0, self.session.client_id + step), 1)

    def _give(self, item: Input, later: int) -> None:
        self.now += timedelta(seconds=later)
        item = self.item = dated(item, self.now)
        given: Callable[[], machine.Step] = lambda: machine.step(  # noqa: E731
            self.session, item, now=self.now, correlation_id=self.correlation
        )
        copy = replace(self.session)
        if is_legal(self.session, item):
            self._take(given())
            return
        try:
            given()
        except IllegalInputError:
            assert self.session == copy
            self.before, self.events = self.session, ()
        else:
            raise AssertionError(f"{item} was taken in {copy.state}")

    def _take(self, step: machine.Step) -> None:
        self.before = None if self.folded is None else self.session
        self.session, self.events = step.session, step.events
        for event in step.events:
            self.folded = machine.fold(self.folded, event)

    # -- I1, I4, I5, I6 ----------------------------------------------------------------

    @invariant()
    def i1_every_move_is_one_of_the_nine(self) -> None:
        states = [
            self.before.state if self.before is not None else SessionState.DISCONNECTED,
            *(event.session.state for event in self.events),
        ]
        for event, (source, target) in zip(self.events, itertools.pairwise(states), strict=True):
            if isinstance(event.change, Transition):
                assert (event.change.source, event.change.target) == (source, target)
                assert machine.TRANSITIONS[source, target] == event.change.number
                assert event.session.state_time == event.time
            else:
                assert source is target

    @invariant()
    def i4_a_final_session_needs_nothing_and_never_moves(self) -> None:
        final = self.session.state.is_final
        assert (machine.needed(self.session) == Rest()) is final
        assert (self.session.disconnect_time is not None) is final
        if self.before is not None and self.before.state.is_final:
            assert self.session == self.before
        if final:
            assert self.session.next_attempt_time is None

    @invariant()
    def i5_the_log_is_dense_and_folds_to_the_session(self) -> None:
        assert self.folded == self.session
        first = self.before.sequence + 1 if self.before is not None else 1
        numbers = [event.sequence for event in self.events]
        assert numbers == list(range(first, first + len(numbers)))
        assert all(event.session.sequence == event.sequence for event in self.events)
        assert self.before is None or self.events or self.session == self.before

    @invariant()
    def i6_identity_is_kept_and_failed_has_a_code(self) -> None:
        assert self.session.spec == self.spec
        for event in self.events:
            if event.session.state is SessionState.FAILED:
                assert event.session.last_failure is not None
                assert event.session.last_failure.code in ErrorCode
        if self.before is not None and self.session.client_id != self.before.client_id:
            assert self.before.state is self.session.state is SessionState.CONNECTING
            assert self.spec.client_id_policy is ClientIdPolicy.INCREMENT
        assert self.session.client_id_moves < machine.CLIENT_ID_DIALS

    # -- the rules of the design beside them -------------------------------------------

    @invariant()
    def a_session_that_closes_keeps_its_state_until_its_link_has_ended(self) -> None:
        session = self.session
        if session.is_closing:
            assert machine.needed(session) == EndLink()
            if self.before is not None and self.before.is_closing:
                assert session == self.before
        if session.state is SessionState.DISCONNECTED:
            assert session.close_reason is not None
        if session.state is SessionState.FAILED:
            assert session.close_reason is None

    @invariant()
    def needs_follow_from_the_state(self) -> None:
        session = self.session
        if session.state is SessionState.CONNECTED and not session.is_closing:
            assert machine.needed(session) == HoldLink()
        if session.state in DIALLING and not session.is_closing:
            assert machine.needed(session) == Dial(session.client_id, session.next_attempt_time)

    @invariant()
    def each_connected_is_a_generation_and_has_a_server_version_and_accounts(self) -> None:
        before = self.before.generation if self.before is not None else 0
        ups = sum(
            isinstance(event.change, Transition) and event.change.target is SessionState.CONNECTED
            for event in self.events
        )
        assert self.session.generation == before + ups
        if ups:
            assert self.session.attempt == 0
            assert self.session.connect_time == self.now
        if self.session.state is SessionState.CONNECTED:
            assert self.session.server_version
            assert self.session.accounts
            assert self.session.next_attempt_time is None

    @invariant()
    def whoever_waits_says_until_when(self) -> None:
        for event in self.events:
            if isinstance(event.change, Attempt):
                assert event.session.state in DIALLING
                assert event.change.next_attempt_time == event.session.next_attempt_time
                due = event.change.next_attempt_time
                assert due is None or due >= self.now
                assert event.change.failure == event.session.last_failure

    @invariant()
    def every_failure_is_counted_and_those_in_a_row_are_within_the_budget(self) -> None:
        session = self.session
        spent = isinstance(self.item, AttemptFailed | LinkLost | TaskCrashed) or (
            isinstance(self.item, BrokerStopping | BrokerRestarted)
            and self.before is not None
            and self.before.state is SessionState.CONNECTED
            and not self.before.is_closing
        )
        if self.before is not None and self.events:
            assert session.error_count - self.before.error_count == spent
        if spent and self.events and session.last_failure is not None:
            assert session.last_failure.time == self.now
            assert session.last_failure.since is None or session.last_failure.since <= self.now
        budget = (
            self.spec.max_attempts
            if session.state is SessionState.CONNECTING
            else self.spec.reconnect_max_attempts
        )
        if session.state in DIALLING and budget is not None:
            assert budget > 0
            if any(isinstance(event.change, Attempt) for event in self.events):
                # The shell counts crashes by itself: three in a row are the end.
                assert isinstance(self.item, TaskCrashed) or session.attempt < budget

    @invariant()
    def conditions_are_bounded_sorted_and_end_with_the_link(self) -> None:
        found = self.session.conditions
        keys = [(item.type, item.subject) for item in found]
        assert len(found) <= machine.CONDITIONS
        assert keys == sorted(set(keys))
        if self.session.state in DIALLING:
            assert found == ()
        known = dict(zip(keys, found, strict=True))
        for event in self.events:
            if isinstance(event.change, ConditionChange):
                told = event.change.condition
                assert known[told.type, told.subject] == told
            if isinstance(event.change, Transition) and event.change.number == 7:
                assert known[machine.DATA_CONTINUOUS, ""].status is ConditionStatus.FALSE


Walk.TestCase.settings = settings(max_examples=100, stateful_step_count=40)
TestWalk = Walk.TestCase
