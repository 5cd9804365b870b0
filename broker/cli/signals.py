"""How a command that serves is stopped."""

from __future__ import annotations

import asyncio
import signal
from types import TracebackType
from typing import Final, Self

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


class StopSignal:
    """SIGINT or SIGTERM, as a context manager inside the loop that they are to stop.

    The first one ends ``wait``; before that it cancels what is being started, and the
    context ends without an error. A second one ends the process at once.
    """

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self._waiting = False
        self._cancelled = False

    async def wait(self) -> None:
        """Wait for the signal."""
        self._waiting = True
        await self._event.wait()

    def __enter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        for number in _SIGNALS:
            self._loop.add_signal_handler(number, self._stop)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        self._release()
        return self._cancelled and isinstance(error, asyncio.CancelledError)

    def _stop(self) -> None:
        self._release()
        self._event.set()
        if not self._waiting and self._task is not None:
            self._cancelled = True
            self._task.cancel()

    def _release(self) -> None:
        for number in _SIGNALS:
            self._loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL)
