"""The schema's migrations, run by Alembic; they are part of the wheel."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, TypeVar

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from sqlalchemy.pool import NullPool

from broker.errors import StartupError
from broker.store.postgres import connect

T = TypeVar("T")

MIGRATION_TIMEOUT: Final = 300.0
"""Seconds that all migrations together may take."""


def scripts() -> Path:
    """The directory of the migrations: inside the package in a wheel, beside it in the tree."""
    package = Path(__file__).resolve().parents[1]
    packaged = package / "migrations"
    return packaged if packaged.is_dir() else package.parent / "migrations"


def head() -> str:
    """The version that the code needs."""
    newest = ScriptDirectory.from_config(_config()).get_current_head()
    assert newest is not None
    return newest


@asynccontextmanager
async def connected(dsn: str) -> AsyncIterator[AsyncConnection]:
    """A connection in a transaction, which is committed at the end.

    asyncpg reads the DSN, as it does for the store, so that both understand the same.
    """

    async def creator() -> object:
        return await connect(dsn, timeout=10.0)

    engine = create_async_engine("postgresql+asyncpg://", async_creator=creator, poolclass=NullPool)
    try:
        async with engine.begin() as connection:
            yield connection
    finally:
        await engine.dispose()


async def current(dsn: str) -> str | None:
    """The version of a database; None if it has never been migrated.

    Raises:
        StartupError: the database cannot be reached.
    """
    return await _run(dsn, _current)


async def upgrade(dsn: str) -> tuple[str | None, str]:
    """Migrate to the newest version, in one transaction; does nothing where that is done.

    Cancelled, the transaction is rolled back.

    Returns:
        The version before and the version after.

    Raises:
        StartupError: the database cannot be reached, or a migration failed.
    """

    def work(connection: Connection) -> tuple[str | None, str]:
        before = _current(connection)
        command.upgrade(_config(connection), "head")
        after = _current(connection)
        assert after is not None
        return before, after

    return await _run(dsn, work)


async def downgrade(dsn: str, revision: str) -> None:
    """Migrate down to an older version, or to ``base``; what the newer tables held is lost.

    Raises:
        StartupError: as for ``upgrade``.
    """
    await _run(dsn, lambda connection: command.downgrade(_config(connection), revision))


async def check(dsn: str) -> None:
    """Compare the database with ``migrations/schema.py``.

    Raises:
        StartupError: they differ, or as for ``upgrade``.
    """
    await _run(dsn, lambda connection: command.check(_config(connection)))


def _config(connection: Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(scripts()).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.print_stdout = lambda *_args: None  # type: ignore[method-assign]
    if connection is not None:
        config.attributes["connection"] = connection
    return config


def _current(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


async def _run(dsn: str, work: Callable[[Connection], T]) -> T:
    try:
        async with asyncio.timeout(MIGRATION_TIMEOUT), connected(dsn) as connection:
            return await connection.run_sync(work)
    except (CommandError, SQLAlchemyError, OSError, TimeoutError) as error:
        raise StartupError(
            f"the migration failed: {type(error).__name__}: {str(error).partition(chr(10))[0]}"
        ) from error
