"""PostgreSQL; the only importer of asyncpg.

A Database runs the statements of ``queries.sql``; what they say of sessions is in ``record``.

One broker per database, twice over: an advisory lock on a connection of its own tells a
second one at its start, and the epoch, which every write checks, stops a broker that was
cut off and replaced. Both are its Tenure.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC
from typing import Final, Protocol, Self, TypeAlias
from uuid import UUID

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from broker.errors import StartupError, StoreFencedError, StoreUnavailableError
from broker.store.codec import storable
from broker.store.queries import QUERIES

Row: TypeAlias = asyncpg.Record
Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
PooledConnection: TypeAlias = "PoolConnectionProxy[asyncpg.Record]"

SCHEMA_VERSION: Final = "0003"
"""The migration that this code needs."""

LOCK_KEY: Final = 0x6762726F6B6572
"""The advisory lock of a broker ("gbroker"); locks are per database."""

_LOCK_PATIENCE: Final = 2.0
"""Seconds in which a broker that was just killed loses its lock: its server process must
notice first."""

_UNAVAILABLE: Final = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.PostgresConnectionError,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.InsufficientResourcesError,
    asyncpg.LockNotAvailableError,
    asyncpg.OperatorInterventionError,
    asyncpg.PostgresSystemError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.TransactionRollbackError,
    asyncpg.TransactionTimeoutError,
)
"""What means that the database is away, full, slow, or handed over: another try may succeed."""


class RecordRefusedError(Exception):
    """The database refuses a statement for what it says: a bug of ours. Nothing was written."""


class RuleBrokenError(RecordRefusedError):
    """What should be written breaks a rule of the tables: a key, a reference, a check."""


@dataclass(frozen=True, slots=True)
class StoreSettings:
    """Where the record is, and how long to wait for it."""

    dsn: str
    """``postgresql://…``, as asyncpg and libpq read it."""
    timeout: float = 5.0
    """Seconds for one call, with the wait for a connection."""
    pool_size: int = 4
    """Connections at most; writers take turns anyway, so that few are enough."""


async def connect(dsn: str, *, timeout: float) -> Connection:
    """A connection of one's own, with its session in UTC.

    Raises:
        OSError, TimeoutError, asyncpg errors: as asyncpg raises them.
    """
    return await asyncpg.connect(dsn, timeout=timeout, server_settings=_SERVER_SETTINGS)


_SERVER_SETTINGS: Final = {"application_name": "gateway-broker", "timezone": "UTC"}


class Stored(Protocol):
    """Is told of each statement that has ended, and how many seconds it took."""

    def __call__(self, operation: str, duration: float, *, failed: bool) -> None:
        """Take note; quickly, and without raising."""


def untold(operation: str, duration: float, *, failed: bool) -> None:
    """Nobody wants to know."""


class Database:
    """Runs named statements, each alone, as one transaction; says of each how long it took."""

    def __init__(
        self, pool: asyncpg.Pool[asyncpg.Record], timeout: float, stored: Stored = untold
    ) -> None:
        self._pool = pool
        self._timeout = timeout
        self._stored = stored
        self._closed = False

    @classmethod
    async def open(cls, settings: StoreSettings, stored: Stored = untold) -> Self:
        """Make a pool. Nothing is connected yet: ``require_schema`` tells whether it will be."""
        pool = await asyncpg.create_pool(
            settings.dsn,
            # Above 0 asyncpg logs a traceback a second while the database is away.
            min_size=0,
            max_size=settings.pool_size,
            timeout=settings.timeout,
            server_settings=_SERVER_SETTINGS,
            init=_configure,
            reset=_keep,
        )
        return cls(pool, settings.timeout, stored)

    async def fetch(self, name: str, *values: object) -> list[Row]:
        """Run a statement of ``queries.sql``; returns its rows.

        Raises:
            StoreUnavailableError: whether it was carried out is unknown.
            RecordRefusedError: nothing was written.
        """
        began = time.perf_counter()
        try:
            with _translated():
                async with asyncio.timeout(self._timeout), self._connection() as connection:
                    rows = await connection.fetch(QUERIES[name], *values)
        except (StoreUnavailableError, RecordRefusedError):
            self._stored(name, time.perf_counter() - began, failed=True)
            raise
        self._stored(name, time.perf_counter() - began, failed=False)
        return rows

    async def close(self) -> None:
        """Close the pool; idempotent. Takes the timeout of a call at most."""
        if self._closed:
            return
        self._closed = True
        try:
            async with asyncio.timeout(self._timeout):
                await self._pool.close()
        except (*_UNAVAILABLE, asyncpg.PostgresError):
            pass
        finally:
            self._pool.terminate()

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[PooledConnection]:
        try:
            connection = await self._pool.acquire()
        except asyncpg.PostgresError as error:
            # Whatever it is that keeps us out, it is no statement of ours.
            raise _unavailable(error) from error
        try:
            yield connection
        except asyncio.CancelledError:
            # asyncpg would ask the server to cancel and wait for its answer, for ever if
            # the server hangs; a connection of which nothing is known is not kept.
            connection.terminate()
            raise
        finally:
            await self._pool.release(connection)


class Tenure:
    """One broker's hold on a database: the lock, and the epoch that began with it.

    Attributes:
        store_id: names the log that revisions belong to; made with the database.
        epoch: +1 for each broker that took the database over.
    """

    def __init__(
        self, settings: StoreSettings, lock: Connection, store_id: UUID, epoch: int
    ) -> None:
        self.store_id = store_id
        self.epoch = epoch
        self._settings = settings
        self._lost = asyncio.Event()
        self._ended = False
        self._watch(lock)

    @classmethod
    async def begin(cls, settings: StoreSettings, holder: str) -> Self:
        """Take a database over.

        Args:
            settings: which one.
            holder: who takes it, for the message to another broker that wants it.

        Raises:
            StartupError: it cannot be reached, is not migrated, or another broker holds it.
        """
        async with _starting(settings) as lock:
            await _acquire(lock)
            row = await lock.fetchrow(QUERIES["take_over"], storable(holder))
            assert row is not None
        return cls(settings, lock, row["store_id"], row["epoch"])

    @property
    def is_held(self) -> bool:
        """Whether the database is ours, as far as the lock's connection tells."""
        return not self._lost.is_set()

    def fenced(self) -> StoreFencedError:
        """What is to be raised when a write finds another epoch; the lock is known to be lost."""
        self._lost.set()
        return StoreFencedError(self.epoch)

    async def wait_lost(self) -> None:
        """Wait until the lock's connection has ended, or another broker has taken over.

        Then ``resume`` tells which. May be cancelled.
        """
        await self._lost.wait()

    async def resume(self) -> None:
        """Take the lock again after its connection was lost.

        Raises:
            StoreUnavailableError: the database is still away, or another broker holds the
                lock just now; try again later.
            StoreFencedError: another broker took over meanwhile; stop.
        """
        with _translated():
            async with asyncio.timeout(self._settings.timeout):
                lock = await _knock(self._settings)
                try:
                    held = await lock.fetchval(QUERIES["lock"], LOCK_KEY)
                    epoch = await lock.fetchval(QUERIES["current_epoch"])
                    if epoch != self.epoch:
                        raise self.fenced()
                    if not held:
                        raise StoreUnavailableError("the lock of this database is still held")
                except BaseException:  # a cancellation, too, must not keep the lock
                    lock.terminate()
                    raise
        self._watch(lock)

    async def end(self) -> None:
        """Give the lock up; idempotent. Takes the timeout of a call at most."""
        if self._ended:
            return
        self._ended = True
        try:
            async with asyncio.timeout(self._settings.timeout):
                await self._lock.close()
        except (*_UNAVAILABLE, asyncpg.PostgresError):
            pass
        finally:
            self._lock.terminate()

    def _watch(self, lock: Connection) -> None:
        self._lock = lock
        self._lost.clear()
        lock.add_termination_listener(self._on_terminated)

    def _on_terminated(self, connection: object) -> None:
        if connection is self._lock and not self._ended:
            self._lost.set()


async def require_schema(settings: StoreSettings) -> None:
    """Look whether a database can be used.

    Raises:
        StartupError: it cannot be reached, or is at another migration.
    """
    async with _starting(settings) as connection:
        await connection.close()


async def schema_is_behind(settings: StoreSettings) -> bool:
    """Whether a database must be migrated before we can use it.

    Raises:
        StartupError: it cannot be reached.
    """
    async with _reached(settings) as connection:
        version = await schema_version(connection)
        await connection.close()
    return version is None or version < SCHEMA_VERSION


@asynccontextmanager
async def _starting(settings: StoreSettings) -> AsyncIterator[Connection]:
    """A connection to a database of our schema, kept if the body succeeds; else StartupError."""
    async with _reached(settings) as connection:
        await _require_schema(connection)
        yield connection


@asynccontextmanager
async def _reached(settings: StoreSettings) -> AsyncIterator[Connection]:
    """A connection, kept if the body succeeds; else StartupError."""
    try:
        async with asyncio.timeout(settings.timeout + _LOCK_PATIENCE):
            connection = await connect(settings.dsn, timeout=settings.timeout)
            try:
                yield connection
            except BaseException:  # what the body raises, too: nobody else has it
                connection.terminate()
                raise
    except (*_UNAVAILABLE, asyncpg.PostgresError, ValueError) as error:
        raise StartupError(
            f"the database of DATABASE_URL cannot be used: {_text(error)}; is it running, "
            "and are address, user and password right?"
        ) from error


@contextmanager
def _translated() -> Iterator[None]:
    """The one place where foreign errors become ours."""
    try:
        yield
    except _UNAVAILABLE as error:
        raise _unavailable(error) from error
    except asyncpg.IntegrityConstraintViolationError as error:
        raise RuleBrokenError(f"the database refused a statement: {_text(error)}") from error
    except asyncpg.PostgresError as error:
        raise RecordRefusedError(f"the database refused a statement: {_text(error)}") from error


async def _knock(settings: StoreSettings) -> Connection:
    try:
        return await connect(settings.dsn, timeout=settings.timeout)
    except asyncpg.PostgresError as error:
        raise _unavailable(error) from error


def _unavailable(error: BaseException) -> StoreUnavailableError:
    return StoreUnavailableError(f"the database is unavailable: {_text(error)}")


def _text(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


async def _configure(connection: Connection) -> None:
    await connection.execute(QUERIES["configure"])


async def _keep(_connection: object) -> None:
    """Instead of asyncpg's reset, a round trip per call: we never change a connection's state."""


async def schema_version(connection: Connection) -> str | None:
    """The newest migration that a database has; None before the first."""
    if not await connection.fetchval(QUERIES["schema_revision"]):
        return None
    version: str | None = await connection.fetchval(QUERIES["migration_version"])
    return version


async def _require_schema(connection: Connection) -> None:
    version = await schema_version(connection)
    if version is None or version < SCHEMA_VERSION:
        raise StartupError(
            f"the database is at migration {version or 'none'}, this broker needs "
            f"{SCHEMA_VERSION}; run: gateway-broker migrate"
        )
    if version > SCHEMA_VERSION:
        raise StartupError(
            f"the database is at migration {version}, made by a newer broker than this one, "
            f"which knows {SCHEMA_VERSION}; start that version instead"
        )


async def _acquire(connection: Connection) -> None:
    deadline = asyncio.get_running_loop().time() + _LOCK_PATIENCE
    while not await connection.fetchval(QUERIES["lock"], LOCK_KEY):
        if asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.05)
            continue
        row = await connection.fetchrow(QUERIES["lock_holder"], LOCK_KEY)
        assert row is not None
        since = row["held_since"].astimezone(UTC).isoformat(timespec="seconds")
        raise StartupError(
            f"this database belongs to another broker: {row['holder']}, since {since} (epoch "
            f"{row['epoch']}, PostgreSQL process {row['pid']}). Stop that one, or give this one "
            "a database of its own; if its machine is gone for good, run in the database: "
            f"SELECT pg_terminate_backend({row['pid']})"
        )
