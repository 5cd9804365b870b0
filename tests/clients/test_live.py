"""The scenario on a real stage: the Python client passes, one that lies is found out.

Only the chapters that are lied about; `make test-clients` plays all of them, in every language.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from clients.conformance import readme, scenario
from clients.conformance.languages import CLIENTS, LANGUAGES
from clients.conformance.play import Play
from clients.conformance.readme import ReadmeError
from clients.conformance.runner import Runner
from clients.conformance.stage import stage
from tests.program import environment

PYTHON = CLIENTS / "python"
COMMAND = [sys.executable, "conformance/runner.py"]
Change = Callable[[Mapping[str, Any], dict[str, Any]], None]


class Liar(Runner):
    """Changes some answers on their way."""

    change: Change

    async def ask(self, request: Mapping[str, Any], timeout: float) -> dict[str, Any]:
        answer = await super().ask(request, timeout)
        self.change(request, answer)
        return answer


def item(answer: Mapping[str, Any]) -> dict[str, Any]:
    """The item that a `next` has given, if it has."""
    told = answer.get("result")
    return told if isinstance(told, dict) else {}


def skips_an_event(request: Mapping[str, Any], answer: dict[str, Any]) -> None:
    if item(answer).get("change", {}).get("reason") == "NEW_GENERATION":
        item(answer)["sequence"] += 1
        item(answer)["session"]["sequence"] += 1


def forgets_labels(request: Mapping[str, Any], answer: dict[str, Any]) -> None:
    if request["do"] == "open_session" and "result" in answer:
        del answer["result"]["session"]["labels"]


def says_anything(request: Mapping[str, Any], answer: dict[str, Any]) -> None:
    if "error" in answer:
        answer["error"]["type"] = "BrokerError"


LIES: list[tuple[str, Change, str]] = [
    ("a watch", skips_an_event, "nothing was missed and nothing told twice"),
    ("a session", forgets_labels, "a session is opened with all that can be said"),
    ("an open that is repeated", says_anything, "the request_id is good for no other open"),
]


# One test, since each worker would set a stage of its own.
@pytest.mark.timeout(300)
async def test_the_python_client_passes_and_one_that_lies_is_found_out(tmp_path: Path) -> None:
    lied_about = {name for name, _, _ in LIES}
    chapters = [each for each in scenario.read() if each.name in lied_about]
    async with stage() as ready:
        async with Runner(COMMAND, PYTHON, environment()) as runner:
            outcome = await Play(chapters, ready, runner, lambda _: None).run()
        assert not outcome.failures, "\n".join(map(str, outcome.failures))
        assert outcome.hello["language"] == "Python"
        assert not outcome.left_out
        assert outcome.passed == outcome.total == sum(len(each.steps) for each in chapters) > 0

        for name, change, step in LIES:
            chapter = [each for each in chapters if each.name == name]
            async with Liar(COMMAND, PYTHON, environment()) as runner:
                runner.change = change
                outcome = await Play(chapter, ready, runner, lambda _: None).run()
            assert [failure.step for failure in outcome.failures] == [step], change.__name__
            [failure] = outcome.failures
            assert failure.why
            assert "event" in failure.log

        python = LANGUAGES["python"]
        where = (PYTHON, python.program, ready.broker.address, environment())
        await readme.run(*where, python.ends)
        (tmp_path / "proto").mkdir()
        boaster = tmp_path / "clients" / "boaster"
        boaster.mkdir(parents=True)
        (boaster / "README.md").write_text(
            f"{readme.HEADING}\n\n```sh\necho {readme.ADDRESS} CONNECTED; exec sleep 30\n```\n"
        )
        with pytest.raises(ReadmeError, match="says CONNECTED, and no session is open"):
            await readme.run(boaster, "sh", *where[2:], (0,))
