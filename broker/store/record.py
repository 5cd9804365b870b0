"""The record in PostgreSQL: sessions and their events as rows."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any, Self, cast
from uuid import UUID

from broker.session.client_ids import Quarantined
from broker.session.drain import Drain
from broker.session.filters import SessionFilter
from broker.session.model import Session, SessionEvent, Transition
from broker.store.base import LogPage, PageKey
from broker.store.codec import (
    KINDS,
    decode_event,
    decode_session,
    encode_event,
    encode_labels,
    storable,
)
from broker.store.expiry import Expiry
from broker.store.postgres import (
    Database,
    RecordRefusedError,
    Row,
    RuleBrokenError,
    Stored,
    StoreSettings,
    Tenure,
    untold,
)


class PostgresStore:
    """The store of one broker; see ``Store`` for what its methods promise.

    ``create_connection`` and ``update_connection`` are statements that ``append`` chooses
    by the event: a row is only ever written together with the event that it follows from.

    Args:
        database: runs the statements.
        tenure: makes the database this broker's.
    """

    def __init__(self, database: Database, tenure: Tenure) -> None:
        self._database = database
        self._tenure = tenure
        self._expiry = Expiry(database)

    @classmethod
    async def open(cls, settings: StoreSettings, holder: str, stored: Stored = untold) -> Self:
        """Take the database over.

        Args:
            settings: which one.
            holder: who takes it, for the message to another broker that wants it.
            stored: is told of each statement.

        Raises:
            StartupError: it cannot be reached, is not migrated, or another broker holds it.
        """
        database = await Database.open(settings, stored)
        return cls(database, await Tenure.begin(settings, holder))

    @property
    def store_id(self) -> UUID:
        """Names the log that revisions belong to; made with the database."""
        return self._tenure.store_id

    @property
    def epoch(self) -> int:
        """+1 for each broker that took the database over."""
        return self._tenure.epoch

    @property
    def holds_lock(self) -> bool:
        """Whether the database is ours, as far as the lock's connection tells."""
        return self._tenure.is_held

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
            rows = await self._write("append_events", *columns)
        except RuleBrokenError:
            # An earlier try of the same append, which timed out here, may have been waiting
            # for a lock over there; it is done now, and only a new snapshot shows it. What is
            # really wrong is refused again.
            rows = await self._write("append_events", *columns)
        revisions = {(row["session_id"], row["sequence"]): row["revision"] for row in rows}
        return [revisions[key] for key in keys]

    async def revision(self) -> int:
        """The revision of the newest event; 0 in an empty log."""
        (row,) = await self._database.fetch("get_revision")
        return cast("int", row[0])

    async def get_connection(self, session_id: UUID) -> Session | None:
        """The session, or None if there is no record of it."""
        rows = await self._database.fetch("get_connection", session_id)
        return _sessions(rows)[0] if rows else None

    async def list_active_connections(self) -> Sequence[Session]:
        """All sessions that are not final, by (create_time, session_id)."""
        return _sessions(await self._database.fetch("list_active_connections"))

    async def list_connections(
        self, wanted: SessionFilter, *, after: PageKey | None, limit: int
    ) -> Sequence[Session]:
        """At most ``limit`` that match, final ones included, by (create_time, session_id)."""
        rows = await self._database.fetch(
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

    async def list_events(
        self, session_id: UUID, *, after: int = 0, limit: int
    ) -> Sequence[SessionEvent]:
        """At most ``limit`` recorded events of a session after a sequence, by sequence."""
        return _events(await self._database.fetch("list_events", session_id, after, limit))

    async def read_log(self, after: int, *, limit: int) -> LogPage:
        """The events of all sessions with revisions in (after, after + limit]."""
        rows = await self._database.fetch("read_log", after, limit)
        first = rows[0]
        return LogPage(
            events=_events(rows) if first["revision"] is not None else (),
            oldest=max(first["retention_horizon"], 1),
            newest=first["newest"],
        )

    async def find_request(self, owner: str, request_id: UUID) -> Session | None:
        """The session that a request_id is bound to; None if it is free."""
        rows = await self._database.fetch("find_request", storable(owner), request_id)
        return _sessions(rows)[0] if rows else None

    async def raise_horizon(self, max_age_seconds: float, max_events: int) -> int:
        """Move the retention horizon up; returns the oldest revision that is kept."""
        return await self._expiry.raise_horizon(max_age_seconds, max_events)

    async def expire_events(self, limit: int) -> int:
        """Delete at most ``limit`` events below the horizon, the oldest first; returns how many."""
        return await self._expiry.expire_events(limit)

    async def cleanup_stale_connections(self, max_age_seconds: float, *, limit: int) -> int:
        """Delete final sessions that ended longer ago and have no events left; returns how many."""
        return await self._expiry.cleanup_stale_connections(max_age_seconds, limit=limit)

    async def list_quarantine(self, host: str, port: int) -> Sequence[Quarantined]:
        """The client ids in quarantine at one address of a Gateway, by client id."""
        return [
            Quarantined(
                client_id=row["client_id"], reason=row["reason"], time=row["quarantine_time"]
            )
            for row in await self._database.fetch("list_quarantine", storable(host), port)
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
        rows = await self._database.fetch("get_drain", storable(gateway_id))
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
        await self._tenure.wait_lost()

    async def reacquire(self) -> None:
        """Take the lock again after its connection was lost.

        Raises:
            StoreUnavailableError: the database is still away, or another broker holds the
                lock just now; try again later.
            StoreFencedError: another broker took over meanwhile; stop.
        """
        await self._tenure.resume()

    async def close(self) -> None:
        """Give the database up; idempotent. Takes the store's timeout at most."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._database.close(), name="close-database")
            tasks.create_task(self._tenure.end(), name="end-tenure")

    async def _append_one(self, values: Sequence[object]) -> int:
        first = values[1] == 1
        name = "create_connection" if first else "update_connection"
        (row,) = await self._write(name, *values)
        return cast("int", row[0])

    async def _write(self, name: str, *values: object) -> list[Row]:
        """Run a statement whose last parameter is the epoch, and which then returns rows."""
        rows = await self._database.fetch(name, *values, self._tenure.epoch)
        if not rows:
            raise self._tenure.fenced()
        return rows


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


def _sessions(rows: Sequence[Row]) -> list[Session]:
    return [decode_session(json.loads(row[0])) for row in rows]


def _events(rows: Sequence[Row]) -> list[SessionEvent]:
    return [
        decode_event(
            row["payload"],
            revision=row["revision"],
            time=row["time"],
            correlation_id=row["correlation_id"],
        )
        for row in rows
    ]
