"""All that is tried of one language: its build, its own tests, the scenario, and its README."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from clients.conformance import readme
from clients.conformance.languages import Command, Language, filled
from clients.conformance.play import Outcome, Play
from clients.conformance.processes import Process, ProcessError
from clients.conformance.runner import Runner, RunnerError
from clients.conformance.scenario import Chapter
from clients.conformance.stage import Stage
from tests.program import environment

PARTS: Final = ("scenario", "tests", "readme")
_BUILDS: Final = 1800.0
"""Seconds for a command of a language: a compiler may begin with nothing."""
_SHOWN: Final = 6000
"""Characters of what a command has said that are shown if it fails."""
PASSED: Final = "passed"
FAILED: Final = "failed"
Tell = Callable[[str], None]


@dataclass
class Result:
    """What came of a language.

    Attributes:
        title: its name.
        left_out: why it was left out; empty if it was not.
        outcome: of the scenario; None if it was not played.
        tests: of its own tests.
        readme: of its README's program.
        seconds: that it took.
        is_broken: whether it could not even be built.
    """

    title: str
    left_out: str = ""
    outcome: Outcome | None = None
    tests: str = "-"
    readme: str = "-"
    seconds: float = 0.0
    is_broken: bool = False

    @property
    def failed(self) -> bool:
        """Whether anything did."""
        return (
            self.is_broken
            or FAILED in (self.tests, self.readme)
            or bool(self.outcome and self.outcome.failures)
        )

    def row(self) -> tuple[str, ...]:
        """Its cells in the table."""
        if self.left_out:
            return self.title, f"left out: {self.left_out}", "", "", ""
        steps = "not built" if self.is_broken else "-"
        if self.outcome is not None:
            steps = f"{self.outcome.passed} of {self.outcome.total}"
            if self.outcome.left_out:
                steps += f", {self.outcome.left_out} need a layer"
        return self.title, steps, self.tests, self.readme, f"{self.seconds:.0f}"


HEADINGS: Final = ("language", "steps passed", "own tests", "README", "seconds")


def table(results: Sequence[Result]) -> str:
    """All of them, for people."""
    rows = [HEADINGS, *(result.row() for result in results)]
    # A reason for leaving one out may be longer than its column.
    widths = [
        max(len(row[column]) for row in rows if not row[1].startswith("left out"))
        for column in range(len(HEADINGS))
    ]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


class Trial:
    """Tries one language.

    Args:
        language: which.
        directory: where its client is.
        tell: is given each line of progress.
    """

    def __init__(self, language: Language, directory: Path, tell: Tell) -> None:
        self._language = language
        self._directory = directory
        more = {name: value.format(directory=directory) for name, value in language.env.items()}
        self._env = environment(**more, PYTHONPATH=str(directory))
        self._tell = tell

    async def run(
        self, stage: Stage | None, scenario: Sequence[Chapter], parts: Collection[str]
    ) -> Result:
        """Try it.

        Args:
            stage: for the scenario and the README; None if neither is wanted.
            scenario: the chapters.
            parts: of `PARTS`, what to try.

        Raises:
            StageError: the stage itself fails.
        """
        title = self._language.title
        result = Result(title)
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="conformance-") as path:
            build = Path(path)
            self._tell(f"{title}: building")
            if not await self._all_run(self._language.build, build):
                result.is_broken, parts = True, ()
            if "scenario" in parts and stage is not None:
                self._tell(f"{title}: the scenario")
                result.outcome = await self._play(build, stage, scenario)
            if "tests" in parts:
                self._tell(f"{title}: its own tests")
                done = await self._all_run(self._language.tests, build)
                result.tests = PASSED if done else FAILED
            if "readme" in parts and stage is not None:
                self._tell(f"{title}: its README's program")
                result.readme = await self._read(stage)
        result.seconds = time.monotonic() - began
        return result

    async def _all_run(self, commands: Sequence[Command], build: Path) -> bool:
        for command in commands:
            words = filled(command, build)
            began = time.monotonic()
            try:
                code, said = await self._said(words)
            except ProcessError as error:
                self._tell(f"✗ {error}")
                return False
            if code != 0:
                self._tell(f"✗ {' '.join(words)} has ended with code {code}:\n{said[-_SHOWN:]}")
                return False
            self._tell(f"  {' '.join(command)}: {time.monotonic() - began:.1f} s")
        return True

    async def _said(self, words: Sequence[str]) -> tuple[int | None, str]:
        process = await Process.start(
            words, name=" ".join(words), cwd=self._directory, env=self._env, merged=True
        )
        try:
            process.close_input()
            said = await process.rest(_BUILDS)
        finally:
            await process.end()
        return process.code, said

    async def _play(self, build: Path, stage: Stage, scenario: Sequence[Chapter]) -> Outcome:
        await stage.tidy()
        command = filled(self._language.runner, build)
        try:
            async with Runner(command, self._directory, self._env) as runner:
                return await Play(scenario, stage, runner, self._tell).run()
        except RunnerError as error:
            self._tell(f"✗ {error}")
            return Outcome.of_nobody(scenario, str(error))

    async def _read(self, stage: Stage) -> str:
        await stage.tidy()
        language = self._language
        try:
            await readme.run(
                self._directory, language.program, stage.broker.address, self._env, language.ends
            )
        except (readme.ReadmeError, OSError) as error:
            self._tell(f"✗ {language.title}: {error}")
            return FAILED
        return PASSED
