"""Processes that the harness starts: each in a group of its own, with all that it starts itself,
and ended in any case.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

_TAIL: Final = 60
"""Lines that are kept of what a process says."""
_LONGEST_LINE: Final = 16 * 2**20
_ENDS: Final = 5.0
"""Seconds for a group to end by itself once it is told to."""


class ProcessError(Exception):
    """A process has not done what it is for; the message says what it has said."""


class Process:
    """A program that runs.

    Args:
        process: its first process, which leads a group.
        name: what it is called in messages.
    """

    def __init__(self, process: asyncio.subprocess.Process, name: str) -> None:
        self.name = name
        self.said: deque[str] = deque(maxlen=_TAIL)
        """The end of what it has written to its standard error."""
        self._process = process
        self._reading = asyncio.create_task(self._listen(), name=f"stderr of {name}")

    @classmethod
    async def start(
        cls,
        command: Sequence[str | Path],
        *,
        name: str,
        cwd: Path,
        env: Mapping[str, str] | None = None,
        merged: bool = False,
    ) -> Process:
        """Start a program.

        Args:
            command: with its arguments.
            name: what it is called in messages.
            cwd: where it runs.
            env: all of its environment; None is ours.
            merged: whether its standard error goes where its standard output goes.

        Raises:
            ProcessError: it cannot be started.
        """
        try:
            process = await asyncio.create_subprocess_exec(
                *map(str, command),
                cwd=cwd,
                env=env,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT if merged else asyncio.subprocess.PIPE,
                limit=_LONGEST_LINE,
                start_new_session=True,
            )
        except OSError as error:
            raise ProcessError(f"{name} cannot be started: {error}") from None
        return cls(process, name)

    @property
    def code(self) -> int | None:
        """How it ended; None if it runs."""
        return self._process.returncode

    async def write(self, line: str) -> None:
        """Write a line to its standard input; one that has ended does not read it."""
        stdin = self._process.stdin
        assert stdin is not None
        with contextlib.suppress(ConnectionError):
            stdin.write(f"{line}\n".encode())
            await stdin.drain()

    async def read_line(self) -> str:
        """The next line of its standard output; empty at its end.

        Raises:
            ProcessError: it is too long to be one.
        """
        assert self._process.stdout is not None
        try:
            line = await self._process.stdout.readline()
        except ValueError:
            raise ProcessError(f"{self.name} has written a line without end") from None
        return line.decode(errors="replace")

    async def read_until(self, text: str, timeout: float) -> str:
        """Its standard output up to a line with this text.

        Raises:
            ProcessError: there was none in time.
        """
        read = ""
        try:
            async with asyncio.timeout(timeout):
                while text not in read:
                    line = await self.read_line()
                    if not line:
                        raise ProcessError(
                            f"{self.name} has ended without {text!r}: {read}{self.tail()}"
                        )
                    read += line
        except TimeoutError:
            raise ProcessError(
                f"{self.name} has not said {text!r} within {timeout:g} s: {read}{self.tail()}"
            ) from None
        return read

    async def rest(self, timeout: float) -> str:
        """Wait for its end; returns what was left of its standard output.

        Raises:
            ProcessError: it has not ended in time.
        """
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(timeout):
                left = await self._process.stdout.read()
                await self._process.wait()
        except TimeoutError:
            raise ProcessError(
                f"{self.name} has not ended within {timeout:g} s{self.tail()}"
            ) from None
        return left.decode(errors="replace")

    def close_input(self) -> None:
        """Nothing more is written to it."""
        assert self._process.stdin is not None
        self._process.stdin.close()

    def send(self, number: signal.Signals) -> None:
        """Signal it and all that it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    async def end(self, how: signal.Signals = signal.SIGTERM, timeout: float = _ENDS) -> None:
        """End it and all that it has started. Cancelled, it kills them first."""
        try:
            if self._process.returncode is None:
                self.send(how)
                async with asyncio.timeout(timeout):
                    await self._process.wait()
        except TimeoutError:
            pass
        finally:
            # What it has started and left behind is in its group still.
            self.send(signal.SIGKILL)
            await self._process.wait()
            self._reading.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._reading
            # asyncio leaves pipes open that nobody has read to their ends.
            getattr(self._process, "_transport").close()  # noqa: B009

    def tail(self) -> str:
        """The end of its standard error, to be put behind a message."""
        return "".join(f"\n    {line}" for line in self.said)

    async def _listen(self) -> None:
        stderr = self._process.stderr
        if stderr is None:
            return
        rest = b""
        while chunk := await stderr.read(65_536):
            *lines, rest = (rest + chunk).split(b"\n")
            self.said.extend(line.decode(errors="replace")[:2000] for line in lines)
            rest = rest[-65_536:]
        if rest:
            self.said.append(rest.decode(errors="replace")[:2000])
