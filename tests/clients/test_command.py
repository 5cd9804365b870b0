"""`python -m clients.conformance`, as it is typed."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

import psutil
import pytest

from clients.conformance import command
from clients.conformance.languages import LANGUAGES, Language
from clients.conformance.readme import HEADING, ReadmeError, block
from clients.conformance.trial import FAILED, PASSED, Result, Trial, table
from tests.harness import eventually
from tests.program import ROOT, environment

HARNESS = (sys.executable, "-m", "clients.conformance")


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        command.run(["--help"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    for word in ("examples:", "To add a step", "To add a language", "CI=true", "--chapter"):
        assert word in said


def test_the_steps_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.run(["--list", "--chapter", "leases"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("leases:\n  connect: connect\n")
    assert "(needs a layer)" in said


def test_bad_input_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.run(["--list", "--chapter", "nonsense"]) == 2
    assert "nonsense" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        command.run(["cobol"])
    assert ended.value.code == 2
    assert "cobol: there is python, typescript" in capsys.readouterr().err


@pytest.mark.parametrize(("ci", "code"), [("", 0), ("true", 1)])
def test_a_language_that_is_not_here_is_said_and_left_out_and_fails_ci(
    ci: str,
    code: int,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CI", ci)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert command.run(["go", "--clients", str(tmp_path)]) == code
    assert "Go: left out: go not here" in capsys.readouterr().out


def language(**more: object) -> Language:
    given: dict[str, object] = {
        "title": "Shell",
        "toolchain": ["sh"],
        "build": [],
        "tests": [["true"]],
        "runner": ["cat"],
    }
    return Language(**(given | more))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("more", "tests", "is_broken", "said"),
    [
        ({}, PASSED, False, "its own tests"),
        ({"tests": [["sh", "-c", "echo 3 of 4 >&2; exit 1"]]}, FAILED, False, "3 of 4"),
        ({"build": [["sh", "-c", "echo no compiler; exit 2"]]}, "-", True, "no compiler"),
        ({"build": [["./nothing"]]}, "-", True, "cannot be started"),
    ],
)
async def test_a_build_or_a_test_that_fails_is_told(
    tmp_path: Path, more: dict[str, object], tests: str, is_broken: bool, said: str
) -> None:
    told: list[str] = []
    trial = Trial(language(**more), tmp_path, told.append)
    result = await trial.run(None, [], ["tests"])
    assert (result.tests, result.is_broken) == (tests, is_broken)
    assert result.failed is (tests != PASSED)
    assert said in "\n".join(told)


def test_the_table_has_a_row_for_each() -> None:
    rows = table(
        [
            Result("Go", tests=PASSED, readme=FAILED, seconds=12.4),
            Result("Rust", left_out="cargo not here, nor anywhere that could be thought of"),
        ]
    ).splitlines()
    assert rows[0].split() == ["language", "steps", "passed", "own", "tests", "README", "seconds"]
    assert rows[1].split() == ["Go", "-", "passed", "failed", "12"]
    assert rows[2].startswith("Rust      left out: cargo not here")


def test_a_readme_without_a_program_is_told(tmp_path: Path) -> None:
    page = tmp_path / "README.md"
    page.write_text(f"# x\n\n{HEADING}\n\n```text\nno\n```\n\n## Other\n\n```sh\nls\n```\n")
    with pytest.raises(ReadmeError, match="no block of sh"):
        block(page, "sh")
    page.write_text(f"# x\n\n{HEADING}\n\nText.\n\n```sh\nls\n```\n")
    assert block(page, "sh") == "ls\n"


@pytest.mark.parametrize("name", LANGUAGES)
def test_what_a_language_needs_is_asked_for(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    expected = [] if name == "python" else list(LANGUAGES[name].toolchain)
    assert LANGUAGES[name].missing() == expected


async def test_ctrl_c_ends_all_that_was_started(tmp_path: Path) -> None:
    tests = tmp_path / "python"
    tests.mkdir()
    begun = tmp_path / "begun"
    (tests / "test_endless.py").write_text(
        "import pathlib, subprocess\n"
        "def test_it():\n"
        "    child = subprocess.Popen(['sleep', '60'])\n"
        f"    pathlib.Path({str(begun)!r}).write_text(str(child.pid))\n"
        "    child.wait()\n"
    )
    process = await asyncio.create_subprocess_exec(
        *(*HARNESS, "python", "--only", "tests", "--clients", str(tmp_path)),
        cwd=ROOT,
        env=environment(),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        await eventually(lambda: begun.exists() and begun.read_text(), 40)
        children = psutil.Process(process.pid).children(recursive=True)
        assert int(begun.read_text()) in {child.pid for child in children}
        process.send_signal(signal.SIGINT)
        async with asyncio.timeout(15):
            _, said = await process.communicate()
        assert process.returncode == 130, said.decode()
        assert "interrupted" in said.decode()
        await eventually(lambda: not any(child.is_running() for child in children), 10)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
