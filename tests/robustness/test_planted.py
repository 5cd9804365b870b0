"""The checker finds a bug planted in the real broker, and says which guarantee it breaks."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from broker.store.embedded import EmbeddedPostgres
from tests.robustness.checker import check, report
from tests.robustness.database import Database
from tests.robustness.history import Limits
from tests.robustness.plants.bugs import BUGS
from tests.robustness.proxy import Proxy
from tests.robustness.run import Scenario, run
from tests.robustness.verdict import GUARANTEES

QUICK = Limits(bookmark_interval=0.2, margin=1.0)


@pytest.fixture
async def cluster(postgres_cluster: EmbeddedPostgres) -> AsyncIterator[Database]:
    """The server of all tests, behind a proxy of this one's."""
    async with Proxy().serving() as proxy:
        yield Database.of(postgres_cluster, proxy)


def scenario(name: str) -> Scenario:
    """A moment's traffic of a broker with a bug."""
    return Scenario(
        seed=1,
        seconds=1.5,
        command=("-m", "tests.robustness.planted", name),
        cards=BUGS[name].cards,
        faults=False,
        callers=2,
        watchers=4,
        favourites=BUGS[name].favourites,
        pace=0.1,
        limits=QUICK,
        patience=3.0,
    )


SHORT = {
    "neighbours_are_swapped",
    "an_event_is_sent_again",
    "an_event_is_skipped",
    "a_provisional_event_is_another",
    "a_token_means_the_next_event",
    "a_bookmark_overtakes_an_event",
    "a_snapshot_is_behind_its_position",
}
"""One for each guarantee of a watch: they are looked for in every run of the suite."""
LONG = bool(os.environ.get("MINUTES"))
chosen = [name for name in BUGS if LONG or name in SHORT]


@pytest.mark.parametrize("name", chosen)
async def test_a_planted_bug_is_found_and_named_right(
    name: str, cluster: Database, tmp_path: Path
) -> None:
    result = await run(scenario(name), cluster, tmp_path)
    violations = check(result.history)
    found = {violation.guarantee for violation in violations}
    assert BUGS[name].guarantee in found, f"{result}\n{report(violations)}"


@pytest.mark.skipif(not LONG, reason="test_robustness shows it, too")
async def test_nothing_is_found_where_nothing_is_planted(cluster: Database, tmp_path: Path) -> None:
    plain = Scenario(seed=1, seconds=1.5, cards=("murmur",), faults=False, limits=QUICK)
    result = await run(plain, cluster, tmp_path)
    violations = check(result.history)
    assert not violations, f"{result}\n{report(violations)}"


def test_every_guarantee_has_a_bug_that_breaks_it() -> None:
    assert {planted.guarantee for planted in BUGS.values()} == set(GUARANTEES)
