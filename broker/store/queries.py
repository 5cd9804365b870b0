"""The named statements of ``queries.sql``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib import resources
from typing import Final

_NAME: Final = re.compile(r"^-- name: (\w+)$", re.MULTILINE)


def parse(text: str) -> Mapping[str, str]:
    """Statements by name, each with its comment, from ``-- name: x`` to the next one.

    Raises:
        ValueError: a name occurs twice, or something precedes the first name.
    """
    preamble, *parts = _NAME.split(text)
    names, bodies = parts[::2], parts[1::2]
    if any(line and not line.startswith("--") for line in preamble.splitlines()):
        raise ValueError("a statement has no name")
    if len(set(names)) != len(names):
        raise ValueError(f"a name occurs twice: {sorted(names)}")
    return dict(zip(names, (body.strip().removesuffix(";") for body in bodies), strict=True))


QUERIES: Final[Mapping[str, str]] = parse(
    resources.files(__package__).joinpath("queries.sql").read_text(encoding="utf-8")
)
"""Every statement that the store sends."""
