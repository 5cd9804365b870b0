"""The record in PostgreSQL; the only importer of asyncpg.

One broker per database, twice over: an advisory lock on a connection of its own tells a
second one at its start, and the epoch, which every write checks, stops a broker that was
cut off and replaced.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC
from typing import Any, Final, Self, TypeAlias, TypeVar, cast
from uuid import UUID

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from broker.errors import StartupError, StoreFencedError, StoreUnavailableError
from broker.session.client_ids import Quarantined
from broker.session.drain import Drain
from broker.session.filters import SessionFilter
from broker.session.model import Session, SessionEvent, Transition
from broker.store.base import PageKey
from broker.store.codec import (
    KINDS,
    decode_event,
    decode_session,
    encode_event,
    encode_labels,
    storable,
)
from broker.store.queries import QUERIES

T = TypeVar("T")
Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
PooledConnection: TypeAlias = "PoolConnectionProxy[asyncpg.Record]"

SCHEMA_VERSION: Final = "0002"
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
    asyncpg.InsufficientResourcesError,
    asyncpg.LockNotAvailableError,
    asyncpg.OperatorInterventionError,
    asyncpg.PostgresSystemError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.TransactionRollbackError,
)
"""What means that the database is away, full, or handed over: another try may succeed."""


class RecordRefusedError(Exception):
    """The database refuses a statement for what it says: a bug of ours. Nothing was written."""


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


@contextmanager
def _translated() -> Iterator[None]:
    """The one place where foreign errors become ours."""
    try:
        yield
    except _UNAVAILABLE as error:
        raise StoreUnavailableError(f"the database is unavailable: {_text(error)}") from error
    except asyncpg.PostgresError as error:
        raise RecordRefusedError(f"the database refused a statement: {_text(error)}") from error


def _text(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


async def _configure(connection: Connection) -> None:
    await connection.execute(QUERIES["configure"])


async def _keep(_connection: object) -> None:
    """Instead of asyncpg's reset, a round trip per call: we never change a connection's state."""


class PostgresStore:
    """The store of one broker; see ``Store`` for what its methods promise.

    ``create_connection`` and ``update_connection`` are statements that ``append`` chooses
    by the event: a row is only ever written together with the event that it follows from.
    """

    def __init__(
        self,
        settings: StoreSettings,
        pool: asyncpg.Pool[asyncpg.Record],
        lock: Connection,
        store_id: UUID,
        epoch: int,
    ) -> None:
        self._settings = settings
        self._pool = pool
        self._store_id = store_id
        self._epoch = epoch
        self._lock_lost = asyncio.Event()
        self._closed = False
        self._watch(lock)

    @classmethod
    async def open(cls, settings: StoreSettings, holder: str) -> Self:
        """Take the database over.

        Args:
            settings: which one.
            holder: who takes it, for the message to another broker that wants it.

        Raises:
            StartupError: it cannot be reached, is not migrated, or another broker holds it.
        """
        try:
            async with asyncio.timeout(settings.timeout + _LOCK_PATIENCE):
                lock = await connect(settings.dsn, timeout=settings.timeout)
                try:
                    await _require_schema(lock)
                    await _acquire(lock)
                    row = await lock.fetchrow(QUERIES["take_over"], storable(holder))
                    assert row is not None
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
                except BaseException:
                    lock.terminate()
                    raise
        except (*_UNAVAILABLE, asyncpg.PostgresError, ValueError) as error:
            raise StartupError(
                f"the database of DATABASE_URL cannot be used: {_text(error)}; is it running, "
                "and are address, user and password right?"
            ) from error
        return cls(settings, pool, lock, row["store_id"], row["epoch"])

    @property
    def store_id(self) -> UUID:
        """Names the log that revisions belong to; made with the database."""
        return self._store_id

    @property
    def epoch(self) -> int:
        """+1 for each broker that took the database over."""
        return self._epoch

    @property
    def holds_lock(self) -> bool:
        """Whether the database is ours, as far as the lock's connection tells."""
        return not self._lock_lost.is_set()

    async def append(self, events: Sequence[SessionEvent]) -> Sequence[int]:
        """Record events and fold them into their sessions' rows, in one transaction.

        Raises:
            StoreFencedError: another broker has taken over; nothing was written.
            StoreUnavailableError: the outcome is unknown; repeat the same call.
            RecordRefusedError: an event breaks an invariant; nothing was written.
        """
        if not events:
            return ()
        columns = _columns(events)
        if len(events) == 1:
            try:
                return (await self._append_one([column[0] for column in columns]),)
            except RecordRefusedError:
                # It may be recorded already: the general statement knows.
                pass
        keys = list(zip(columns[0], columns[1], strict=True))
        try:
            rows = await self._fetch("append_events", *columns, self._epoch)
        except RecordRefusedError as error:
            if not isinstance(error.__cause__, asyncpg.IntegrityConstraintViolationError):
                raise
            # An earlier try of the same append, which timed out here, may have been waiting
            # for a lock over there; it is done now, and only a new snapshot shows it. What is
            # really wrong is refused again.
            rows = await self._fetch("append_events", *columns, self._epoch)
        if not rows:
            raise self._fenced()
        revisions = {(row["session_id"], row["sequence"]): row["revision"] for row in rows}
        return [revisions[key] for key in keys]

    async def revision(self) -> int:
        """The revision of the newest event; 0 in an empty log."""
        (row,) = await self._fetch("get_revision")
        return cast("int", row[0])

    async def get_connection(self, session_id: UUID) -> Session | None:
        """The session, or None if there is no record of it."""
        rows = await self._fetch("get_connection", session_id)
        return _sessions(rows)[0] if rows else None

    async def list_active_connections(self) -> Sequence[Session]:
        """All sessions that are not final, by (create_time, session_id)."""
        return _sessions(await self._fetch("list_active_connections"))

    async def list_connections(
        self, wanted: SessionFilter, *, after: PageKey | None, limit: int
    ) -> Sequence[Session]:
        """At most ``limit`` that match, final ones included, by (create_time, session_id)."""
        rows = await self._fetch(
            "list_connections",
            list(wanted.session_ids) or None,
            storable(wanted.gateway_id) or None,
            storable(wanted.owner) or None,
            encode_labels(wanted.labels) if wanted.labels else None,
            [state.value for state in wanted.states] or None,
            after.create_time if after else None,
            after.session_id if after else None,
            limit,
        )
        return _sessions(rows)

    async def list_events(self, session_id: UUID) -> Sequence[SessionEvent]:
        """The recorded events of a session, by sequence."""
        return [
            decode_event(
                row["payload"],
                revision=row["revision"],
                time=row["time"],
                correlation_id=row["correlation_id"],
            )
            for row in await self._fetch("list_events", session_id)
        ]

    async def cleanup_stale_connections(self, max_age_seconds: float) -> int:
        """Delete final sessions that ended longer ago and have no events left; returns how many."""
        return len(await self._fetch("cleanup_stale_connections", max_age_seconds))

    async def expire_events(self, max_age_seconds: float) -> int:
        """Delete events that are older, from the beginning of the log; returns how many.

        Raises the retention horizon in the same transaction: what is below it is gone
        for good, and a watch that asks for it is reset.
        """

        async def work(connection: PooledConnection) -> int:
            async with connection.transaction():
                row = await connection.fetchrow(
                    QUERIES["raise_horizon"], max_age_seconds, self._epoch
                )
                if row is None:
                    raise self._fenced()
                return len(await connection.fetch(QUERIES["expire_events"], row[0]))

        return await self._run(work)

    async def list_quarantine(self, host: str, port: int) -> Sequence[Quarantined]:
        """The client ids in quarantine at one address of a Gateway, by client id."""
        return [
            Quarantined(
                client_id=row["client_id"], reason=row["reason"], time=row["quarantine_time"]
            )
            for row in await self._fetch("list_quarantine", storable(host), port)
        ]

    async def quarantine(self, host: str, port: int, item: Quarantined) -> None:
        """Put a client id into quarantine; where it is already, the reason and time are replaced.

        Raises:
            StoreFencedError, StoreUnavailableError: as for ``append``.
            RecordRefusedError: a value is out of its range; nothing was written.
        """
        await self._write(
            "quarantine", storable(host), port, item.client_id, storable(item.reason), item.time
        )

    async def lift_quarantine(self, host: str, port: int, client_id: int) -> None:
        """End the quarantine of a client id; idempotent.

        Raises:
            StoreFencedError, StoreUnavailableError: as for ``append``.
        """
        await self._write("lift_quarantine", storable(host), port, client_id)

    async def get_drain(self, gateway_id: str) -> Drain | None:
        """Who drains the gateway; None if nobody does."""
        rows = await self._fetch("get_drain", storable(gateway_id))
        if not rows:
            return None
        (row,) = rows
        return Drain(actor=row["drain_actor"], reason=row["drain_reason"], time=row["drain_time"])

    async def set_drain(self, gateway_id: str, drain: Drain | None) -> None:
        """Drain a gateway instead of as before, or with None no longer; idempotent.

        Raises:
            StoreFencedError, StoreUnavailableError: as for ``append``.
            RecordRefusedError: a text is too long; nothing was written.
        """
        actor = reason = time = None
        if drain is not None:
            actor, reason, time = storable(drain.actor), storable(drain.reason), drain.time
        await self._write("set_drain", storable(gateway_id), actor, reason, time)

    async def wait_lock_lost(self) -> None:
        """Wait until the lock's connection has ended, or another broker has taken over.

        Then ``reacquire`` tells which. May be cancelled.
        """
        await self._lock_lost.wait()

    async def reacquire(self) -> None:
        """Take the lock again after its connection was lost.

        Raises:
            StoreUnavailableError: the database is still away, or another broker holds the
                lock just now; try again later.
            StoreFencedError: another broker took over meanwhile; stop.
        """
        with _translated():
            async with asyncio.timeout(self._settings.timeout):
                lock = await connect(self._settings.dsn, timeout=self._settings.timeout)
                try:
                    held = await lock.fetchval(QUERIES["lock"], LOCK_KEY)
                    epoch = await lock.fetchval(QUERIES["current_epoch"])
                    if epoch != self._epoch:
                        raise self._fenced()
                    if not held:
                        raise StoreUnavailableError("the lock of this database is still held")
                except BaseException:
                    lock.terminate()
                    raise
        self._watch(lock)

    async def close(self) -> None:
        """Give the database up; idempotent. Takes the store's timeout at most."""
        if self._closed:
            return
        self._closed = True
        try:
            async with asyncio.timeout(self._settings.timeout):
                await self._pool.close()
                await self._lock.close()
        except (*_UNAVAILABLE, asyncpg.PostgresError):
            pass
        finally:
            self._pool.terminate()
            self._lock.terminate()

    def _watch(self, lock: Connection) -> None:
        self._lock = lock
        self._lock_lost.clear()
        lock.add_termination_listener(self._on_terminated)

    def _on_terminated(self, connection: object) -> None:
        if connection is self._lock and not self._closed:
            self._lock_lost.set()

    def _fenced(self) -> StoreFencedError:
        self._lock_lost.set()
        return StoreFencedError(self._epoch)

    async def _append_one(self, values: Sequence[object]) -> int:
        first = values[1] == 1
        name = "create_connection" if first else "update_connection"
        rows = await self._fetch(name, *values, self._epoch)
        if not rows:
            raise self._fenced()
        return cast("int", rows[0][0])

    async def _write(self, name: str, *values: object) -> None:
        """Run a statement whose last parameter is the epoch, and which then returns a row."""
        if not await self._fetch(name, *values, self._epoch):
            raise self._fenced()

    async def _fetch(self, name: str, *values: object) -> list[asyncpg.Record]:
        query = QUERIES[name]
        return await self._run(lambda connection: connection.fetch(query, *values))

    async def _run(self, work: Callable[[PooledConnection], Awaitable[T]]) -> T:
        with _translated():
            async with asyncio.timeout(self._settings.timeout), self._connection() as connection:
                return await work(connection)

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[PooledConnection]:
        connection = await self._pool.acquire()
        try:
            yield connection
        except asyncio.CancelledError:
            # asyncpg would ask the server to cancel and wait for its answer, for ever if
            # the server hangs; a connection of which nothing is known is not kept.
            connection.terminate()
            raise
        finally:
            await self._pool.release(connection)


def _columns(events: Sequence[SessionEvent]) -> list[list[Any]]:
    """The parameters of append_events, in its order."""
    moves = [event.change if isinstance(event.change, Transition) else None for event in events]
    return [
        [event.session_id for event in events],
        [event.sequence for event in events],
        [KINDS[type(event.change)] for event in events],
        [move.source.value if move else None for move in moves],
        [move.target.value if move else None for move in moves],
        [encode_event(event) for event in events],
        [event.time for event in events],
        [event.correlation_id for event in events],
    ]


def _sessions(rows: Sequence[asyncpg.Record]) -> list[Session]:
    return [decode_session(json.loads(row[0])) for row in rows]


async def _require_schema(connection: Connection) -> None:
    version = None
    if await connection.fetchval(QUERIES["schema_revision"]):
        version = await connection.fetchval(QUERIES["migration_version"])
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
