"""The migrations go up and down, on empty and on filled databases."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import asyncpg
import pytest

from broker.errors import StartupError
from broker.session.client_ids import Quarantined
from broker.session.drain import Drain
from broker.session.machine import TRANSITIONS
from broker.store import postgres
from broker.store.migration import check, current, downgrade, head, upgrade
from broker.store.postgres import SCHEMA_VERSION, PostgresStore, StoreSettings
from tests.integration.test_store import NOW, life, opened
from tests.postgres import execute

ROOT = Path(__file__).resolve().parents[2]


async def tables(dsn: str) -> set[str]:
    connection = await asyncpg.connect(dsn)
    rows = await connection.fetch(
        "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'"
    )
    await connection.close()
    return {row[0] for row in rows}


async def contents(dsn: str) -> dict[str, list[str]]:
    """Every row of every table of ours as text, by table."""
    connection = await asyncpg.connect(dsn)
    found = {
        name: [
            row[0]
            for row in await connection.fetch(
                f"SELECT to_jsonb(t)::text FROM {name} AS t ORDER BY 1"  # noqa: S608
            )
        ]
        for name in sorted(await tables(dsn) - {"alembic_version"})
    }
    await connection.close()
    return found


def alembic(dsn: str, *arguments: str) -> None:
    """The plain command, in the tree."""
    done = subprocess.run(
        [sys.executable, "-m", "alembic", *arguments],
        cwd=ROOT,
        env={**os.environ, "DATABASE_URL": dsn},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr


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

    with pytest.raises(RecordRefusedError, match="port_check"):
        await store.append(opened(port=port))


def test_the_plain_alembic_command_works_in_the_tree(empty_database_url: str) -> None:
    for arguments in (["upgrade", "head"], ["check"], ["downgrade", "base"]):
        alembic(empty_database_url, *arguments)


async def test_a_filled_database_of_0001_goes_up_and_down_and_loses_nothing(
    empty_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    alembic(empty_database_url, "upgrade", "0001")
    monkeypatch.setattr(postgres, "SCHEMA_VERSION", "0001")
    store = await PostgresStore.open(StoreSettings(empty_database_url), "before")
    ended, active = life(7), opened(8)
    await store.append([*ended, *active])
    await store.close()
    monkeypatch.undo()
    before = await contents(empty_database_url)
    assert before["session_events"]

    assert await upgrade(empty_database_url) == ("0001", head())
    await check(empty_database_url)
    new: dict[str, list[str]] = {"client_id_quarantine": [], "gateways": []}
    assert await contents(empty_database_url) == before | new
    store = await PostgresStore.open(StoreSettings(empty_database_url), "after")
    assert await store.list_active_connections() == [
        replace(active[0].session, revision=len(ended) + 1)
    ]
    recorded = await store.list_events(ended[0].session_id)
    assert [event.change for event in recorded] == [event.change for event in ended]
    await store.quarantine("127.0.0.1", 4002, Quarantined(7, "LINK_LOST", NOW))
    await store.set_drain("default", Drain("ops", "", NOW))
    await store.close()

    filled = await contents(empty_database_url)
    await downgrade(empty_database_url, "0001")
    assert await contents(empty_database_url) == {
        name: rows for name, rows in filled.items() if name not in new
    }
    assert await upgrade(empty_database_url) == ("0001", head())
    assert await contents(empty_database_url) == filled | new


@pytest.mark.parametrize(
    ("table", "values", "constraint"),
    [
        ("client_id_quarantine", "('h', 0, 7, 'R', now(), 1)", "port_check"),
        ("client_id_quarantine", "('h', 65536, 7, 'R', now(), 1)", "port_check"),
        ("client_id_quarantine", "('h', 4002, 0, 'R', now(), 1)", "client_id_check"),
        ("client_id_quarantine", "('h', 4002, 10000, 'R', now(), 1)", "client_id_check"),
        ("gateways", "('g', NULL, 'r', now(), 1)", "drain_check"),
        ("gateways", "('g', 'a', NULL, now(), 1)", "drain_check"),
        ("gateways", "('g', 'a', 'r', NULL, 1)", "drain_check"),
        ("gateways", "('g', 'a', NULL, NULL, 1)", "drain_check"),
    ],
)
async def test_a_row_that_makes_no_sense_is_refused(
    database_url: str, table: str, values: str, constraint: str
) -> None:
    with pytest.raises(asyncpg.CheckViolationError, match=constraint):
        await execute(database_url, f"INSERT INTO {table} VALUES {values}")  # noqa: S608


async def test_a_database_that_is_away_is_told_in_a_line() -> None:
    with pytest.raises(StartupError, match="the migration failed"):
        await upgrade("postgresql://a:hunter2@127.0.0.1:1/x")
