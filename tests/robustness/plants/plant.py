"""How a bug is written: a function that puts it into the broker, under the guarantee it breaks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Plant:
    """A bug.

    Args:
        guarantee: the one that it breaks.
        plant: what puts it into the broker.
        cards: what must befall the broker so that it shows.
        favourites: what callers must do.
    """

    guarantee: str
    plant: Callable[[], None]
    cards: Sequence[str]
    favourites: Sequence[str]


PLANTS: dict[str, Plant] = {}


def plant(
    guarantee: str, *, card: str = "murmur", favourites: Sequence[str] = ()
) -> Callable[[Callable[[], None]], Callable[[], None]]:
    """Register a bug under its function's name."""

    def register(bug: Callable[[], None]) -> Callable[[], None]:
        PLANTS[bug.__name__] = Plant(guarantee, bug, (card,), favourites)
        return bug

    return register


def put(owner: type, name: str, what: object) -> None:
    """Replace an attribute of a class for as long as the process lives."""
    setattr(owner, name, what)
