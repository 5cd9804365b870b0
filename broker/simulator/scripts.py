"""What runs beside the connections of a simulated Gateway, such as a restart: one task each."""

import asyncio
from collections.abc import Callable, Coroutine
from enum import Enum
from typing import Any, Self


class ScriptState(Enum):
    """How a script is."""

    RUNNING = "running"
    FINISHED = "finished"
    STOPPED = "stopped"
    FAILED = "failed"


class ScriptRunningError(ValueError):
    """A script of that name is running."""


class Script:
    """One run of a script. It writes `step`, what it is doing, and `failure`, why it failed."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.step = "begins"
        self.failure = ""
        self._task: asyncio.Task[None] | None = None

    @property
    def state(self) -> ScriptState:
        """How it is; once it is no longer RUNNING that is final."""
        if self._task is None or not self._task.done():
            return ScriptState.RUNNING
        if self._task.cancelled():
            return ScriptState.STOPPED
        return ScriptState.FAILED if self.failure else ScriptState.FINISHED

    async def wait(self) -> ScriptState:
        """Wait until it has ended, in whatever way. To cancel the wait does not stop the script."""
        if self._task is not None:
            await asyncio.wait([self._task])
        return self.state

    def start(
        self, group: asyncio.TaskGroup, play: Callable[["Script"], Coroutine[Any, Any, None]]
    ) -> Self:
        """Begin; OSError makes it FAILED."""
        self._task = group.create_task(self._play(play), name=f"simulator {self.name}")
        return self

    async def stop(self) -> bool:
        """Cancel it and wait for its end; whether it was running."""
        if self._task is None or not self._task.cancel():
            return False
        await asyncio.wait([self._task])
        return self.state is ScriptState.STOPPED

    async def _play(self, play: Callable[["Script"], Coroutine[Any, Any, None]]) -> None:
        try:
            await play(self)
        except OSError as error:
            self.failure = str(error)


class Scripts:
    """The latest run of each script; of one name only one runs at a time. The tasks are `group`'s,
    which must have been entered.
    """

    def __init__(self, group: asyncio.TaskGroup) -> None:
        self._group = group
        self._latest: dict[str, Script] = {}

    @property
    def latest(self) -> tuple[Script, ...]:
        """The latest run of each name."""
        return tuple(self._latest.values())

    def start(self, name: str, play: Callable[[Script], Coroutine[Any, Any, None]]) -> Script:
        """Run a script. Raises ScriptRunningError if one of that name is running."""
        running = self._latest.get(name)
        if running is not None and running.state is ScriptState.RUNNING:
            raise ScriptRunningError(f"a {name} is running already ({running.step}); stop it first")
        script = self._latest[name] = Script(name).start(self._group, play)
        return script

    async def stop(self, name: str) -> bool:
        """Cancel the script of that name and wait for its end; whether one was running."""
        script = self._latest.get(name)
        return script is not None and await script.stop()
