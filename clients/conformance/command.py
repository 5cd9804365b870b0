"""The command line of the harness."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

from clients.conformance import scenario
from clients.conformance.languages import CLIENTS, LANGUAGES
from clients.conformance.stage import StageError, stage
from clients.conformance.trial import PARTS, Result, Trial, table

_EPILOG: Final = f"""\
What happens for each language: its client is built, its runner (clients/LANGUAGE/conformance) plays
clients/conformance/chapters against a broker, a PostgreSQL and simulated Gateways of the
harness's own, on free ports; then come its own tests, and the program of its README. A step that
fails is shown with its request, the answer, what was expected, and what runner and broker have said
last; the rest of its chapter is left, and the next one begins with all well.

Parts (--only): {", ".join(PARTS)}. Exit codes: 0 all has passed, 1 something has not, 2 bad input.
A language whose toolchain is not here is left out, and said; with CI=true that is a failure.

examples:
  python -m clients.conformance                        all languages, all parts
  python -m clients.conformance go rust                two of them
  python -m clients.conformance go --only scenario --chapter watch --chapter leases
  python -m clients.conformance --list                 the chapters and their steps

To add a step: write it into chapters/; README.md and matching.py say how. To add a language: write
its runner as README.md has the protocol, and its row into languages.py.
"""


def run(arguments: Sequence[str]) -> int:
    """Do what a command line says; returns the exit code."""
    given = _parsed(arguments)
    try:
        chapters = [
            chapter
            for chapter in scenario.read()
            if not given.chapter or any(text in chapter.name for text in given.chapter)
        ]
    except scenario.BadScenarioError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    if not chapters:
        sys.stderr.write(f"no chapter has {' or '.join(given.chapter)} in its name\n")
        return 2
    if given.list:
        _tell("\n".join(_listed(chapters)))
        return 0
    try:
        results = asyncio.run(
            _tried(given.languages or list(LANGUAGES), given.clients, chapters, given.only)
        )
    except StageError as error:
        sys.stderr.write(f"the stage cannot be set up, or has broken down: {error}\n")
        return 1
    _tell(f"\n{table(results)}")
    for result in results:
        _tell_left_out(result)
    is_complete = os.environ.get("CI") != "true" or not any(each.left_out for each in results)
    return 0 if is_complete and not any(result.failed for result in results) else 1


def _parsed(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m clients.conformance",
        description=__doc__,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "languages", nargs="*", metavar="LANGUAGE", help=f"of {', '.join(LANGUAGES)}; all if none"
    )
    parser.add_argument(
        "--only",
        action="append",
        choices=PARTS,
        metavar="PART",
        help="try this part alone; may be repeated",
    )
    parser.add_argument(
        "--chapter",
        action="append",
        default=[],
        metavar="TEXT",
        help="play only chapters with this in their names; may be repeated",
    )
    parser.add_argument(
        "--clients",
        type=Path,
        default=CLIENTS,
        metavar="DIR",
        help="the directory that the languages' directories are in",
    )
    parser.add_argument("--list", action="store_true", help="show the steps, and do nothing")
    given = parser.parse_args(arguments)
    for name in given.languages:
        if name not in LANGUAGES:
            parser.error(f"{name}: there is {', '.join(LANGUAGES)}")
    given.only = given.only or PARTS
    given.clients = given.clients.resolve()
    return given


async def _tried(
    names: Sequence[str],
    clients: Path,
    chapters: Sequence[scenario.Chapter],
    parts: Sequence[str],
) -> list[Result]:
    results = []
    async with AsyncExitStack() as stack:
        ready = None
        for name in dict.fromkeys(names):
            language, directory = LANGUAGES[name], clients / name
            missing = language.missing()
            if missing or not directory.is_dir():
                why = f"{' and '.join(missing)} not here" if missing else f"no {directory}"
                _tell(f"{language.title}: left out: {why}")
                results.append(Result(language.title, left_out=why))
                continue
            if ready is None and set(parts) != {"tests"}:
                _tell("setting the stage: brokers, PostgreSQL, simulated Gateways")
                ready = await stack.enter_async_context(stage())
            trial = Trial(language, directory, _tell)
            results.append(await trial.run(ready, chapters, parts))
    return results


def _listed(chapters: Sequence[scenario.Chapter]) -> list[str]:
    lines = []
    for chapter in chapters:
        lines.append(f"{chapter.name}:")
        for step in chapter.steps:
            layer = " (needs a layer)" if step.needs else ""
            lines.append(f"  {step.step}: {step.do}{layer}")
    return lines


def _tell_left_out(result: Result) -> None:
    if result.outcome is not None and result.outcome.left_out:
        chapters = Counter(chapter for chapter, _ in result.outcome.left_out_steps)
        where = ", ".join(f"{name} ({count})" for name, count in chapters.items())
        _tell(f"{result.title} has no layer that renews leases; left out: {where}")


def _tell(text: str) -> None:
    # It is followed while it runs, also through a pipe.
    print(text, flush=True)  # noqa: T201
