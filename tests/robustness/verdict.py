"""How a guarantee is written: a function that finds what breaks it.

    @guarantee
    def ordered(history: History) -> Iterator[Finding]:
        ...
        yield where, what

The function becomes one that returns a list of violations, each under the function's name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tests.robustness.history import History

Finding = tuple[str, str]
"""Where it is, and what is wrong."""


@dataclass(frozen=True, slots=True)
class Violation:
    """A guarantee was broken."""

    guarantee: str
    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.guarantee}: {self.where}: {self.what}"


Guarantee = Callable[[History], list[Violation]]
GUARANTEES: dict[str, Guarantee] = {}
"""All that were written, by name."""


def guarantee(find: Callable[[History], Iterator[Finding]]) -> Guarantee:
    """Make a guarantee of what finds its violations."""
    name = find.__name__

    def check(history: History) -> list[Violation]:
        return [Violation(name, where, what) for where, what in find(history)]

    check.__doc__ = find.__doc__
    check.__name__ = name
    GUARANTEES[name] = check
    return check
