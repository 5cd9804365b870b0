"""What an answer is compared with, and whether a watch is complete."""

from __future__ import annotations

from typing import Any

import pytest

from clients.conformance.continuity import gaps
from clients.conformance.matching import (
    Check,
    UnknownNameError,
    error_problems,
    found_at,
    problems,
    resolved,
)

MET: list[tuple[Any, Any]] = [
    ({"a": 1}, {"a": 1, "b": 2}),
    ({"a": None}, {}),
    ({"a": 60}, {"a": 60.0}),
    ([1, {"b": 2}], [1, {"b": 2, "c": 3}]),
    (Check("any", None), ""),
    (Check("at_least", 2), 2),
    (Check("at_least", 2), [1, 2, 3]),
    (Check("between", [0, 1]), 0.5),
    (Check("matches", "^a.c"), "abcd"),
    (Check("one_of", [None, {"kind": "bookmark"}]), None),
    (Check("some", {"a": 1}), [{"a": 2}, {"a": 1}]),
    (Check("none", {"a": 1}), [{"a": 2}]),
    (Check("length", 0), []),
    (Check("unordered", [1, 2, 2]), [2, 1, 2]),
    (Check("numbered", 3), [{"sequence": 3}, {"sequence": 4}]),
]
NOT_MET: list[tuple[Any, Any]] = [
    ({"a": 1}, {"a": 2}),
    ({"a": 1}, {}),
    ({"a": 1}, None),
    ({"a": None}, {"a": 0}),
    ({"a": True}, {"a": 1}),
    ({"a": 1}, {"a": True}),
    ({"a": 1}, {"a": "1"}),
    ([1], [1, 2]),
    ([1, 2], [2, 1]),
    (Check("any", None), None),
    (Check("at_least", 2), 1),
    (Check("at_least", 0), True),
    (Check("at_least", 0), "1"),
    (Check("between", [0, 1]), None),
    (Check("matches", "a"), None),
    (Check("one_of", [1, 2]), 3),
    (Check("some", 1), None),
    (Check("none", 1), None),
    (Check("length", 1), []),
    (Check("unordered", [1, 2, 2]), [1, 1, 2]),
    (Check("numbered", 1), [{"sequence": 1}, {"sequence": 3}]),
]


@pytest.mark.parametrize(("expected", "found"), MET, ids=str)
def test_a_part_is_met(expected: Any, found: Any) -> None:
    assert list(problems(expected, found)) == []


@pytest.mark.parametrize(("expected", "found"), NOT_MET, ids=str)
def test_a_part_is_not_met(expected: Any, found: Any) -> None:
    assert list(problems(expected, found))


def test_what_differs_is_told_with_its_place() -> None:
    expected = {"sessions": [{"state": "CONNECTED"}, {"labels": {"a": Check("matches", "x")}}]}
    found = {"sessions": [{"state": "FAILED"}, {"labels": {"a": "y"}}]}
    assert list(problems(expected, found)) == [
        "sessions[0].state should be 'CONNECTED', and is 'FAILED'",
        "sessions[1].labels.a should be !matches 'x', and is 'y'",
    ]


@pytest.mark.parametrize(
    "name", ["ClientIDInUseError", "ClientIdInUseException", "ClientIdInUse", "clientidinuse"]
)
def test_languages_name_an_error_each_in_their_way(name: str) -> None:
    assert not list(error_problems({"type": "ClientIDInUseError"}, {"type": name}))


@pytest.mark.parametrize("name", ["ClientIdsExhaustedError", "BrokerError", None])
def test_another_error_is_another(name: str | None) -> None:
    assert list(error_problems({"type": "ClientIDInUseError"}, {"type": name}))


def test_names_are_replaced_and_keep_their_types() -> None:
    names = {"id": "x", "n": 3, "events": [1]}
    told = {"a": "${id}-${n}", "b": ["${n}"], "c": Check("some", "${events}"), "h${n}": 1}
    assert resolved(told, names) == {"a": "x-3", "b": [3], "c": Check("some", [1]), "h3": 1}
    with pytest.raises(UnknownNameError, match="nobody"):
        resolved(["${nobody}"], names)


def test_a_path_leads_into_an_answer() -> None:
    assert found_at({"sessions": [{"id": 1}]}, "sessions.0.id") == 1
    with pytest.raises(LookupError):
        found_at({"sessions": []}, "sessions.0.id")


def event(sequence: int, revision: int, **more: Any) -> dict[str, Any]:
    return {
        "kind": "event",
        "session_id": "s",
        "sequence": sequence,
        "revision": revision,
        "persisted": True,
        "session": {"session_id": "s", "sequence": sequence},
        **more,
    }


SNAPSHOT = {"kind": "snapshot", "session": {"session_id": "s", "sequence": 2}}
COMPLETE = {"kind": "snapshot_complete"}


@pytest.mark.parametrize(
    "items",
    [
        [],
        [SNAPSHOT, COMPLETE, event(3, 7), event(4, 9)],
        [event(3, 7), {"kind": "bookmark"}, event(4, 8)],
        # What is not on record yet comes again.
        [SNAPSHOT, COMPLETE, event(3, 0, persisted=False), event(3, 7)],
        # What is known is void after a reset.
        [SNAPSHOT, COMPLETE, event(3, 7), {"kind": "reset"}, SNAPSHOT, COMPLETE, event(3, 7)],
    ],
)
def test_a_watch_is_complete(items: list[dict[str, Any]]) -> None:
    assert list(gaps(items)) == []


@pytest.mark.parametrize(
    "items",
    [
        [SNAPSHOT, COMPLETE, event(4, 7)],
        [SNAPSHOT, COMPLETE, event(2, 7)],
        [event(3, 7), event(5, 8)],
        [event(3, 7), event(3, 8)],
        [event(3, 7), event(4, 7)],
        [event(3, 7, session={"session_id": "s", "sequence": 2})],
    ],
)
def test_a_watch_is_not_complete(items: list[dict[str, Any]]) -> None:
    assert list(gaps(items))


def test_what_is_on_record_must_have_been_told() -> None:
    record = [event(number, number) for number in range(1, 6)]
    assert list(gaps(record[1:4], record)) == []
    assert list(gaps([], record))
    # Nothing else shows what another session's watch has missed.
    assert list(gaps([event(2, 2), event(4, 4)], record))
