"""`gateway-broker db expire` and `db cleanup`, beside a broker and while none runs."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pty
import signal
import sys
from datetime import UTC, datetime
from pathlib import Path

import asyncpg
import pytest
from typer.testing import CliRunner

from broker.cli.root import app
from broker.store.embedded import EmbeddedPostgres, EmbeddedSettings, has_cluster
from broker.store.migration import downgrade, upgrade
from broker.store.postgres import StoreSettings
from broker.store.record import PostgresStore
from tests.harness import eventually
from tests.integration.test_store import failed, life, opened
from tests.postgres import execute
from tests.program import ROOT, Said, ended, environment, run, running

LIFE = len(life())
YEARS = "36500"


async def many(dsn: str, count: int) -> None:
    """So many events of a session, as if it had been told so often."""
    connection = await asyncpg.connect(dsn)
    await connection.execute(
        """
        INSERT INTO session_events
        SELECT s.revision + n, c.session_id, c.sequence + n, 'notice', NULL, NULL, '{}', now(),
            c.session_id, 1
        FROM gateway_connections AS c, broker_store AS s, generate_series(1, $1::integer) AS n
        """,
        count,
    )
    await connection.execute("UPDATE broker_store SET revision = revision + $1", count)
    await connection.close()


async def count(dsn: str, table: str = "session_events") -> int:
    connection = await asyncpg.connect(dsn)
    found: int = await connection.fetchval(f"SELECT count(*) FROM {table}")  # noqa: S608
    await connection.close()
    return found


async def db(dsn: str, *arguments: str, **settings: str) -> Said:
    return await run("db", *arguments, DATABASE_URL=dsn, **settings)


async def test_events_are_deleted_beside_the_broker_that_holds_the_database(
    store: PostgresStore, database_url: str
) -> None:
    await store.append([*life(1), *life(2), *opened(3)])
    total = 2 * LIFE + 1
    keep = ("expire", "--days", YEARS, "--events", "3")

    said = await db(database_url, *keep, "--dry-run")
    assert (said.code, said.err) == (0, "")
    assert said.out == (
        f"would delete {total - 3} events below revision {total - 2}; 3 would be kept\n"
    )
    assert await count(database_url) == total
    assert (await store.read_log(0, limit=100)).oldest == 1

    said = await db(database_url, *keep)
    assert (said.code, said.err) == (0, "")
    assert said.out == f"deleted {total - 3} events below revision {total - 2}; 3 are kept\n"
    assert await count(database_url) == 3
    assert store.holds_lock
    assert list(await store.append(opened(4))) == [total + 1]

    again = await db(database_url, *keep, "--output", "json")
    assert json.loads(again.out) == {
        "deleted": 1,
        "horizon": total - 1,
        "kept": 3,
        "dry_run": False,
    }


async def test_sessions_are_deleted_once_their_events_are(
    store: PostgresStore, database_url: str
) -> None:
    await store.append([*life(1), *failed(2), *opened(3)])
    told = "sessions that ended more than 1.5 days ago and have no events left\n"
    days = ("--days", "1.5")
    assert (await db(database_url, "cleanup", *days)).out == f"deleted 0 {told}"
    assert (await db(database_url, "expire", *days)).code == 0
    assert (await db(database_url, "cleanup", "--dry-run", *days)).out == f"would delete 2 {told}"
    assert await count(database_url, "gateway_connections") == 3
    assert (await db(database_url, "cleanup", *days)).out == f"deleted 2 {told}"
    again = await db(database_url, "cleanup", "-o", "json")
    assert json.loads(again.out) == {"deleted": 0, "dry_run": False}
    assert [one.client_id for one in await store.list_active_connections()] == [3]


async def test_what_is_kept_is_what_the_configuration_says(
    store: PostgresStore, database_url: str
) -> None:
    await store.append(opened(1))
    await many(database_url, 1999)
    dry = ("expire", "--dry-run", "-o", "json")
    # The one session is old, what it was told is young.
    for settings, deleted in (
        ({}, 1),
        ({"GATEWAY_BROKER_RETENTION_DAYS": YEARS}, 0),
        ({"GATEWAY_BROKER_RETENTION_EVENTS": "1000"}, 1000),
    ):
        said = await db(database_url, *dry, **settings)
        assert json.loads(said.out)["deleted"] == deleted, settings


async def test_an_interrupted_deletion_is_finished_by_the_next(
    store: PostgresStore, database_url: str
) -> None:
    await store.append(opened(1))
    await many(database_url, 30_000)
    keep = ("db", "expire", "--events", "1")
    async with running(*keep, DATABASE_URL=database_url) as process:

        async def has_begun() -> bool:
            return 0 < await count(database_url) < 30_000

        await eventually(has_begun, timeout=20)
        process.send_signal(signal.SIGINT)
        said = await ended(process)
    assert said.code != 0
    assert "Traceback" not in said.err
    left = await count(database_url)
    assert left > 1
    assert list(await store.append(opened(2, at=datetime.now(UTC)))) == [30_002]
    assert (await run(*keep, DATABASE_URL=database_url)).out == (
        f"deleted {left:,} events below revision 30,002; 1 are kept\n"
    )


async def test_a_terminal_is_told_what_takes_so_long(
    store: PostgresStore, database_url: str
) -> None:
    await store.append(life())
    holder = await asyncpg.connect(database_url)
    transaction = holder.transaction()
    await transaction.start()
    await holder.execute("SELECT FROM session_events FOR UPDATE")
    ours, theirs = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "broker", "db", "expire", "--events", "2"),
        cwd=ROOT,
        env=environment(TERM="xterm", DATABASE_URL=database_url),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=theirs,
    )
    os.close(theirs)
    os.set_blocking(ours, False)
    told = ""

    def tells() -> bool:
        nonlocal told
        with contextlib.suppress(BlockingIOError):
            told += os.read(ours, 65536).decode()
        return f"deleting {LIFE} events below revision {LIFE + 1}" in told

    try:
        await eventually(tells, timeout=20)
        await transaction.rollback()
        async with asyncio.timeout(20):
            assert await process.wait() == 0
    finally:
        os.close(ours)
        if process.returncode is None:
            process.kill()
            await process.wait()
    await holder.close()


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (["expire", "--days", "0"], "--days"),
        (["expire", "--days", "-1"], "--days"),
        (["expire", "--days", "nan"], "--days"),
        (["expire", "--days", "inf"], "--days"),
        (["expire", "--days", "36501"], "--days"),
        (["expire", "--days", "soon"], "--days"),
        (["expire", "--events", "0"], "--events"),
        (["expire", "--events", "-5"], "--events"),
        (["expire", "--events", "1.5"], "--events"),
        (["expire", "--output", "xml"], "--output"),
        (["cleanup", "--days", "0"], "--days"),
        (["cleanup", "--days", "-1"], "--days"),
        (["cleanup", "--days", "nan"], "--days"),
    ],
    ids=" ".join,
)
def test_what_makes_no_sense_is_refused_by_the_name_of_its_option(
    arguments: list[str], option: str
) -> None:
    said = CliRunner().invoke(app, ["db", *arguments], terminal_width=200)
    assert said.exit_code == 2
    assert f"'{option}'" in said.stderr


@pytest.mark.parametrize("command", ["expire", "cleanup"])
async def test_a_database_at_another_migration_is_refused_with_the_command(
    database_url: str, command: str
) -> None:
    await downgrade(database_url, "0002")
    said = await db(database_url, command)
    assert said.code == 1
    assert "at migration 0002, this broker needs 0003; run: gateway-broker migrate" in said.err
    await execute(database_url, "UPDATE alembic_version SET version_num = '9999'")
    said = await db(database_url, command)
    assert said.code == 1
    assert "made by a newer broker" in said.err


async def test_a_database_that_is_away_is_told_in_a_line() -> None:
    said = await db("postgresql://a:hunter2@127.0.0.1:1/x", "expire")
    assert said.code == 1
    assert "is it running" in said.err
    assert "hunter2" not in said.err
    assert "Traceback" not in said.err


async def test_the_embedded_database_is_started_if_no_broker_runs_it(
    fresh_data_dir: Path,
) -> None:
    where = {"GATEWAY_BROKER_DATA_DIR": str(fresh_data_dir)}
    none = await run("db", "expire", **where)
    assert none.code == 1
    assert f"there is no database in {fresh_data_dir}" in none.err
    assert not has_cluster(fresh_data_dir)
    async with EmbeddedPostgres(EmbeddedSettings(fresh_data_dir)) as postgres:
        await upgrade(postgres.dsn)
        store = await PostgresStore.open(StoreSettings(postgres.dsn), "test")
        await store.append([*life(1), *life(2)])
        beside = await run("db", "expire", "--days", YEARS, "--events", str(LIFE + 1), **where)
        assert (
            beside.out == f"deleted {LIFE - 1} events below revision {LIFE}; {LIFE + 1} are kept\n"
        )
        assert store.holds_lock
        await store.close()
    alone = await run("db", "expire", "--events", "5", "-o", "json", **where)
    assert alone.code == 0, alone.err
    assert json.loads(alone.out)["kept"] == 0
    cleaned = await run("db", "cleanup", "-o", "json", **where)
    assert json.loads(cleaned.out)["deleted"] == 2
    assert not (fresh_data_dir / "postgres" / "server" / "data" / "postmaster.pid").exists()
