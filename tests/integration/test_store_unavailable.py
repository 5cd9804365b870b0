"""A database that is full, slow, closed or handed over is unavailable: another try may succeed."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from broker.errors import StartupError, StoreUnavailableError
from broker.session.inputs import LinkUp
from broker.store.postgres import RecordRefusedError, StoreSettings
from broker.store.record import PostgresStore
from tests.harness import eventually
from tests.integration.test_store import after, opened
from tests.postgres import execute

# What a trigger raises, as the server would: the state and what it stands for.
STATES = {
    "53000": "InsufficientResourcesError",
    "53100": "DiskFullError",
    "53200": "OutOfMemoryError",
    "53300": "TooManyConnectionsError",
    "53400": "ConfigurationLimitExceededError",
    "57P01": "AdminShutdownError",
    "57P02": "CrashShutdownError",
    "57P03": "CannotConnectNowError",
    "57014": "QueryCanceledError",
    "58000": "PostgresSystemError",
    "58030": "PostgresIOError",
    "25006": "ReadOnlySQLTransactionError",
    "25P03": "IdleInTransactionSessionTimeoutError",
    "25P04": "TransactionTimeoutError",
    "55P03": "LockNotAvailableError",
    "40001": "SerializationError",
    "40P01": "DeadlockDetectedError",
    "08006": "ConnectionFailureError",
}
"""By SQLSTATE, the class of asyncpg that a trigger makes it raise."""

# What the server itself raises under a setting of the database, while another connection holds
# the row that every append needs.
SETTINGS = {
    "statement_timeout = '500ms'": "QueryCanceledError",
    "lock_timeout = '500ms'": "LockNotAvailableError",
    # It ends the connection, and asyncpg says so.
    "transaction_timeout = '500ms'": "due to transaction timeout",
    "default_transaction_read_only = on": "ReadOnlySQLTransactionError",
}

USER = "tester"


def as_user(dsn: str, name: str, password: str) -> str:
    """The same database, for a user who is no superuser."""
    parts = urlsplit(dsn)
    return urlunsplit(parts._replace(netloc=f"{name}:{password}@"))


async def reset(dsn: str, *statements: str) -> None:
    """Change the database from outside, past its own settings and limits."""
    name = urlsplit(dsn).path[1:]
    admin = dsn.replace(f"/{name}?", "/postgres?")
    await execute(
        admin,
        *(statement.format(database=name) for statement in statements),
        f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'",  # noqa: S608
    )


async def refusals(store: PostgresStore) -> list[str]:
    """What one append, and a batch, are told."""
    start = opened(7)
    told = []
    for batch in (start, [*start, *after(start, LinkUp(server_version=178, accounts=("A",)))]):
        with pytest.raises(StoreUnavailableError) as caught:
            await store.append(batch)
        told.append(caught.value.message)
    return told


@pytest.mark.parametrize(("state", "name"), STATES.items(), ids=STATES.values())
async def test_what_is_no_fault_of_the_statement_is_unavailable(
    store: PostgresStore, database_url: str, state: str, name: str
) -> None:
    await execute(
        database_url,
        f"""
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN RAISE EXCEPTION 'simulated' USING ERRCODE = '{state}'; END $$
        """,
        "CREATE TRIGGER refuse BEFORE INSERT ON session_events EXECUTE FUNCTION refuse()",
    )
    assert await refusals(store) == [f"the database is unavailable: {name}: simulated"] * 2
    await execute(database_url, "DROP TRIGGER refuse ON session_events")
    assert list(await store.append(opened(7))) == [1]


@pytest.mark.parametrize("state", ["22001", "23505", "42501", "54001", "P0001", "XX000", "XX001"])
async def test_what_may_be_our_own_fault_is_not(
    store: PostgresStore, database_url: str, state: str
) -> None:
    await execute(
        database_url,
        f"""
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN RAISE EXCEPTION 'simulated' USING ERRCODE = '{state}'; END $$
        """,
        "CREATE TRIGGER refuse BEFORE INSERT ON session_events EXECUTE FUNCTION refuse()",
    )
    with pytest.raises(RecordRefusedError, match="simulated"):
        await store.append(opened(7))


@pytest.mark.parametrize(("setting", "said"), SETTINGS.items())
async def test_a_database_that_is_slow_or_read_only_by_its_own_settings_is_unavailable(
    database_url: str, setting: str, said: str
) -> None:
    store = await PostgresStore.open(StoreSettings(database_url), "test")
    holder = await asyncpg.connect(database_url)
    transaction = holder.transaction()
    await transaction.start()
    await holder.execute("UPDATE broker_store SET holder = holder")
    await execute(database_url, f"ALTER DATABASE {urlsplit(database_url).path[1:]} SET {setting}")
    assert all(said in told for told in await refusals(store))
    await transaction.rollback()
    await holder.close()
    await reset(database_url, f"ALTER DATABASE {{database}} RESET {setting.partition(' ')[0]}")
    events = opened(7)

    async def kept() -> Sequence[int]:
        try:
            return await store.append(events)
        except StoreUnavailableError:
            # A connection that was just ended is found to be so by the next call.
            return ()

    assert list(await eventually(kept)) == [1]
    await store.close()


async def _ready(dsn: str, limit: int) -> str:
    """A user with so many connections, who may do what a broker does."""
    await execute(
        dsn,
        f"DO $$ BEGIN CREATE ROLE {USER} LOGIN PASSWORD 'secret'; "
        "EXCEPTION WHEN duplicate_object THEN END $$",
        f"ALTER ROLE {USER} CONNECTION LIMIT {limit}",
        f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {USER}",
    )
    return as_user(dsn, USER, "secret")


@pytest.mark.parametrize(
    ("closed", "opened_again", "told"),
    [
        (
            ("ALTER ROLE tester CONNECTION LIMIT 1",),
            ("ALTER ROLE tester CONNECTION LIMIT -1",),
            "TooManyConnectionsError",
        ),
        (
            ("ALTER ROLE tester NOLOGIN",),
            ("ALTER ROLE tester LOGIN",),
            "InvalidAuthorizationSpecificationError",
        ),
        (
            ("ALTER ROLE tester PASSWORD 'other'",),
            ("ALTER ROLE tester PASSWORD 'secret'",),
            "InvalidPasswordError",
        ),
        (
            ("REVOKE CONNECT ON DATABASE {database} FROM PUBLIC",),
            ("GRANT CONNECT ON DATABASE {database} TO PUBLIC",),
            "InsufficientPrivilegeError",
        ),
        (
            ("ALTER DATABASE {database} ALLOW_CONNECTIONS false",),
            ("ALTER DATABASE {database} ALLOW_CONNECTIONS true",),
            "ObjectNotInPrerequisiteStateError",
        ),
    ],
    ids=["full", "no login", "another password", "closed", "closed to all"],
)
async def test_a_database_that_lets_nobody_in_is_unavailable_until_it_does(
    database_url: str, closed: Sequence[str], opened_again: Sequence[str], told: str
) -> None:
    dsn = await _ready(database_url, -1)
    store = await PostgresStore.open(StoreSettings(dsn), "test")
    guest = await asyncpg.connect(dsn) if told == "TooManyConnectionsError" else None
    name = urlsplit(database_url).path[1:]
    admin = database_url.replace(f"/{name}?", "/postgres?")
    await execute(admin, *(statement.format(database=name) for statement in closed))
    try:
        assert all(told in message for message in await refusals(store))
    finally:
        await execute(admin, *(statement.format(database=name) for statement in opened_again))
    assert list(await store.append(opened(7))) == [1]
    if guest is not None:
        await guest.close()
    await store.close()


async def test_the_lock_is_taken_again_once_the_database_lets_the_broker_in(
    database_url: str,
) -> None:
    dsn = await _ready(database_url, -1)
    store = await PostgresStore.open(StoreSettings(dsn), "test")
    await reset(database_url, "ALTER DATABASE {database} ALLOW_CONNECTIONS false")
    await asyncio.wait_for(store.wait_lock_lost(), 5)
    with pytest.raises(StoreUnavailableError, match="ObjectNotInPrerequisiteState"):
        await store.reacquire()
    await reset(database_url, "ALTER DATABASE {database} ALLOW_CONNECTIONS true")
    await store.reacquire()
    assert store.holds_lock
    await store.close()


async def test_a_broker_does_not_start_on_a_database_that_cannot_be_written(
    database_url: str,
) -> None:
    name = urlsplit(database_url).path[1:]
    await execute(database_url, f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    with pytest.raises(StartupError, match="ReadOnlySQLTransactionError"):
        await PostgresStore.open(StoreSettings(database_url), "test")
