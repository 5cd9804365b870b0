"""What must never be in the record cannot get into it, whoever writes."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any

import asyncpg
import pytest

from broker.errors import ErrorCode
from broker.session.inputs import AttemptFailed, LinkUp
from broker.session.machine import TRANSITIONS
from broker.session.model import SessionEvent, SessionState, Transition
from broker.store.codec import encode_event
from broker.store.postgres import RecordRefusedError, RuleBrokenError
from broker.store.record import PostgresStore
from tests.harness import eventually
from tests.integration.test_store import after, failed, failure, leased, life, opened, requested
from tests.postgres import execute

ROW = """
INSERT INTO gateway_connections
SELECT * FROM jsonb_populate_record(
    NULL::gateway_connections, $1::jsonb || '{"revision": 1, "epoch": 1}'
)
"""
EVENT = """
INSERT INTO session_events
VALUES ($1, $2, $1, 'transition', $3, $4, '{}', now(), gen_random_uuid(), 1)
"""


@pytest.fixture
async def raw(database_url: str) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    """A connection past the store, as another program would have one."""
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


def row(events: Sequence[SessionEvent], **changes: object) -> str:
    """The row after the last event, as JSON."""
    return json.dumps(json.loads(encode_event(events[-1]))["session"] | changes)


async def test_the_nine_transitions_and_no_others_can_be_stored(
    store: PostgresStore, raw: asyncpg.Connection[asyncpg.Record]
) -> None:
    (event,) = opened()
    await store.append([event])
    stored = set()
    for number, pair in enumerate(itertools.product(SessionState, repeat=2), 2):
        try:
            await raw.execute(EVENT, number, event.session_id, *(state.value for state in pair))
        except asyncpg.ForeignKeyViolationError:
            pass
        else:
            stored.add(pair)
    assert stored == set(TRANSITIONS)


@pytest.mark.parametrize(
    ("source", "target"), [(None, None), ("CONNECTING", None), (None, "CONNECTED")]
)
async def test_a_transition_has_both_its_ends(
    store: PostgresStore,
    raw: asyncpg.Connection[asyncpg.Record],
    source: str | None,
    target: str | None,
) -> None:
    (event,) = opened()
    await store.append([event])
    with pytest.raises(asyncpg.IntegrityConstraintViolationError):
        await raw.execute(EVENT, 2, event.session_id, source, target)


async def test_an_illegal_transition_is_refused_by_the_store(store: PostgresStore) -> None:
    events = opened()
    await store.append(events)
    (up,) = after(events, LinkUp(server_version=178, accounts=("A",)))
    jump = Transition(2, SessionState.CONNECTING, SessionState.RECONNECTING, "JUMP")
    with pytest.raises(RuleBrokenError, match="transition_fkey"):
        await store.append([replace(up, change=jump)])


async def test_a_failed_session_without_its_code_cannot_be_stored(store: PostgresStore) -> None:
    events = opened()
    await store.append(events)
    (end,) = after(
        events, AttemptFailed(failure=failure(ErrorCode.INCOMPATIBLE_VERSION), delay=1.0)
    )
    with pytest.raises(RecordRefusedError, match="failed_check"):
        await store.append([replace(end, session=replace(end.session, last_failure=None))])
    await store.append([end])


@pytest.mark.requirement("AC-015")
@pytest.mark.parametrize("expired", [False, True], ids=["kept", "given up"])
@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE session_events SET kind = kind",
        "UPDATE session_events SET time = now() WHERE revision = 1",
        "TRUNCATE session_events",
        "TRUNCATE gateway_connections CASCADE",
        "TRUNCATE broker_store, session_events",
    ],
)
async def test_history_cannot_be_changed(
    store: PostgresStore, database_url: str, statement: str, expired: bool
) -> None:
    await store.append(life())
    if expired:
        await store.raise_horizon(0, 1)
    with pytest.raises(asyncpg.RestrictViolationError):
        await execute(database_url, statement)


@pytest.mark.requirement("AC-015")
async def test_history_can_be_deleted_below_the_horizon_only(
    store: PostgresStore, raw: asyncpg.Connection[asyncpg.Record]
) -> None:
    await store.append(life())
    await store.raise_horizon(10**10, 3)
    horizon = len(life()) - 2
    for condition in ("true", f"revision = {horizon}", f"revision >= {horizon}"):
        with pytest.raises(asyncpg.RestrictViolationError):
            await raw.execute(f"DELETE FROM session_events WHERE {condition}")  # noqa: S608
    assert await raw.fetchval("SELECT count(*) FROM session_events") == len(life())
    await raw.execute(f"DELETE FROM session_events WHERE revision < {horizon}")  # noqa: S608
    assert await raw.fetchval("SELECT min(revision) FROM session_events") == horizon


async def test_a_session_cannot_be_deleted_before_its_events(
    store: PostgresStore, raw: asyncpg.Connection[asyncpg.Record]
) -> None:
    await store.append(life())
    with pytest.raises(asyncpg.ForeignKeyViolationError):
        await raw.execute("DELETE FROM gateway_connections")


async def test_the_horizon_cannot_pass_what_is_not_there_yet(
    store: PostgresStore, raw: asyncpg.Connection[asyncpg.Record]
) -> None:
    await store.append(opened())
    await raw.execute("UPDATE broker_store SET retention_horizon = 2")
    with pytest.raises(asyncpg.CheckViolationError):
        await raw.execute("UPDATE broker_store SET retention_horizon = 3")


async def test_one_client_id_has_one_active_session(store: PostgresStore) -> None:
    await store.append(opened(7))
    with pytest.raises(RuleBrokenError, match="active_client_id_key"):
        await store.append(opened(7))
    await store.append(opened(7, port=4001))
    await store.append(opened(7, host="localhost"))
    await store.append(life(8))
    await store.append(opened(8))


async def test_one_request_id_has_one_session_that_lives_or_was_connected(
    store: PostgresStore,
) -> None:
    for number in (1, 2):
        await store.append(failed(number, **requested()))
    await store.append(leased(3))
    for single in (True, False):
        again = opened(4, **requested())
        with pytest.raises(RuleBrokenError, match="request_id_key"):
            await store.append(again if single else [*opened(5), *again])
    await store.append(opened(4, owner="bob", **requested()))
    await store.append(opened(5, **requested(2)))
    with pytest.raises(RuleBrokenError, match="request_id_key"):
        await store.append(opened(6, **requested(2)))


@pytest.mark.parametrize(
    ("first", "second", "constraint"),
    [
        (opened(7), opened(7), "active_client_id_key"),
        (opened(7, **requested()), opened(8, **requested()), "request_id_key"),
        (leased(7), opened(8, **requested()), "request_id_key"),
    ],
    ids=["client id", "request id", "request id of one that has ended"],
)
@pytest.mark.parametrize("commits", [True, False])
async def test_of_two_writers_at_once_one_gets_the_id(
    raw: asyncpg.Connection[asyncpg.Record],
    database_url: str,
    first: list[SessionEvent],
    second: list[SessionEvent],
    constraint: str,
    commits: bool,
) -> None:
    other = await asyncpg.connect(database_url)
    transaction = other.transaction()
    await transaction.start()
    await other.execute(ROW, row(first))
    writing = asyncio.create_task(raw.execute(ROW, row(second)), name="second")

    async def waits() -> Any:
        return await other.fetch(
            "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND pid = $1",
            raw.get_server_pid(),
        )

    await eventually(waits)
    if commits:
        await transaction.commit()
        with pytest.raises(asyncpg.UniqueViolationError, match=constraint):
            await writing
    else:
        await transaction.rollback()
        await writing
    assert await raw.fetchval("SELECT count(*) FROM gateway_connections") == 1
    await other.close()


@pytest.mark.parametrize(
    ("changes", "constraint"),
    [
        ({"lease_ttl": 0.0}, "lease_ttl_check"),
        ({"lease_ttl": -1.0}, "lease_ttl_check"),
        ({"request_hash": "h"}, "request_check"),
        ({"request_id": "00000000-0000-4000-8000-000000000000"}, "request_check"),
        (
            {"final_state": "FAILED", "disconnection_time": "2026-01-02T03:04:05Z"},
            "final_state_check",
        ),
        ({"state": "ASLEEP"}, "state_check"),
        ({"client_id_policy": "ANY"}, "client_id_policy_check"),
        ({"sequence": 0}, "sequence_check"),
        ({"port": 0}, "port_check"),
        ({"port": 65536}, "port_check"),
        ({"state": "CONNECTED"}, "connected_check"),
        ({"disconnection_time": "2026-01-02T03:04:05Z"}, "ended_check"),
    ],
)
async def test_a_session_that_makes_no_sense_is_refused(
    raw: asyncpg.Connection[asyncpg.Record], changes: dict[str, object], constraint: str
) -> None:
    with pytest.raises(asyncpg.CheckViolationError, match=constraint):
        await raw.execute(ROW, row(opened(), **changes))
    await raw.execute(ROW, row(opened()))


async def test_readers_never_see_a_gap_while_many_write(store: PostgresStore) -> None:
    done = asyncio.Event()

    async def write(number: int) -> None:
        events = life(number)
        while events:
            size = 1 + number % 3
            await store.append(events[:size])
            events = events[size:]

    async def read() -> int:
        reads = 0
        while not done.is_set():
            page = await store.read_log(0, limit=10_000)
            assert [event.revision for event in page.events] == list(range(1, page.newest + 1))
            reads += 1
        return reads

    reading = asyncio.create_task(read(), name="reader")
    async with asyncio.TaskGroup() as writers:
        for number in range(1, 21):
            writers.create_task(write(number), name=f"writer-{number}")
    done.set()
    assert await reading > 1
    assert await store.revision() == 20 * len(life())
