"""The other side of the protocol: a runner, as README.md describes it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from clients.conformance.processes import Process, ProcessError

STARTS: Final = 40.0
"""Seconds for a virtual machine to begin on a busy computer."""
_ENDS: Final = 30.0
_KINDS: Final = frozenset({"result", "error", "broken"})


class RunnerError(Exception):
    """The runner does not keep to the protocol any more: it hangs, has died, or talks nonsense."""


class Runner:
    """A runner that was started, with one request at a time.

    Args:
        command: what starts it.
        cwd: where.
        env: all of its environment.
        starts: seconds that it may take to begin, beyond those for its first answer.
    """

    def __init__(
        self,
        command: Sequence[str | Path],
        cwd: Path,
        env: Mapping[str, str] | None = None,
        *,
        starts: float = STARTS,
    ) -> None:
        self._command = command
        self._cwd = cwd
        self._env = env
        self._process: Process | None = None
        self._starts = starts

    async def __aenter__(self) -> Self:
        try:
            self._process = await Process.start(
                self._command, name="the runner", cwd=self._cwd, env=self._env
            )
        except ProcessError as error:
            raise RunnerError(str(error)) from None
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._process is not None
        await self._process.end()

    @property
    def said(self) -> Sequence[str]:
        """The end of what it has written to its standard error."""
        assert self._process is not None
        return list(self._process.said)

    async def ask(self, request: Mapping[str, Any], timeout: float) -> dict[str, Any]:
        """Send a request; returns the answer.

        Args:
            request: as README.md has it.
            timeout: seconds for it.

        Raises:
            RunnerError: there is no answer that could be understood.
        """
        assert self._process is not None
        await self._process.write(json.dumps(request))
        timeout, self._starts = timeout + self._starts, 0.0
        try:
            async with asyncio.timeout(timeout):
                line = await self._process.read_line()
        except TimeoutError:
            raise RunnerError(f"it has not answered within {timeout:g} s") from None
        except ProcessError as error:
            raise RunnerError(str(error)) from None
        if not line:
            await self._process.end()
            raise RunnerError(f"it has ended, with code {self._process.code}, and not answered")
        return _answer(line)

    async def finish(self) -> None:
        """Close its input, which ends it.

        Raises:
            RunnerError: it goes on, or ends with a failure.
        """
        assert self._process is not None
        self._process.close_input()
        try:
            left = await self._process.rest(_ENDS)
        except ProcessError:
            raise RunnerError(
                f"its input has ended, and it has not, within {_ENDS:g} s: does a connection, a "
                "thread or a task of the client outlive its end?"
            ) from None
        if self._process.code != 0 or left:
            raise RunnerError(
                f"at the end of its input it has ended with code {self._process.code}, "
                f"and written {left[:300]!r}"
            )


def _answer(line: str) -> dict[str, Any]:
    try:
        answer = json.loads(line)
    except ValueError:
        raise RunnerError(f"its standard output is no JSON: {line[:300]!r}") from None
    if not isinstance(answer, dict) or len(answer.keys() & _KINDS) != 1:
        raise RunnerError(f"this is no answer: {line[:300]!r}")
    return answer
