"""The scenario as it is written down, in chapters/: see README.md."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from clients.conformance.matching import TAGS, Check

HERE: Final = Path(__file__).parent
CHAPTERS: Final = HERE / "chapters"
README: Final = HERE / "README.md"
STAGE_STEPS: Final = frozenset(
    {
        *("stop_broker", "start_broker", "restart_broker", "stop_database", "start_database"),
        *("pause", "make_uuid", "items", "check_watch", "heard", "forget_heard"),
    }
)
"""What the harness does itself."""


class BadScenarioError(Exception):
    """The scenario cannot be played as it is written."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One request, and what must come of it.

    Args:
        step: what it shows, for the reader.
        do: a request of the protocol, or a step of the harness's own.
        with_: its parameters.
        on: the connection.
        background: the name under which it goes on by itself.
        expect: what the result must be.
        error: what the error must be; None if there must be none.
        until: repeat it until this is met: `next` reads on, anything else is asked again.
        within: seconds for it, or for all of its repetitions.
        save: names for what the answer has at a path.
        needs: "layer" if only a client that renews leases by itself can do it.
        times: how often; ${n} counts from 0.
    """

    step: str
    do: str
    with_: Mapping[str, Any] = field(default_factory=dict)
    on: str = "main"
    background: str = ""
    expect: Any = None
    error: Mapping[str, Any] | None = None
    until: Any = None
    within: float = 0.0
    save: Mapping[str, str] = field(default_factory=dict)
    needs: str = ""
    times: int = 1


@dataclass(frozen=True)
class Chapter:
    """Steps that build on each other; nothing of them is left for the next chapter."""

    name: str
    steps: Sequence[Step]


class _Loader(yaml.SafeLoader):
    """Reads the tags of expectations, and of values that would be long to write. `on` is a word."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - as in its base
        first: [
            (tag, pattern) for tag, pattern in found if first not in "OoYyNn" or "bool" not in tag
        ]
        for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


def _construct(loader: yaml.SafeLoader, node: yaml.Node) -> Any:
    match node:
        case yaml.MappingNode():
            return loader.construct_mapping(node, deep=True)
        case yaml.SequenceNode():
            return loader.construct_sequence(node, deep=True)
        case yaml.ScalarNode():
            # Without its tag, so that a number is one.
            untyped: Any = loader
            kind = untyped.resolve(yaml.ScalarNode, node.value, (True, False))
            return untyped.construct_object(yaml.ScalarNode(kind, node.value), deep=True)
    raise AssertionError(node)


def _check(loader: yaml.SafeLoader, tag: str, node: yaml.Node) -> Any:
    operand = _construct(loader, node)
    if tag == "repeat":  # !repeat [x, 257] is a long text
        return operand[0] * operand[1]
    if tag == "labels":  # !labels 33 are so many
        return {f"key-{number}": "value" for number in range(operand)}
    if tag == "copies":  # !copies [x, 101] is a long list
        return [operand[0]] * operand[1]
    if tag in TAGS:
        return Check(tag, operand)
    raise BadScenarioError(f"line {node.start_mark.line + 1}: there is no !{tag}")


_Loader.add_multi_constructor("!", _check)


def read(directory: Path = CHAPTERS) -> list[Chapter]:
    """The chapters of a scenario, from the files of a directory in the order of their names.

    Raises:
        BadScenarioError: it says something that cannot be played.
    """
    found = []
    for path in sorted(directory.glob("*.yaml")):
        try:
            found += chapters(path.read_text(encoding="utf-8"))
        except BadScenarioError as error:
            raise BadScenarioError(f"{path}: {error}") from None
    return found


def chapters(text: str) -> list[Chapter]:
    """Likewise, from its text."""
    requests = set(requests_of_protocol())
    found = []
    for told in yaml.load(text, Loader=_Loader):  # noqa: S506 - a SafeLoader with tags of ours
        name = told["chapter"]
        steps = [_step(name, each, told.get("needs", "")) for each in told["steps"]]
        for step in steps:
            if step.do not in requests | STAGE_STEPS:
                raise BadScenarioError(f"{name}: {step.step}: there is no request {step.do!r}")
        found.append(Chapter(name, steps))
    return found


def _step(chapter: str, told: dict[str, Any], needs: str) -> Step:
    fields = {"with_" if key == "with" else key: value for key, value in told.items()}
    known = {each.name for each in dataclasses.fields(Step)}
    if fields.keys() - known or not {"step", "do"} <= fields.keys():
        raise BadScenarioError(f"{chapter}: {told} is no step")
    step = Step(**{"needs": needs, **fields})
    if step.needs not in {"", "layer"}:
        raise BadScenarioError(f"{chapter}: {step.step}: needs {step.needs!r}")
    if step.error is not None and (step.expect is not None or step.until is not None):
        raise BadScenarioError(f"{chapter}: {step.step}: it cannot both fail and succeed")
    return step


def requests_of_protocol() -> Iterator[str]:
    """The requests that README.md gives in its table."""
    _, _, requests = README.read_text(encoding="utf-8").partition("## Requests")
    _, _, table = requests.partition("|---|")
    for row in re.findall(r"^\| (`[^|]+) \|", table, re.MULTILINE):
        yield from re.findall(r"`(\w+)`", row)


def reasons(scenario: Sequence[Chapter]) -> set[str]:
    """Every reason of an error that a step expects to be told."""
    return {
        str(step.error["reason"])
        for chapter in scenario
        for step in chapter.steps
        if step.error is not None and step.error.get("reason")
    }
