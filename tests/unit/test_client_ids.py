"""Who holds which client id."""

from __future__ import annotations

import uuid

import pytest

from broker.errors import ClientIdsExhaustedError
from broker.session.client_ids import ClientIds, Pool

A, B = uuid.uuid4(), uuid.uuid4()


def ids(first: int = 100, last: int = 102, reserved: frozenset[int] = frozenset()) -> ClientIds:
    return ClientIds("paper", Pool(first, last), reserved)


def test_the_pool_gives_the_lowest_free_id_and_says_when_there_is_none() -> None:
    held = ids()
    for expected in (100, 101, 102):
        assert held.from_pool() == expected
        held.take(expected, A)
    with pytest.raises(ClientIdsExhaustedError, match="100-102"):
        held.from_pool()


def test_a_held_id_cannot_be_taken_and_only_its_holder_releases_it() -> None:
    held = ids()
    held.take(7, A)
    with pytest.raises(ValueError, match="held"):
        held.take(7, B)
    held.release(7, B)
    assert held.holders == {7: A}
    held.release(7, A)
    held.take(7, B)


def test_the_next_id_skips_what_is_held_or_reserved() -> None:
    held = ids(reserved=frozenset({9, 9999}))
    held.take(8, A)
    assert held.after(7) == 10
    assert held.after(9998) is None


def test_an_id_of_the_pool_is_followed_by_one_of_the_pool() -> None:
    held = ids()
    assert held.after(101) == 102
    assert held.after(102) is None
    assert held.after(99) == 100
