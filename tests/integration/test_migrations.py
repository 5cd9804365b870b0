"""The migrations go up and down, on empty and on filled databases."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import asyncpg
import pytest

from broker.errors import StartupError
from broker.session.machine import TRANSITIONS
from broker.store.migration import check, current, downgrade, head, upgrade
from broker.store.postgres import SCHEMA_VERSION, PostgresStore
from tests.integration.test_store import life
from tests.postgres import execute

ROOT = Path(__file__).resolve().parents[2]


async def tables(dsn: str) -> set[str]:
    connection = await asyncpg.connect(dsn)
    rows = await connection.fetch(
        "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'"
    )
    await connection.close()
    return {row[0] for row in rows}


def test_the_code_needs_the_newest_migration() -> None:
    assert head() == SCHEMA_VERSION


@pytest.mark.requirement("AC-012")
async def test_an_empty_database_goes_up_is_checked_and_goes_down(empty_database_url: str) -> None:
    assert await current(empty_database_url) is None
    assert await upgrade(empty_database_url) == (None, head())
    assert await upgrade(empty_database_url) == (head(), head())
    await check(empty_database_url)
    await downgrade(empty_database_url, "base")
    assert await tables(empty_database_url) == {"alembic_version"}
    assert await upgrade(empty_database_url) == (None, head())


@pytest.mark.requirement("AC-012")
async def test_a_filled_database_is_checked_and_goes_down(
    store: PostgresStore, database_url: str
) -> None:
    await store.append(life())
    await store.close()
    await check(database_url)
    await downgrade(database_url, "base")
    assert await tables(database_url) == {"alembic_version"}


async def test_a_table_that_differs_is_found(database_url: str) -> None:
    await execute(database_url, "ALTER TABLE gateway_connections ADD COLUMN extra text")
    with pytest.raises(StartupError, match="extra"):
        await check(database_url)


async def test_the_database_has_the_nine_transitions_of_the_machine(database_url: str) -> None:
    connection = await asyncpg.connect(database_url)
    rows = await connection.fetch("SELECT source, target, number FROM session_transitions")
    await connection.close()
    assert {(row[0], row[1]): row[2] for row in rows} == {
        (source.value, target.value): number for (source, target), number in TRANSITIONS.items()
    }


@pytest.mark.parametrize("port", [0, 65536])
async def test_a_port_out_of_range_is_refused(store: PostgresStore, port: int) -> None:
    from broker.store.postgres import RecordRefusedError
    from tests.integration.test_store import opened

    with pytest.raises(RecordRefusedError, match="port_check"):
        await store.append(opened(port=port))


def test_the_plain_alembic_command_works_in_the_tree(empty_database_url: str) -> None:
    for arguments in (["upgrade", "head"], ["check"], ["downgrade", "base"]):
        done = subprocess.run(
            [sys.executable, "-m", "alembic", *arguments],
            cwd=ROOT,
            env={**os.environ, "DATABASE_URL": empty_database_url},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert done.returncode == 0, done.stderr


async def test_a_database_that_is_away_is_told_in_a_line() -> None:
    with pytest.raises(StartupError, match="the migration failed"):
        await upgrade("postgresql://a:hunter2@127.0.0.1:1/x")
