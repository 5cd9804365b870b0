"""What a step expects, and how an answer is compared with it. Pure.

An expectation is a part: a mapping says what some of the keys must be, a list says all elements in
their order, null that there is nothing, and any other value itself. Tags of YAML say more:

    !any                    something, not null
    !at_least 1             a number, or more of them
    !between [0, 2]         a number within
    !matches REGEX          a text in which it is found
    !one_of [a, b]          one of these expectations is met
    !some x                 a list that has such an element
    !none x                 a list that has no such element
    !length 5               a list of so many
    !unordered [a, b]       a list of exactly these, in any order
    !numbered 1             items whose sequences count from this number
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

Names = Mapping[str, Any]
_NAME: Final = re.compile(r"\$\{(\w+)\}")
_SUFFIX: Final = re.compile(r"(error|exception)$")


class UnknownNameError(Exception):
    """A ${name} that no step before has saved."""


@dataclass(frozen=True)
class Check:
    """An expectation that is not a plain value.

    Args:
        tag: its name, without the exclamation mark.
        operand: what follows.
    """

    tag: str
    operand: Any

    def __str__(self) -> str:
        return f"!{self.tag} {self.operand}"


TAGS: Final = (
    *("any", "at_least", "between", "matches", "one_of"),
    *("some", "none", "length", "unordered", "numbered"),
)


def problems(expected: Any, found: Any, where: str = "") -> Iterator[str]:
    """What of an answer is not as expected, with its place.

    Args:
        expected: the expectation.
        found: the answer.
        where: the place of both.
    """
    at = where or "the answer"
    match expected:
        case Check():
            yield from _check(expected, found, at)
        case Mapping():
            if not isinstance(found, Mapping):
                yield f"{at} should be an object, and is {_short(found)}"
                return
            for key, value in expected.items():
                below = f"{where}.{key}" if where else str(key)
                yield from problems(value, found.get(key), below)
        case list():
            if not isinstance(found, list) or len(found) != len(expected):
                yield f"{at} should be {len(expected)} elements, and is {_short(found)}"
                return
            for index, (one, other) in enumerate(zip(expected, found, strict=True)):
                yield from problems(one, other, f"{at}[{index}]")
        case _:
            if not _equal(expected, found):
                yield f"{at} should be {_short(expected)}, and is {_short(found)}"


def error_problems(expected: Mapping[str, Any], found: Mapping[str, Any]) -> Iterator[str]:
    """As `problems`, for an error: languages name its type each in their way."""
    wanted = dict(expected)
    kind = wanted.pop("type", None)
    if kind is not None and plain_type(kind) != plain_type(str(found.get("type"))):
        yield f"the error's type should be {kind}, and is {found.get('type')!r}"
    yield from problems(wanted, found, "error")


def plain_type(name: str) -> str:
    """The name of an error's type without what is the language's."""
    return _SUFFIX.sub("", name.lower())


def resolved(value: Any, names: Names) -> Any:
    """A value with each ${name} in it replaced; one that is nothing else keeps its type.

    Raises:
        UnknownNameError: there is no such name.
    """
    match value:
        case str():
            whole = _NAME.fullmatch(value)
            if whole is not None:
                return _named(names, whole[1])
            return _NAME.sub(lambda found: str(_named(names, found[1])), value)
        case Check():
            return Check(value.tag, resolved(value.operand, names))
        case Mapping():
            return {resolved(key, names): resolved(below, names) for key, below in value.items()}
        case list():
            return [resolved(below, names) for below in value]
    return value


def found_at(answer: Any, path: str) -> Any:
    """What an answer has at a path such as ``sessions.0.session_id``.

    Raises:
        LookupError: nothing is there.
    """
    for part in path.split("."):
        answer = answer[int(part)] if isinstance(answer, list) else answer[part]
    return answer


def _named(names: Names, name: str) -> Any:
    if name not in names:
        raise UnknownNameError(name)
    return names[name]


def _check(check: Check, found: Any, at: str) -> Iterator[str]:
    operand = check.operand
    if not _holds(check, found):
        wanted = f"!{check.tag}" if check.tag == "any" else f"!{check.tag} {_short(operand)}"
        yield f"{at} should be {wanted}, and is {_short(found)}"


def _holds(check: Check, found: Any) -> bool:
    operand = check.operand
    match check.tag:
        case "any":
            return found is not None
        case "at_least":
            number = len(found) if isinstance(found, list) else found
            return _is_number(number) and bool(number >= operand)
        case "between":
            return _is_number(found) and bool(operand[0] <= found <= operand[1])
        case "matches":
            return isinstance(found, str) and re.search(str(operand), found) is not None
        case "one_of":
            return any(_met(each, found) for each in operand)
        case "some":
            return isinstance(found, list) and any(_met(operand, each) for each in found)
        case "none":
            return isinstance(found, list) and not any(_met(operand, each) for each in found)
        case "length":
            return isinstance(found, list) and len(found) == operand
        case "unordered":
            return isinstance(found, list) and _same(operand, found)
        case "numbered":
            return isinstance(found, list) and [each.get("sequence") for each in found] == list(
                range(operand, operand + len(found))
            )
    raise AssertionError(check.tag)


def _met(expected: Any, found: Any) -> bool:
    return not any(problems(expected, found))


def _same(expected: Sequence[Any], found: Sequence[Any]) -> bool:
    left = list(found)
    for each in expected:
        match = next((other for other in left if _met(each, other)), None)
        if match is None:
            return False
        left.remove(match)
    return not left


def _equal(expected: Any, found: Any) -> bool:
    # True is 1 in Python, and nowhere in JSON.
    if isinstance(expected, bool) or isinstance(found, bool):
        return expected is found
    return bool(expected == found)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 300 else f"{text[:300]}…"
