"""How commands speak: lengths of time, and tables that fit."""

from __future__ import annotations

import pytest
from rich.text import Text

from broker.cli.output import Column, _fitting, span

COLUMNS = (
    Column("SESSION"),
    Column("WHY", folds=True),
    Column("GATEWAY", optional=True),
    Column("SINCE", optional=True),
)
ROW = [Text("x" * 36), Text("y" * 60), Text("default"), Text("2026-11-24 18:39:07")]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "0 ms"),
        (0, "0 ms"),
        (0.0084, "8 ms"),
        (0.9994, "999 ms"),
        (0.9996, "1.0 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 m 00 s"),
        (3599.4, "59 m 59 s"),
        (3600, "1 h 00 m"),
        (90_000, "1 d 01 h"),
    ],
)
def test_a_length_of_time_has_two_units_at_most(seconds: float, text: str) -> None:
    assert span(seconds) == text


@pytest.mark.parametrize(
    ("width", "shown"),
    [(200, [0, 1, 2, 3]), (92, [0, 1, 2, 3]), (91, [0, 1, 2]), (70, [0, 1]), (10, [0, 1])],
)
def test_a_narrow_terminal_does_without_the_last_optional_column_first(
    width: int, shown: list[int]
) -> None:
    assert _fitting(COLUMNS, [ROW], width) == shown
