"""All that is tried of one language: its build, its own tests, the scenario, and its README."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Collection, Mapping, Sequence
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
_BUILDS: Final = 900.0
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


async def tried(
    language: Language,
    directory: Path,
    stage: Stage | None,
    scenario: Sequence[Chapter],
    *,
    parts: Collection[str],
    tell: Tell,
) -> Result:
    """Try a language.

    Args:
        language: which.
        directory: where its client is.
        stage: for the scenario and the README; None if neither is wanted.
        scenario: the chapters.
        parts: of `PARTS`, what to try.
        tell: is given each line of progress.
    """
    result = Result(language.title)
    began = time.monotonic()
    env = environment(**language.env, PYTHONPATH=str(directory))
    with tempfile.TemporaryDirectory(prefix="conformance-") as path:
        build = Path(path)
        tell(f"{language.title}: building")
        if not await _all_run(language.build, build, directory, env, tell):
            result.is_broken = True
        else:
            if "scenario" in parts and stage is not None:
                tell(f"{language.title}: the scenario")
                result.outcome = await _played(
                    filled(language.runner, build), directory, env, stage, scenario, tell
                )
            if "tests" in parts:
                tell(f"{language.title}: its own tests")
                done = await _all_run(language.tests, build, directory, env, tell)
                result.tests = PASSED if done else FAILED
            if "readme" in parts and stage is not None:
                tell(f"{language.title}: its README's program")
                result.readme = await _read(language, directory, env, stage, tell)
    result.seconds = time.monotonic() - began
    return result


async def _all_run(
    commands: Sequence[Command], build: Path, directory: Path, env: Mapping[str, str], tell: Tell
) -> bool:
    for command in commands:
        words = filled(command, build)
        try:
            process = await Process.start(
                words, name=" ".join(words), cwd=directory, env=env, merged=True
            )
            try:
                process.close_input()
                said = await process.rest(_BUILDS)
            finally:
                await process.end()
        except ProcessError as error:
            tell(f"✗ {error}")
            return False
        if process.code != 0:
            tell(f"✗ {' '.join(words)} has ended with code {process.code}:\n{said[-_SHOWN:]}")
            return False
    return True


async def _played(
    command: Sequence[str],
    directory: Path,
    env: Mapping[str, str],
    stage: Stage,
    scenario: Sequence[Chapter],
    tell: Tell,
) -> Outcome:
    await stage.tidy()
    try:
        async with Runner(command, directory, env) as runner:
            return await Play(scenario, stage, runner, tell).run()
    except RunnerError as error:
        tell(f"✗ {error}")
        return Outcome.of_nobody(scenario, str(error))


async def _read(
    language: Language, directory: Path, env: Mapping[str, str], stage: Stage, tell: Tell
) -> str:
    await stage.tidy()
    try:
        await readme.run(
            directory, language.program, stage.broker.address, env, language.ends
        )
    except (readme.ReadmeError, OSError) as error:
        tell(f"✗ {language.title}: {error}")
        return FAILED
    return PASSED
