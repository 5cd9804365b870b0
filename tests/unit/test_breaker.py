"""The circuit breaker: what it counts, how long OPEN lasts, and whom it tells."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.gateway.breaker import Breaker, BreakerState
from tests.harness import eventually

CLOSED, OPEN, HALF_OPEN = BreakerState.CLOSED, BreakerState.OPEN, BreakerState.HALF_OPEN
OPENED = (CLOSED, OPEN)
LONG = 60.0
SHORT = 0.02

Changes = list[tuple[BreakerState, BreakerState]]
Make = Callable[..., tuple[Breaker, Changes]]


@pytest.fixture
async def make() -> AsyncIterator[Make]:
    made: list[Breaker] = []

    def one(
        failures: int = 5, successes: int = 2, timeout: float = LONG
    ) -> tuple[Breaker, Changes]:
        changes: Changes = []
        made.append(
            Breaker(
                failures, successes, timeout, on_change=lambda old, new: changes.append((old, new))
            )
        )
        return made[-1], changes

    yield one
    for breaker in made:
        breaker.stop()


def fail(breaker: Breaker, times: int) -> None:
    for _ in range(times):
        breaker.record_failure()


@pytest.mark.requirement("AC-010")
async def test_the_fifth_failure_in_a_row_opens_the_circuit(make: Make) -> None:
    breaker, changes = make()
    fail(breaker, 4)
    assert (breaker.state, breaker.failures, breaker.half_open_at) == (CLOSED, 4, None)
    before = asyncio.get_running_loop().time()
    fail(breaker, 1)
    assert (breaker.state, breaker.failures, changes) == (OPEN, 5, [OPENED])
    assert breaker.half_open_at is not None
    assert before + LONG <= breaker.half_open_at <= asyncio.get_running_loop().time() + LONG


@pytest.mark.requirement("AC-010")
async def test_a_success_between_failures_starts_the_count_anew(make: Make) -> None:
    breaker, changes = make()
    fail(breaker, 4)
    breaker.record_success()
    fail(breaker, 4)
    assert (breaker.state, breaker.failures, changes) == (CLOSED, 4, [])


@pytest.mark.requirement("AC-010")
async def test_open_ends_in_half_open_by_its_own_timer(make: Make) -> None:
    breaker, changes = make(timeout=SHORT)
    fail(breaker, 5)
    ends = breaker.half_open_at
    assert ends is not None
    await eventually(lambda: breaker.state is HALF_OPEN)
    # The timers of an event loop are exact to a millisecond.
    assert asyncio.get_running_loop().time() >= ends - 0.001
    assert (breaker.half_open_at, changes) == (None, [OPENED, (OPEN, HALF_OPEN)])


@pytest.mark.requirement("AC-010")
async def test_two_successes_in_half_open_close_the_circuit(make: Make) -> None:
    breaker, changes = make(timeout=SHORT)
    fail(breaker, 5)
    await eventually(lambda: breaker.state is HALF_OPEN)
    breaker.record_success()
    assert breaker.state is HALF_OPEN
    breaker.record_success()
    assert (breaker.state, breaker.failures) == (CLOSED, 0)
    assert changes == [OPENED, (OPEN, HALF_OPEN), (HALF_OPEN, CLOSED)]


async def test_one_failure_in_half_open_opens_it_again_for_the_whole_timeout(make: Make) -> None:
    breaker, changes = make(timeout=SHORT)
    fail(breaker, 5)
    first = breaker.half_open_at
    await eventually(lambda: breaker.state is HALF_OPEN)
    breaker.record_success()
    breaker.record_failure()
    assert breaker.state is OPEN
    assert first is not None
    assert breaker.half_open_at is not None
    assert breaker.half_open_at >= first + SHORT - 0.001
    await eventually(lambda: breaker.state is HALF_OPEN)
    breaker.record_success()
    assert breaker.state is HALF_OPEN, "the success before the failure does not count"
    assert changes == [OPENED, (OPEN, HALF_OPEN), (HALF_OPEN, OPEN), (OPEN, HALF_OPEN)]


async def test_a_failure_in_open_neither_counts_nor_extends_it(make: Make) -> None:
    breaker, changes = make()
    fail(breaker, 5)
    ends = breaker.half_open_at
    fail(breaker, 3)
    assert (breaker.failures, breaker.half_open_at, changes) == (5, ends, [OPENED])


async def test_a_success_in_open_is_the_first_of_half_open(make: Make) -> None:
    breaker, changes = make()
    fail(breaker, 5)
    breaker.record_success()
    assert (breaker.state, breaker.failures, breaker.half_open_at) == (HALF_OPEN, 0, None)
    breaker.record_success()
    assert changes == [OPENED, (OPEN, HALF_OPEN), (HALF_OPEN, CLOSED)]


async def test_a_success_in_open_that_suffices_passes_through_half_open(make: Make) -> None:
    breaker, changes = make(failures=1, successes=1)
    breaker.record_failure()
    breaker.record_success()
    assert changes == [OPENED, (OPEN, HALF_OPEN), (HALF_OPEN, CLOSED)]


async def test_reset_closes_the_circuit_and_forgets_the_count(make: Make) -> None:
    breaker, changes = make()
    fail(breaker, 5)
    breaker.reset()
    assert (breaker.state, breaker.failures, breaker.half_open_at) == (CLOSED, 0, None)
    assert changes == [OPENED, (OPEN, CLOSED)]
    fail(breaker, 4)
    breaker.reset()
    assert (breaker.failures, len(changes)) == (0, 2), "closed already: nobody is told"


async def test_whoever_is_told_sees_the_new_state_and_its_end(make: Make) -> None:
    seen: list[tuple[BreakerState, BreakerState, bool]] = []

    def told(_: BreakerState, new: BreakerState) -> None:
        seen.append((new, breaker.state, breaker.half_open_at is not None))

    breaker = Breaker(1, 1, LONG, on_change=told)
    breaker.record_failure()
    breaker.record_success()
    assert seen == [(OPEN, OPEN, True), (HALF_OPEN, HALF_OPEN, False), (CLOSED, CLOSED, False)]


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop whose clock stands still until it is moved."""

    now = 0.0

    def time(self) -> float:
        return self.now

    async def elapse(self, seconds: float) -> None:
        self.now += seconds
        # Once for the loop to find the timers that are due, once to run them.
        await asyncio.sleep(0)
        await asyncio.sleep(0)


def virtually(scenario: Callable[[VirtualLoop], Awaitable[None]]) -> None:
    async def run() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        await scenario(loop)

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(run())


def test_a_reset_leaves_no_timer_that_would_end_a_later_open() -> None:
    changes: Changes = []

    async def scenario(loop: VirtualLoop) -> None:
        breaker = Breaker(1, 1, 30.0, on_change=lambda old, new: changes.append((old, new)))
        breaker.record_failure()
        await loop.elapse(20)
        breaker.reset()
        breaker.record_failure()
        await loop.elapse(20)
        assert (breaker.state, breaker.half_open_at) == (OPEN, 50.0)

    virtually(scenario)
    assert changes == [OPENED, (OPEN, CLOSED), OPENED]


def test_after_stop_no_timer_runs_nor_is_armed() -> None:
    changes: Changes = []

    async def scenario(loop: VirtualLoop) -> None:
        breaker = Breaker(1, 1, 30.0, on_change=lambda old, new: changes.append((old, new)))
        breaker.record_failure()
        breaker.stop()
        breaker.stop()
        await loop.elapse(100)
        assert (breaker.state, breaker.half_open_at, changes) == (OPEN, None, [OPENED])
        breaker.reset()
        breaker.record_failure()
        await loop.elapse(100)
        assert (breaker.state, breaker.half_open_at) == (OPEN, None)

    virtually(scenario)
    assert changes == [OPENED, (OPEN, CLOSED), OPENED]


@dataclass
class Model:
    """What the breaker is meant to be."""

    failure_threshold: int
    success_threshold: int
    timeout: int
    state: BreakerState = CLOSED
    failures: int = 0
    successes: int = 0
    half_open_at: float | None = None
    changes: Changes = field(default_factory=list)

    def go(self, new: BreakerState, now: float) -> None:
        self.changes.append((self.state, new))
        self.state = new
        self.successes = 0
        self.half_open_at = now + self.timeout if new is OPEN else None

    def success(self, now: float) -> None:
        if self.state is OPEN:
            self.go(HALF_OPEN, now)
        self.failures = 0
        if self.state is HALF_OPEN:
            self.successes += 1
            if self.successes == self.success_threshold:
                self.go(CLOSED, now)

    def failure(self, now: float) -> None:
        if self.state is OPEN:
            return
        self.failures += 1
        if self.state is HALF_OPEN or self.failures == self.failure_threshold:
            self.go(OPEN, now)

    def reset(self, now: float) -> None:
        self.failures = 0
        if self.state is not CLOSED:
            self.go(CLOSED, now)

    def elapse(self, now: float) -> None:
        if self.half_open_at is not None and self.half_open_at <= now:
            self.go(HALF_OPEN, now)


@pytest.mark.requirement("AC-010")
@given(
    failure_threshold=st.integers(1, 4),
    success_threshold=st.integers(1, 3),
    # A number is so many seconds that pass.
    story=st.lists(st.sampled_from(["success", "failure", "failure", "reset", 1, 10, 30])),
)
def test_any_story_goes_as_the_model_says(
    failure_threshold: int, success_threshold: int, story: list[str | int]
) -> None:
    model = Model(failure_threshold, success_threshold, 30)
    changes: Changes = []

    async def scenario(loop: VirtualLoop) -> None:
        breaker = Breaker(
            failure_threshold,
            success_threshold,
            30.0,
            on_change=lambda old, new: changes.append((old, new)),
        )
        for step in story:
            if isinstance(step, int):
                await loop.elapse(step)
                model.elapse(loop.now)
            elif step == "success":
                breaker.record_success()
                model.success(loop.now)
            elif step == "failure":
                breaker.record_failure()
                model.failure(loop.now)
            else:
                breaker.reset()
                model.reset(loop.now)
            assert (breaker.state, breaker.failures) == (model.state, model.failures)
            assert breaker.half_open_at == model.half_open_at
            assert changes == model.changes

    virtually(scenario)
