"""How the client of each language is built, tested and run. A new one is a row of the table."""

from __future__ import annotations

import shutil
import signal
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.program import ROOT

CLIENTS: Final = ROOT / "clients"
Command = Sequence[str]


@dataclass(frozen=True, kw_only=True)
class Language:
    """A client, in its directory below ``clients``. Commands run there.

    In a command ``{build}`` is a directory for what is built, and ``{python}`` this interpreter. In
    the environment ``{directory}`` is the client's.

    Args:
        title: its name, for people.
        toolchain: the programs that it needs.
        build: what builds the client and its runner.
        tests: its own tests.
        runner: what starts the runner.
        program: the language of the block under "A watched session" in its README.
        env: more of the environment, for all of these.
        ends: how the README's program may end on Ctrl-C.
    """

    title: str
    toolchain: Sequence[str]
    build: Sequence[Command]
    tests: Sequence[Command]
    runner: Command
    program: str = "sh"
    env: Mapping[str, str] = field(default_factory=dict)
    ends: Collection[int] = (0,)

    def missing(self) -> list[str]:
        """The programs that are not here."""
        return [name for name in self.toolchain if shutil.which(name) is None]


LANGUAGES: Final[Mapping[str, Language]] = {
    "python": Language(
        title="Python",
        toolchain=[sys.executable],
        build=[],
        tests=[["{python}", "-m", "pytest", "--quiet", "--numprocesses", "2"]],
        runner=["{python}", "conformance/runner.py"],
        program="python",
        # An interpreter that nobody has told otherwise ends as the signal ends it.
        ends=(0, -signal.SIGINT),
    ),
    "typescript": Language(
        title="TypeScript",
        toolchain=["node", "npm"],
        build=[
            ["npm", "ci", "--no-audit", "--no-fund", "--loglevel=error"],
            ["npm", "run", "build"],
            ["npm", "exec", "--", "tsc", "--build", "tests"],
        ],
        tests=[["npm", "test"]],
        runner=["node", "build/conformance/runner.js"],
    ),
    "go": Language(
        title="Go",
        toolchain=["go"],
        build=[["go", "build", "-o", "{build}/runner", "./conformance"]],
        tests=[["go", "test", "./..."]],
        runner=["{build}/runner"],
    ),
    "java": Language(
        title="Java",
        toolchain=["java", "mvn"],
        build=[["mvn", "-q", "-B", "test-compile"]],
        tests=[["mvn", "-q", "-B", "verify"]],
        runner=["conformance/run.sh"],
    ),
    "rust": Language(
        title="Rust",
        toolchain=["cargo"],
        build=[["cargo", "build", "--quiet", "--example", "conformance"]],
        tests=[["cargo", "test", "--quiet"]],
        runner=["target/debug/examples/conformance"],
        # The README's program need not compile again what the client needs.
        env={"CARGO_TARGET_DIR": "{directory}/target"},
    ),
}


def filled(command: Command, build: Path) -> list[str]:
    """A command with its places filled in."""
    return [part.format(build=build, python=sys.executable) for part in command]
