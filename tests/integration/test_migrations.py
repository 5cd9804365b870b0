"""The migrations go up and down, on empty and on filled databases."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from broker.errors import StartupError
from broker.session.client_ids import Quarantined
from broker.session.drain import Drain
from broker.session.machine import TRANSITIONS
from broker.session.model import SessionEvent, Transition
from broker.simulator.gateway import SimulatedGateway
from broker.store.codec import KINDS, encode_event
from broker.store.migration import check, current, downgrade, head, upgrade
from broker.store.postgres import SCHEMA_VERSION, StoreSettings
from broker.store.record import PostgresStore
from tests.harness import serving
from tests.integration.test_store import NOW, leased, life, opened, requested
from tests.postgres import execute

ROOT = Path(__file__).resolve().parents[2]

NEW_IN_0003 = ("lease_ttl", "request_id", "request_hash")
NEW_TABLES = {"0001": ("client_id_quarantine", "gateways"), "0002": ()}


async def fill(dsn: str, events: Sequence[SessionEvent]) -> None:
    """Record events as a broker before 0003 did: its payloads have no newer keys."""
    sessions: dict[str, Any] = {}
    rows = []
    for revision, event in enumerate(events, 1):
        payload = json.loads(encode_event(event))
        for name in NEW_IN_0003:
            del payload["session"][name]
        move = event.change if isinstance(event.change, Transition) else None
        sessions[str(event.session_id)] = payload["session"] | {"revision": revision, "epoch": 1}
        rows.append(
            {
                "revision": revision,
                "session_id": str(event.session_id),
                "sequence": event.sequence,
                "kind": KINDS[type(event.change)],
                "transition_source": move and move.source,
                "transition_target": move and move.target,
                "payload": payload,
                "time": event.time.isoformat(),
                "correlation_id": str(event.correlation_id),
                "epoch": 1,
            }
        )
    connection = await asyncpg.connect(dsn)
    for table, found in (
        ("gateway_connections", list(sessions.values())),
        ("session_events", rows),
    ):
        await connection.execute(
            f"INSERT INTO {table} SELECT * FROM jsonb_populate_recordset(NULL::{table}, $1)",  # noqa: S608
            json.dumps(found),
        )
    await connection.execute("UPDATE broker_store SET revision = $1, epoch = 1", len(rows))
    await connection.close()


def without(rows: list[str], names: Sequence[str]) -> list[dict[str, Any]]:
    """Rows without columns, which must be null in each."""
    found = [json.loads(row) for row in rows]
    for row in found:
        assert [row.pop(name) for name in names] == [None] * len(names)
    return found


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


def test_a_start_does_not_load_alembic_before_there_is_something_to_migrate() -> None:
    program = (
        "import sys, broker.app; sys.exit(sys.modules.keys() & {'alembic', 'sqlalchemy'} != set())"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, timeout=30, check=True)


async def test_a_broker_that_may_migrate_does_so_and_leaves_what_is_newer(
    simulator: SimulatedGateway, empty_database_url: str
) -> None:
    for _ in range(2):
        async with serving(simulator, empty_database_url, auto_migrate=True):
            assert await current(empty_database_url) == SCHEMA_VERSION
    await execute(empty_database_url, "UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(StartupError, match="made by a newer broker"):
        async with serving(simulator, empty_database_url, auto_migrate=True):
            pass


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
    await store.append([*life(), *leased(8), *opened(9, lease_ttl=1.0, **requested(2))])
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


def test_the_plain_alembic_command_works_in_the_tree(empty_database_url: str) -> None:
    for arguments in (["upgrade", "head"], ["check"], ["downgrade", "base"]):
        alembic(empty_database_url, *arguments)


@pytest.mark.parametrize("version", ["0001", "0002"])
async def test_a_filled_database_of_an_older_version_goes_up_and_down_and_loses_nothing(
    empty_database_url: str, version: str
) -> None:
    dsn = empty_database_url
    alembic(dsn, "upgrade", version)
    ended, active = life(7), opened(8)
    await fill(dsn, [*ended, *active])
    if version == "0002":
        await execute(dsn, "INSERT INTO gateways VALUES ('paper', 'ops', '', now(), 1)")
    before = await contents(dsn)
    assert before["session_events"]

    assert await upgrade(dsn) == (version, head())
    await check(dsn)
    after = await contents(dsn)
    sessions = after.pop("gateway_connections")
    assert without(sessions, NEW_IN_0003) == [json.loads(r) for r in before["gateway_connections"]]
    rest = {name: rows for name, rows in before.items() if name != "gateway_connections"}
    assert after == rest | {name: [] for name in NEW_TABLES[version]}

    store = await PostgresStore.open(StoreSettings(dsn), "after")
    assert await store.list_active_connections() == [
        replace(active[0].session, revision=len(ended) + 1)
    ]
    recorded = await store.list_events(ended[0].session_id, limit=100)
    assert [event.change for event in recorded] == [event.change for event in ended]
    assert [event.session.lease_ttl for event in recorded] == [None] * len(ended)
    await store.append(leased(9))
    await store.append(opened(10, **requested(2)))
    await store.quarantine("127.0.0.1", 4002, Quarantined(7, "LINK_LOST", NOW))
    await store.set_drain("default", Drain("ops", "", NOW))
    await store.close()

    filled = await contents(dsn)
    await downgrade(dsn, version)
    down = await contents(dsn)
    assert set(filled) - set(down) == set(NEW_TABLES[version])
    for name, rows in down.items():
        kept = [json.loads(row) for row in filled[name]]
        if name == "gateway_connections":
            kept = [{key: row[key] for key in row if key not in NEW_IN_0003} for row in kept]
        assert [json.loads(row) for row in rows] == kept
    assert await upgrade(dsn) == (version, head())
    await check(dsn)
    again = await contents(dsn)
    assert {name: len(rows) for name, rows in again.items()} == {
        name: 0 if name in NEW_TABLES[version] else len(rows) for name, rows in filled.items()
    }
    # What was lost is the request, not the session; its events still tell of it.
    store = await PostgresStore.open(StoreSettings(dsn), "again")
    assert await store.find_request("alice", UUID(int=2)) is None
    [told] = [
        event
        for event in (await store.read_log(0, limit=100)).events
        if event.session.client_id == 10
    ]
    assert told.session.spec.request_id == UUID(int=2)
    await store.close()


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
