"""The scenario is about everything that a client can be asked and told."""

from __future__ import annotations

import re

import pytest
from ibgateway.broker.v1 import error_pb2

from broker.errors import ErrorCode
from clients.conformance import scenario
from clients.conformance.languages import LANGUAGES
from clients.conformance.scenario import BadScenarioError, chapters
from tests.program import ROOT

CHAPTERS = scenario.read()
STEPS = [step for chapter in CHAPTERS for step in chapter.steps]
REASONS = {
    name.removeprefix("ERROR_REASON_")
    for name in error_pb2.ErrorReason.DESCRIPTOR.values_by_name
    if name != "ERROR_REASON_UNSPECIFIED"
}


@pytest.mark.parametrize("reason", sorted(REASONS))
def test_a_step_is_told_each_reason_with_its_type(reason: str) -> None:
    told = [step for step in STEPS if step.error and step.error.get("reason") == reason]
    assert any(step.error and step.error.get("type") for step in told)
    # A client without a layer is told it, too.
    assert any(not step.needs for step in told)


def test_the_reasons_are_those_of_the_documentation() -> None:
    rows = re.findall(r"^\| ([A-Z_0-9]+) \|", (ROOT / "docs/errors.md").read_text(), re.MULTILINE)
    assert set(rows) == REASONS
    assert scenario.reasons(CHAPTERS) >= set(rows)


@pytest.mark.parametrize("code", ErrorCode, ids=lambda code: code.reason)
def test_each_of_the_six_codes_is_decoded(code: ErrorCode) -> None:
    wanted = {"reason": code.reason, "retryable": code.retryable}
    assert any(
        step.error
        and isinstance(failure := step.error.get("failure"), dict)
        and failure.get("phase")
        and wanted.items() <= failure.items()
        for step in STEPS
    )


@pytest.mark.parametrize("request_", sorted(set(scenario.requests_of_protocol())))
def test_each_request_of_the_protocol_is_used(request_: str) -> None:
    assert any(step.do == request_ for step in STEPS)


def test_the_protocol_has_the_requests_that_we_think() -> None:
    assert {"hello", "next", "reset_circuit_breaker", "simulate"} <= set(
        scenario.requests_of_protocol()
    )


def test_every_chapter_has_steps_with_names_of_their_own() -> None:
    for chapter in CHAPTERS:
        names = [step.step for step in chapter.steps]
        assert names
        assert len(names) == len(set(names)), chapter.name


def test_it_does_not_wait_for_long() -> None:
    pauses = [step.with_["seconds"] for step in STEPS if step.do == "pause"]
    assert sum(pauses) < 15


def test_every_language_has_a_name_for_people() -> None:
    assert len({language.title for language in LANGUAGES.values()}) == len(LANGUAGES)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("- {chapter: c, steps: [{step: s, do: fly}]}", "there is no request 'fly'"),
        ("- {chapter: c, steps: [{step: s, do: hello, hope: 1}]}", "is no step"),
        ("- {chapter: c, steps: [{do: hello}]}", "is no step"),
        (
            "- {chapter: c, steps: [{step: s, do: hello, expect: !maybe 1}]}",
            "line 1: there is no !maybe",
        ),
        ("- {chapter: c, steps: [{step: s, do: hello, needs: luck}]}", "needs 'luck'"),
        ("- {chapter: c, steps: [{step: s, do: hello, expect: 1, error: {}}]}", "both fail"),
    ],
)
def test_what_cannot_be_played_is_refused(text: str, why: str) -> None:
    with pytest.raises(BadScenarioError, match=re.escape(why)):
        chapters(text)


def test_on_is_a_word_and_long_values_need_not_be_written() -> None:
    [chapter] = chapters(
        "- chapter: c\n  steps:\n    - {step: s, do: hello, on: off, with: {a: !repeat [x, 3], "
        "b: !labels 2, c: !copies [y, 2], d: true}}"
    )
    [step] = chapter.steps
    assert step.on == "off"
    assert step.with_ == {
        "a": "xxx",
        "b": {"key-0": "value", "key-1": "value"},
        "c": ["y", "y"],
        "d": True,
    }
