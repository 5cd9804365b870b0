"""The circuit breaker of one gateway: pybreaker counts, the event loop tells the time.

pybreaker's own ways to call are unfit for asyncio: a coroutine counts as a success as soon
as it is made, an excluded error counts as one too, and OPEN ends by the wall clock. So each
outcome is replayed to it once it is known, and how long OPEN lasts is decided here.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
from collections.abc import Callable
from typing import Final, NoReturn

import pybreaker


class BreakerState(enum.StrEnum):
    """Whether a gateway is dialled for new sessions."""

    CLOSED = "CLOSED"
    OPEN = "OPEN"
    HALF_OPEN = "HALF_OPEN"


_STATES: Final = {
    pybreaker.STATE_CLOSED: BreakerState.CLOSED,
    pybreaker.STATE_OPEN: BreakerState.OPEN,
    pybreaker.STATE_HALF_OPEN: BreakerState.HALF_OPEN,
}


class Breaker:
    """Opens after failures in a row, half-opens by its own timer, closes after successes.

    It admits and refuses nobody: its owner looks at ``state``. Everything is called on the
    event loop.

    Args:
        failure_threshold: how many failures in a row open the circuit.
        success_threshold: how many successes in a row close it from HALF_OPEN.
        timeout: seconds in OPEN before HALF_OPEN.
        on_change: called with the old and the new state, once for each change and after it;
            it must not raise.
    """

    def __init__(
        self,
        failure_threshold: int = 5,
        success_threshold: int = 2,
        timeout: float = 30.0,
        *,
        on_change: Callable[[BreakerState, BreakerState], None],
    ) -> None:
        self._circuit = pybreaker.CircuitBreaker(
            fail_max=failure_threshold,
            success_threshold=success_threshold,
            throw_new_error_on_trip=False,
        )
        self._timeout = timeout
        self._on_change = on_change
        self._state = BreakerState.CLOSED
        self._timer: asyncio.TimerHandle | None = None
        self._half_open_at: float | None = None
        self._stopped = False

    @property
    def state(self) -> BreakerState:
        """The state of the circuit."""
        return self._state

    @property
    def failures(self) -> int:
        """How many failures there were since the last success; those in OPEN do not count."""
        return self._circuit.fail_counter

    @property
    def half_open_at(self) -> float | None:
        """When OPEN ends, on the event loop's clock; None outside OPEN and after ``stop``."""
        return self._half_open_at

    def record_success(self) -> None:
        """An attempt has succeeded.

        In OPEN it is evidence that the Gateway is back: the circuit is half-open at once, and
        this is the first of its successes.
        """
        if self._state is BreakerState.OPEN:
            self._half_open()
        self._circuit.call(_succeed)
        self._follow()

    def record_failure(self) -> None:
        """An attempt has failed; in OPEN that is no news, and OPEN lasts no longer for it."""
        if self._state is BreakerState.OPEN:
            return
        with contextlib.suppress(_RecordedError):
            self._circuit.call(_fail)
        self._follow()

    def reset(self) -> None:
        """Close the circuit and forget what was counted."""
        self._circuit.close()
        self._follow()

    def stop(self) -> None:
        """Cancel the timer for good: the gateway is taken down. Idempotent."""
        self._stopped = True
        self._disarm()

    def _half_open(self) -> None:
        self._circuit.half_open()
        self._follow()

    def _follow(self) -> None:
        """Take over the state of the counter: the timer first, then whoever listens."""
        old, new = self._state, _STATES[self._circuit.current_state]
        if new is old:
            return
        self._state = new
        self._disarm()
        if new is BreakerState.OPEN and not self._stopped:
            loop = asyncio.get_running_loop()
            self._half_open_at = loop.time() + self._timeout
            self._timer = loop.call_at(self._half_open_at, self._half_open)
        self._on_change(old, new)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._half_open_at = None


class _RecordedError(Exception):
    """What a failure is to pybreaker."""


def _succeed() -> None:
    pass


def _fail() -> NoReturn:
    raise _RecordedError
