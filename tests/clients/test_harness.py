"""The harness is not blind: a runner that errs makes the right step fail, and nothing hangs."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from clients.conformance.play import Outcome, Play
from clients.conformance.runner import Runner, RunnerError
from clients.conformance.scenario import chapters

SCENARIO = chapters("""
- chapter: first
  steps:
    - {step: connect, do: connect, with: {address: "${broker}"}}
    - step: ask
      do: get_session
      expect: {session: {state: CONNECTED}}
      save: {id: session.id}
    - step: be refused
      do: get_session
      with: {session_id: "${id}"}
      error: {type: SessionNotFoundError}
    - {step: renew, do: renew_session, needs: layer}
    - {step: read, do: next, with: {watch: w}, until: {kind: event, sequence: 2}, within: 0.5}
    - {step: look, do: check_watch, with: {watches: [w]}}
- chapter: second
  steps:
    - {step: count, do: list_gateways, times: 2, expect: {gateways: []}}
    - {step: wait, do: pause, with: {seconds: 3}}
""")
CONNECTED = {"result": {"session": {"state": "CONNECTED", "id": "7"}}}


def event(sequence: int) -> dict[str, Any]:
    told = {"session_id": "s", "sequence": sequence}
    return {
        "result": {
            "kind": "event",
            "persisted": True,
            "revision": sequence,
            **told,
            "session": told,
        }
    }


HELLO = {"result": {"language": "None", "layer": False}}
GOOD: list[Any] = [
    HELLO,
    {"result": {}},
    CONNECTED,
    {"error": {"type": "SessionNotFound"}},
    event(1),
    event(2),
    {"result": {}},  # the harness disconnects
    {"result": {"gateways": []}},
    {"result": {"gateways": []}},
]
RECITER = """
import sys, time
for answer in open(sys.argv[1]):
    if not sys.stdin.readline():
        break
    if answer == "HANG\\n":
        print("I hang", file=sys.stderr, flush=True)
        time.sleep(60)
    if answer == "CRASH\\n":
        sys.exit("I crash")
    sys.stdout.write(answer)
    sys.stdout.flush()
sys.stdin.read()
"""


class Nowhere:
    """A stage on which nothing stands."""

    def __init__(self) -> None:
        self.names: Mapping[str, str] = {"broker": "127.0.0.1:1"}
        self.done: list[str] = []

    async def perform(self, do: str, given: Mapping[str, Any]) -> dict[str, Any]:
        self.done.append(do)
        return dict(given)

    async def tidy(self) -> None:
        self.done.append("tidy")

    def log_tail(self) -> str:
        return "\n    the broker is well"


async def played(tmp_path: Path, answers: list[Any], stage: Nowhere | None = None) -> Outcome:
    """The scenario with a runner that says just this."""
    path = tmp_path / "answers"
    path.write_text(
        "".join(f"{each if isinstance(each, str) else json.dumps(each)}\n" for each in answers)
    )
    told: list[str] = []
    command = [sys.executable, "-S", "-c", RECITER, str(path)]
    async with Runner(command, tmp_path, starts=2.0) as runner:
        play = Play(SCENARIO, stage or Nowhere(), runner, told.append, patience=0.5)
        outcome = await play.run()
    for failure in outcome.failures:
        assert str(failure) in told
    return outcome


def but(place: int, answer: Any) -> list[Any]:
    return [answer if index == place else each for index, each in enumerate(GOOD)]


async def test_one_that_does_all_right_passes(tmp_path: Path) -> None:
    stage = Nowhere()
    outcome = await played(tmp_path, GOOD, stage)
    assert not outcome.failures, outcome.failures
    assert (outcome.passed, outcome.total, outcome.left_out) == (7, 7, 1)
    assert outcome.left_out_steps == [("first", "renew")]
    assert stage.done == ["tidy", "pause", "tidy"]


@pytest.mark.parametrize(
    ("place", "answer", "step", "why"),
    [
        (1, {"broken": "no such thing"}, "connect", "cannot do it: no such thing"),
        (2, {"result": {"session": {"state": "FAILED"}}}, "ask", "session.state should be"),
        (2, {"result": {"session": {}}}, "ask", "session.state should be"),
        (2, {"result": {"session": {"state": "CONNECTED"}}}, "ask", "has no session.id"),
        (2, {"error": {"type": "Whatever"}}, "ask", "it has failed"),
        (3, {"result": {}}, "be refused", "should have failed"),
        (3, {"error": {"type": "BrokerError"}}, "be refused", "type should be SessionNotFound"),
        (4, event(7), "read", "not so within 0.5 s"),
        (4, event(0), "look", "event 2 of s came where 1 was due"),
        (4, {"result": {"kind": "event"}}, "look", "is none"),
        (7, {"result": {"gateways": ["x"]}}, "count", "should be 0 elements"),
        (7, {"result": None}, "count", "should be an object"),
    ],
)
async def test_a_wrong_answer_fails_its_step_and_the_next_chapter_goes_on(
    tmp_path: Path, place: int, answer: Any, step: str, why: str
) -> None:
    answers = but(place, answer)
    if step == "read":  # it reads until its time is over
        answers[5:6] = [{"result": None}] * 30
    elif place < 6 and step != "look":  # the rest of its chapter is not asked
        answers[place + 1 : 6] = []
    outcome = await played(tmp_path, answers)
    first = outcome.failures[0]
    assert (first.step, first.answer) == (step, first.answer)
    assert why in str(first)
    if step != "read":  # how often it has read is not known, nor what is answered next
        assert len(outcome.failures) == 1
        assert outcome.passed + outcome.unreached == 6
        assert outcome.total == 7


@pytest.mark.parametrize(
    ("place", "answer", "step", "why"),
    [
        (0, "HANG", "connect", "not answered within"),
        (2, "HANG", "ask", "not answered within"),
        (2, "CRASH", "ask", "has ended, with code 1"),
        (4, "CRASH", "read", "has ended, with code 1"),
        (1, "Hello, I am a runner!", "connect", "is no JSON: 'Hello"),
        (3, "[1]", "be refused", "this is no answer"),
        (3, '{"result": 1, "error": {}}', "be refused", "this is no answer"),
        (8, "CRASH", "count", "has ended"),
    ],
)
async def test_one_that_is_lost_ends_the_scenario_at_that_step(
    tmp_path: Path, place: int, answer: str, step: str, why: str
) -> None:
    outcome = await played(tmp_path, but(place, answer))
    [failure] = outcome.failures
    assert failure.step == step
    assert why in str(failure)
    assert "the broker is well" in str(failure)
    if answer in {"HANG", "CRASH"}:
        assert f"I {answer.lower()}" in str(failure)
    assert outcome.total in {7, 8}  # a layer is not known of one that has not said hello


async def test_one_that_ends_with_a_failure_or_speaks_last_does_not_pass(tmp_path: Path) -> None:
    command = ["sh", "-c", f"read x; echo '{json.dumps(HELLO)}'; cat >/dev/null; exit 4"]
    async with Runner(command, tmp_path) as runner:
        outcome = await Play([], Nowhere(), runner, print, patience=0.5).run()
    [failure] = outcome.failures
    assert "ended with code 4" in str(failure)


async def test_one_that_cannot_be_started_is_told(tmp_path: Path) -> None:
    with pytest.raises(RunnerError, match="cannot be started"):
        async with Runner([tmp_path / "nothing"], tmp_path):
            pass
