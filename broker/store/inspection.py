"""What can be learnt of a database without taking it over: for whoever looks into a broker."""

from __future__ import annotations

import asyncio
import enum
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from broker.session.drain import Drain
from broker.store.postgres import LOCK_KEY, Connection, Row, connect, schema_version
from broker.store.queries import QUERIES

OLDEST_SERVER: Final = 14
"""The oldest major version of PostgreSQL that the schema is tried with."""

_TRIES: Final = 3
"""Round trips, of which the fastest says how far away the database is: the first prepares."""


class Trouble(enum.StrEnum):
    """Why a database gives no connection, as far as it can be told."""

    UNKNOWN_HOST = "unknown_host"
    REFUSED = "refused"
    SILENT = "silent"
    UNREACHABLE = "unreachable"
    NOT_POSTGRESQL = "not_postgresql"
    PASSWORD = "password"  # noqa: S105 # nosec B105 # the name of a trouble
    NOT_ALLOWED = "not_allowed"
    NO_DATABASE = "no_database"
    FULL = "full"
    STARTING = "starting"
    BAD_URL = "bad_url"
    OTHER = "other"


_BY_STATE: Final = {
    "28P01": Trouble.PASSWORD,
    "28000": Trouble.NOT_ALLOWED,
    "3D000": Trouble.NO_DATABASE,
    "42501": Trouble.NOT_ALLOWED,
    "53300": Trouble.FULL,
    "57P03": Trouble.STARTING,
}
"""SQLSTATE: https://www.postgresql.org/docs/current/errcodes-appendix.html."""


class UnusableError(Exception):
    """The database gave no connection, or lost it.

    Args:
        trouble: why, as far as it can be told.
        text: in the words of who refused.
    """

    def __init__(self, trouble: Trouble, text: str) -> None:
        super().__init__(text)
        self.trouble = trouble
        self.text = text


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a database, in his own words; ``pid`` is PostgreSQL's process of his lock."""

    name: str
    since: datetime
    epoch: int
    pid: int


@dataclass(frozen=True, slots=True)
class Inspection:
    """What a database is like.

    Args:
        server_version: such as ``16.2``.
        server_major: such as 16.
        writable: whether it takes writes: it is no standby, and not read-only.
        username: as whom we are connected.
        may_write: whether that user may write our tables, or make them.
        migration: the version of its schema; None before the first.
        holder: the broker that holds it; None if none does.
        drains: the gateways that an operator has taken out of use, by name.
        clock_ahead: seconds by which its clock is ahead of ours.
        clock_error: seconds by which ``clock_ahead`` may be wrong.
        latency: seconds for a round trip.
    """

    server_version: str
    server_major: int
    writable: bool
    username: str
    may_write: bool
    migration: str | None
    holder: Holder | None
    drains: dict[str, Drain]
    clock_ahead: float
    clock_error: float
    latency: float


async def inspect(dsn: str, gateways: Sequence[str], *, timeout: float) -> Inspection:
    """Look into a database, and leave no trace.

    Args:
        dsn: as asyncpg reads it.
        gateways: whose drains are wanted.
        timeout: seconds for all of it.

    Raises:
        UnusableError: it gives no connection, does not answer, or does not let us read.
    """
    try:
        async with asyncio.timeout(timeout):
            connection = await connect(dsn, timeout=timeout)
            try:
                return await _look(connection, gateways)
            finally:
                connection.terminate()
    except Exception as error:
        raise _unusable(error, timeout) from error


async def _look(connection: Connection, gateways: Sequence[str]) -> Inspection:
    latency, asked, state = min(
        [await _ask(connection) for _ in range(_TRIES)], key=lambda answer: answer[0]
    )
    version = connection.get_server_version()
    holder = None
    drains: dict[str, Drain] = {}
    migration = await schema_version(connection)
    if state["is_ours"]:
        row = await connection.fetchrow(QUERIES["lock_holder"], LOCK_KEY)
        if row is not None and row["pid"] is not None:
            holder = Holder(row["holder"], row["held_since"], row["epoch"], row["pid"])
    if state["has_gateways"]:
        for name in gateways:
            for found in await connection.fetch(QUERIES["get_drain"], name):
                drains[name] = Drain(
                    found["drain_actor"], found["drain_reason"], found["drain_time"]
                )
    return Inspection(
        server_version=f"{version.major}.{version.minor}",
        server_major=version.major,
        writable=not state["is_read_only"],
        username=state["username"],
        may_write=state["may_write"],
        migration=migration,
        holder=holder,
        drains=drains,
        clock_ahead=(state["now"] - asked).total_seconds() - latency / 2,
        clock_error=latency / 2,
        latency=latency,
    )


async def _ask(connection: Connection) -> tuple[float, datetime, Row]:
    """Seconds of a round trip, when it began, and what the server is like."""
    loop = asyncio.get_running_loop()
    asked, began = datetime.now(UTC), loop.time()
    state = await connection.fetchrow(QUERIES["server_state"])
    assert state is not None
    return loop.time() - began, asked, state


def _unusable(error: Exception, timeout: float) -> UnusableError:
    state = getattr(error, "sqlstate", None)
    text = str(error).partition("\n")[0] or type(error).__name__
    if isinstance(error, UnusableError):
        return error
    if isinstance(state, str) and state.startswith("08"):
        return UnusableError(Trouble.NOT_POSTGRESQL, text)
    if isinstance(state, str):
        return UnusableError(_BY_STATE.get(state, Trouble.OTHER), text)
    if isinstance(error, TimeoutError):
        return UnusableError(Trouble.SILENT, f"no answer within {timeout:g} s")
    if isinstance(error, socket.gaierror):
        return UnusableError(Trouble.UNKNOWN_HOST, error.strerror or text)
    if isinstance(error, ConnectionRefusedError | FileNotFoundError):
        return UnusableError(Trouble.REFUSED, text)
    if isinstance(error, ConnectionError):
        return UnusableError(Trouble.NOT_POSTGRESQL, text)
    if isinstance(error, OSError):
        return UnusableError(Trouble.UNREACHABLE, text)
    if isinstance(error, ValueError):
        return UnusableError(Trouble.BAD_URL, text)
    return UnusableError(Trouble.OTHER, f"{type(error).__name__}: {text}")
