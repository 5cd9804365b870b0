"""Plays a scenario with a runner: sends the steps, compares the answers, and tells what differs."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from clients.conformance import continuity
from clients.conformance.matching import (
    UnknownNameError,
    error_problems,
    found_at,
    problems,
    resolved,
)
from clients.conformance.runner import Runner, RunnerError
from clients.conformance.scenario import STAGE_STEPS, Chapter, Step
from clients.conformance.stage import StageError

PATIENCE: Final = 30.0
_WITHIN: Final = 30.0
_WAITS: Final = frozenset({"next", "await", "wait_ended"})
"""The requests that wait, and are told for how long."""
_PAUSE: Final = 0.05
_SLOW: Final = 0.8
_LONGEST: Final = 3000
"""Characters that are shown of an answer."""


class Stage(Protocol):
    """What the steps of the harness's own are done on."""

    @property
    def names(self) -> Mapping[str, str]:
        """What a scenario may say for addresses, files and tokens."""

    async def perform(self, do: str, given: Mapping[str, Any]) -> dict[str, Any]:
        """A step of the harness's own."""

    async def tidy(self) -> None:
        """All is well and no session is open."""

    def log_tail(self) -> str:
        """The end of the broker's log."""


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A step that failed, and all that helps to see why."""

    chapter: str
    step: str
    why: Sequence[str]
    request: Mapping[str, Any] | None = None
    answer: Mapping[str, Any] | None = None
    expected: Any = None
    said: Sequence[str] = ()
    log: str = ""

    def __str__(self) -> str:
        lines = [f"✗ {self.chapter}: {self.step}", *(f"  {reason}" for reason in self.why)]
        for name, value in (
            ("request", self.request),
            ("answer", self.answer),
            ("expected", self.expected),
        ):
            if value is not None:
                text = json.dumps(value, ensure_ascii=False, default=str)
                lines.append(f"  {name}: {text[:_LONGEST]}")
        if self.said:
            lines += ["  the runner said:", *(f"    {line}" for line in self.said)]
        if self.log:
            lines.append(f"  the broker's log:{self.log}")
        return "\n".join(lines)


@dataclass
class Outcome:
    """What came of a scenario.

    Attributes:
        passed: how many steps.
        left_out_steps: those that this client has no layer for, with their chapters.
        unreached: those behind a failure in their chapter.
        failures: those that failed.
        hello: what the runner has said of itself.
    """

    passed: int = 0
    left_out_steps: list[tuple[str, str]] = field(default_factory=list)
    unreached: int = 0
    failures: list[Failure] = field(default_factory=list)
    hello: Mapping[str, Any] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """How many steps there were for this client."""
        return self.passed + self.unreached + len(self.failures)

    @property
    def left_out(self) -> int:
        """How many steps there were for others only."""
        return len(self.left_out_steps)

    @classmethod
    def of_nobody(cls, scenario: Sequence[Chapter], why: str) -> Outcome:
        """What comes of a runner that cannot even be started."""
        steps = sum(len(chapter.steps) for chapter in scenario)
        failure = Failure(chapter=scenario[0].name, step=scenario[0].steps[0].step, why=[why])
        return cls(unreached=steps - 1, failures=[failure])


class _StepError(Exception):
    """A step failed; the arguments say why."""


class Play:
    """One scenario with one runner.

    Args:
        scenario: its chapters.
        stage: on which it is played.
        runner: that was started.
        tell: is given each line of progress.
        patience: seconds for an answer, beyond what the request itself may take.
    """

    def __init__(
        self,
        scenario: Sequence[Chapter],
        stage: Stage,
        runner: Runner,
        tell: Callable[[str], None],
        *,
        patience: float = PATIENCE,
    ) -> None:
        self._scenario = scenario
        self._stage = stage
        self._runner = runner
        self._tell = tell
        self._patience = patience
        self._slowest = (0.0, "")
        self._outcome = Outcome()
        self._names: dict[str, Any] = {}
        self._connections: list[str] = []
        self._items: dict[str, list[Any]] = {}
        self._request: Mapping[str, Any] | None = None
        self._answer: Mapping[str, Any] | None = None
        self._expected: Any = None

    async def run(self) -> Outcome:
        """Play it to its end; a runner that does not keep to the protocol ends it.

        Raises:
            StageError: the stage itself fails.
        """
        outcome = self._outcome
        left = [step for chapter in self._scenario for step in chapter.steps]
        try:
            answer = await self._ask({"do": "hello"}, self._patience)
            outcome.hello = answer.get("result") or {}
            for chapter in self._scenario:
                began = time.monotonic()
                await self._chapter(chapter, left)
                self._tell(f"  {chapter.name}: {time.monotonic() - began:.1f} s{self._slow()}")
            await self._runner.finish()
        except RunnerError as error:
            step = left[0].step if left else "the end of its input"
            chapter_name = next(
                (each.name for each in self._scenario if left and left[0] in each.steps), "the end"
            )
            self._fail(chapter_name, step, [f"the runner is lost: {error}"])
            outcome.unreached += max(len(left) - 1, 0)
        return outcome

    async def _chapter(self, chapter: Chapter, left: list[Step]) -> None:
        """Play one, and leave nothing of it; takes its steps from those that are left."""
        self._names = {**self._stage.names, "run": uuid.uuid4().hex[:8]}
        self._items.clear()
        failed = False
        for step in chapter.steps:
            if step.needs == "layer" and not self._outcome.hello.get("layer"):
                self._outcome.left_out_steps.append((chapter.name, step.step))
            elif failed:
                self._outcome.unreached += 1
            else:
                failed = not await self._passes(chapter, step)
            left.remove(step)
        for name in self._connections:
            await self._ask({"do": "disconnect", "on": name}, 2 * self._patience)
        self._connections.clear()
        await self._stage.tidy()

    def _slow(self) -> str:
        """Which step has taken most of the time, if that is worth telling."""
        (seconds, step), self._slowest = self._slowest, (0.0, "")
        return f" ({step}: {seconds:.1f} s)" if seconds >= _SLOW else ""

    async def _passes(self, chapter: Chapter, step: Step) -> bool:
        self._request = self._answer = self._expected = None
        began = time.monotonic()
        try:
            for number in range(step.times):
                self._names["n"] = number
                await self._play(step)
        except _StepError as error:
            self._fail(chapter.name, step.step, error.args)
            return False
        except StageError as error:
            self._fail(chapter.name, step.step, [str(error)])
            return False
        except UnknownNameError as error:
            self._fail(chapter.name, step.step, [f"no step before has saved ${{{error}}}"])
            return False
        self._outcome.passed += 1
        self._slowest = max(self._slowest, (time.monotonic() - began, step.step))
        return True

    def _fail(self, chapter: str, step: str, why: Sequence[str]) -> None:
        failure = Failure(
            chapter=chapter,
            step=step,
            why=why,
            request=self._request,
            answer=self._answer,
            expected=self._expected,
            said=self._runner.said,
            log=self._stage.log_tail(),
        )
        self._outcome.failures.append(failure)
        self._tell(str(failure))

    async def _play(self, step: Step) -> None:
        given = resolved(step.with_, self._names)
        if step.do in STAGE_STEPS:
            answer = {"result": await self._perform(step.do, given)}
        elif step.until is not None:
            answer = await self._until(step, given)
        else:
            began = time.monotonic()
            answer = await self._once(step, given, step.within)
            took = time.monotonic() - began
            if step.within and step.do not in _WAITS and took > step.within:
                raise _StepError(f"it has taken {took:.1f} s, and should {step.within:g}")
        self._answer = answer
        self._judge(step, answer)
        for name, path in step.save.items():
            try:
                saved = found_at(answer["result"], path)
            except (LookupError, TypeError):
                raise _StepError(f"the answer has no {path}") from None
            self._names[resolved(name, self._names)] = saved

    async def _perform(self, do: str, given: Mapping[str, Any]) -> Mapping[str, Any]:
        self._request = {"do": do, "with": given}
        if do == "items":
            return {"items": self._items.get(given["watch"], [])}
        if do == "check_watch":
            told = [item for name in given["watches"] for item in self._items.get(name, [])]
            try:
                found = list(continuity.gaps(told, given.get("history")))
            except (LookupError, TypeError) as error:
                raise _StepError(f"an item that was told is none: {error!r}") from None
            if found:
                raise _StepError(*found)
            return {"items": told}
        return await self._stage.perform(do, given)

    async def _once(self, step: Step, given: Mapping[str, Any], within: float) -> dict[str, Any]:
        request: dict[str, Any] = {"do": step.do, "with": dict(given), "on": step.on}
        if within and step.do in _WAITS:
            request["with"]["within"] = within
        if step.background:
            request["background"] = step.background
        if step.do == "connect" and step.on not in self._connections:
            self._connections.append(step.on)
        if step.do == "disconnect" and step.on in self._connections:
            self._connections.remove(step.on)
        return await self._ask(request, max(within, given.get("deadline") or 0.0) + self._patience)

    async def _ask(self, request: Mapping[str, Any], timeout: float) -> dict[str, Any]:
        self._request = request
        answer = await self._runner.ask(request, timeout)
        self._answer = answer
        item = answer.get("result")
        is_read = request["do"] == "next" and not request.get("background")
        if is_read and isinstance(item, Mapping):
            self._items.setdefault(request["with"]["watch"], []).append(item)
        return answer

    async def _until(self, step: Step, given: Mapping[str, Any]) -> dict[str, Any]:
        """Repeat a request until its result is as wanted."""
        wanted = resolved(step.until, self._names)
        self._expected = wanted
        deadline = time.monotonic() + (step.within or _WITHIN)
        while True:
            left = max(deadline - time.monotonic(), _PAUSE)
            answer = await self._once(step, given, left if step.do == "next" else 0.0)
            if "result" not in answer or not any(problems(wanted, answer["result"])):
                return answer
            if time.monotonic() >= deadline:
                raise _StepError(
                    f"it was not so within {step.within or _WITHIN:g} s",
                    *problems(wanted, answer["result"]),
                )
            # A runner waits by itself for the next item, if it is right.
            if step.do != "next" or answer["result"] is None:
                await asyncio.sleep(_PAUSE)

    def _judge(self, step: Step, answer: Mapping[str, Any]) -> None:
        """Compare an answer with what is expected of it."""
        if "broken" in answer:
            raise _StepError(f"the runner cannot do it: {answer['broken']}")
        if step.error is not None:
            self._expected = resolved(step.error, self._names)
            if "error" not in answer:
                raise _StepError("it should have failed")
            found = list(error_problems(self._expected, answer["error"]))
        elif "error" in answer:
            raise _StepError("it has failed")
        else:
            expect = step.expect if step.until is None else None
            if expect is None:
                return
            self._expected = resolved(expect, self._names)
            found = list(problems(self._expected, answer["result"]))
        if found:
            raise _StepError(*found)
