"""Fixtures: a real PostgreSQL for the tests, and a fresh migrated database for each."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import tempfile
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import pytest

from broker.store.embedded import EmbeddedPostgres, EmbeddedSettings
from broker.store.migration import upgrade
from broker.store.postgres import StoreSettings
from broker.store.record import PostgresStore

TEMPLATE = "template_migrated"
_MEMORY = "/dev/shm"  # noqa: S108 - mkdtemp makes what is used of it
_ROOM = 2 * 2**30
"""Bytes for the clusters of all the workers of a run, with their logs."""


def in_memory() -> str | None:
    """A file system in memory with room for clusters, where there is one.

    PostgreSQL syncs there as anywhere, and waits for no disk that others write to, too: half a
    second for each database that is made and dropped, three for a cluster.
    """
    try:
        found = os.statvfs(_MEMORY)
    except OSError:
        return None
    # The embedded server may have to run a copy of its binaries from its data directory.
    usable = found.f_bavail * found.f_frsize >= _ROOM and not found.f_flag & os.ST_NOEXEC
    return _MEMORY if usable else None


@contextlib.contextmanager
def data_directory() -> Iterator[Path]:
    """A directory that the server's user can pass through; pytest's own is root's alone."""
    path = Path(tempfile.mkdtemp(prefix="gbt-", dir=in_memory()))
    if os.geteuid() == 0:
        path.chmod(0o711)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def database(dsn: str, name: str) -> str:
    """The same server, another database."""
    return dsn.replace("/gateway_broker?", f"/{name}?")


async def execute(dsn: str, *statements: str) -> None:
    """Run statements on a connection of their own."""
    connection = await asyncpg.connect(dsn, timeout=10)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


@pytest.fixture
def fresh_data_dir() -> Iterator[Path]:
    with data_directory() as path:
        yield path


@pytest.fixture(scope="session")
def postgres_cluster() -> Iterator[EmbeddedPostgres]:
    """A server for the whole session, with a template database at the newest migration."""
    with data_directory() as path:
        postgres = EmbeddedPostgres(EmbeddedSettings(path))
        asyncio.run(postgres.__aenter__())
        try:
            asyncio.run(execute(postgres.dsn, f"CREATE DATABASE {TEMPLATE}"))
            asyncio.run(upgrade(database(postgres.dsn, TEMPLATE)))
            yield postgres
        finally:
            asyncio.run(postgres.__aexit__(None, None, None))


async def _database(postgres: EmbeddedPostgres, template: str) -> AsyncIterator[str]:
    name = f"test_{uuid.uuid4().hex}"
    await execute(postgres.dsn, f"CREATE DATABASE {name} TEMPLATE {template}")
    try:
        yield database(postgres.dsn, name)
    finally:
        await execute(postgres.dsn, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
async def database_url(postgres_cluster: EmbeddedPostgres) -> AsyncIterator[str]:
    """A fresh database at the newest migration."""
    async for dsn in _database(postgres_cluster, TEMPLATE):
        await execute(dsn, "UPDATE broker_store SET store_id = gen_random_uuid()")
        yield dsn


@pytest.fixture
async def empty_database_url(postgres_cluster: EmbeddedPostgres) -> AsyncIterator[str]:
    """A fresh database without any table."""
    async for dsn in _database(postgres_cluster, "template0"):
        yield dsn


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[PostgresStore]:
    opened = await PostgresStore.open(StoreSettings(database_url), "test")
    try:
        yield opened
    finally:
        await opened.close()
