"""Reads the record from PostgreSQL: all of the log, also what retention has deleted meanwhile."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
from ibgateway.broker.v1 import session_pb2

from broker.rpc import convert
from broker.store import codec
from tests.robustness.database import Database
from tests.robustness.history import Entry, History

_WITNESS = (
    "CREATE SCHEMA robustness",
    "CREATE TABLE robustness.log (LIKE session_events)",
    """
    CREATE FUNCTION robustness.remember() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO robustness.log VALUES (NEW.*);
        RETURN NULL;
    END
    $$
    """,
    """
    CREATE TRIGGER remember AFTER INSERT ON session_events
    FOR EACH ROW EXECUTE FUNCTION robustness.remember()
    """,
)
"""A copy of each event, made in the transaction that writes it."""
_EVENTS = "SELECT revision, payload, time, correlation_id, epoch FROM {} ORDER BY revision"
_STORE = "SELECT revision, retention_horizon FROM broker_store"
_ROWS = "SELECT to_jsonb(c) FROM gateway_connections AS c"


class Record:
    """The broker's database, as only the test sees it.

    Args:
        database: the cluster.
        name: of the broker's database in it.
    """

    def __init__(self, database: Database, name: str) -> None:
        self._database = database
        self._name = name

    async def create(self) -> None:
        """Make the database."""
        await self._database.create(self._name)
        connection = await self._connect()
        try:
            for statement in _WITNESS:
                await connection.execute(statement)
        finally:
            await connection.close()

    async def sessions(self) -> tuple[int, dict[str, session_pb2.Session]]:
        """The newest revision, and all sessions by their rows, as of one instant."""
        async with self._instant() as connection:
            newest, _ = await connection.fetchrow(_STORE)
            return newest, _sessions(await connection.fetch(_ROWS))

    async def read(self, history: History) -> None:
        """Put into a history what the database holds, as of one instant."""
        async with self._instant() as connection:
            history.newest, horizon = await connection.fetchrow(_STORE)
            log = await connection.fetch(_EVENTS.format("robustness.log"))
            kept = await connection.fetch(_EVENTS.format("session_events"))
            history.rows = _sessions(await connection.fetch(_ROWS))
        history.oldest = max(horizon, 1)
        written = {row["revision"]: row for row in log}
        history.rewritten = [row["revision"] for row in kept if row != written.get(row["revision"])]
        history.log = [_entry(row) for row in log]

    @asynccontextmanager
    async def _instant(self) -> AsyncIterator[Any]:
        connection = await self._connect()
        try:
            async with connection.transaction(isolation="repeatable_read", readonly=True):
                yield connection
        finally:
            await connection.close()

    async def _connect(self) -> Any:
        return await asyncpg.connect(self._database.url(self._name), timeout=10)


def _sessions(rows: Iterable[Any]) -> dict[str, session_pb2.Session]:
    sessions = [convert.session(codec.decode_session(json.loads(row[0]))) for row in rows]
    return {session.session_id: session for session in sessions}


def _entry(row: Any) -> Entry:
    event = codec.decode_event(
        row["payload"],
        revision=row["revision"],
        time=row["time"],
        correlation_id=row["correlation_id"],
    )
    asked = json.loads(row["payload"])["session"].get("request_id")
    return Entry(convert.event(event), row["epoch"], asked or "")
