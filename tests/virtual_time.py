"""An event loop on which an hour takes no time: when nothing is left to do, it is later."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

T = TypeVar("T")

BEGIN = datetime(2026, 11, 24, 3, 4, 5, tzinfo=UTC)
"""The time in UTC when the loop's clock is at 0."""


class StalledError(Exception):
    """Everybody waits, and nobody for a time: on a real loop the test would hang."""


class _Selector(selectors.DefaultSelector):
    """Waits for no file: instead the clock moves on by as long as the loop would wait."""

    clock = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready and timeout is None:
            raise StalledError
        if not ready and timeout:
            self.clock += timeout
        return ready


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """asyncio's own loop; only its clock is ours. Nothing may come from outside: no sockets."""

    def __init__(self) -> None:
        self._virtual = _Selector()
        super().__init__(self._virtual)

    def time(self) -> float:
        return self._virtual.clock


def now() -> datetime:
    """The wall clock that goes with the loop's."""
    return BEGIN + timedelta(seconds=asyncio.get_running_loop().time())


async def until(check: Callable[[], object], limit: float = 36_000.0) -> float:
    """Let time pass until a check holds, looked at every 10 ms; returns how long that took."""
    loop = asyncio.get_running_loop()
    begin = loop.time()
    while not check():
        assert loop.time() - begin < limit, f"not within {limit} s"
        await asyncio.sleep(0.01)
    return loop.time() - begin


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a test's body in virtual time."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(main)
