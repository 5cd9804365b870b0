"""The record keeps what the port promises, against a real PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from broker.errors import ErrorCode, Phase
from broker.session import machine
from broker.session.filters import SessionFilter
from broker.session.inputs import (
    AttemptFailed,
    EndRequested,
    LeaseChanged,
    LinkEnded,
    LinkLost,
    LinkUp,
)
from broker.session.model import (
    Attempt,
    Change,
    ClientIdPolicy,
    CloseReason,
    Condition,
    ConditionChange,
    ConditionStatus,
    Failure,
    Session,
    SessionEvent,
    SessionNotice,
    SessionSpec,
    SessionState,
    Transition,
    Update,
)
from broker.store.base import PageKey, Store
from broker.store.postgres import RecordRefusedError
from broker.store.record import PostgresStore
from tests.postgres import execute

NOW = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
HOSTILE = "'; DROP TABLE session_events; --\"\\ $1 %s {} \u2028 \U0001f600"


def opened(
    client_id: int = 7, *, at: datetime = NOW, lease_ttl: float | None = None, **spec: Any
) -> list[SessionEvent]:
    values: dict[str, Any] = {
        "session_id": uuid4(),
        "gateway_id": "default",
        "host": "127.0.0.1",
        "port": 4002,
        "owner": "alice",
        "requested_client_id": client_id,
        "client_id_policy": ClientIdPolicy.EXACT,
        "readonly": False,
        "timeout": 0.1 + 0.2,
        "max_attempts": 7,
        "reconnect_max_attempts": None,
        "return_immediately": True,
        "labels": {"desk": "fx"},
    }
    built = SessionSpec(**(values | spec))
    step = machine.open_session(
        built, client_id, lease_ttl=lease_ttl, now=at, correlation_id=uuid4()
    )
    return list(step.events)


def failure(code: ErrorCode = ErrorCode.TIMEOUT) -> Failure:
    return Failure(code, Phase.TCP, "silence", "look", NOW, tws_code=502, attempt=1)


def after(events: Sequence[SessionEvent], *items: object) -> list[SessionEvent]:
    """The events that inputs add."""
    session = events[-1].session
    added: list[SessionEvent] = []
    for number, item in enumerate(items):
        done = machine.step(
            session,
            item,  # type: ignore[arg-type]
            now=NOW + timedelta(seconds=number + 1),
            correlation_id=uuid4(),
        )
        session = done.session
        added += done.events
    return added


def life(client_id: int = 7) -> list[SessionEvent]:
    """A session from its beginning to its end, through most transitions."""
    start = opened(client_id)
    return start + after(
        start,
        AttemptFailed(failure=failure(), delay=1.0),
        LinkUp(server_version=178, accounts=("DU1", "DU2")),
        LinkLost(failure=failure(ErrorCode.CONNECTION), reason="PEER_CLOSED"),
        AttemptFailed(failure=failure(), delay=1.0),
        LinkUp(server_version=178, accounts=("DU1",)),
        EndRequested(close_reason=CloseReason.CLOSE_REQUESTED, actor="alice"),
        LinkEnded(),
    )


def leased(client_id: int = 7, **spec: Any) -> list[SessionEvent]:
    """A session that can be asked for again, and whose lease changes."""
    start = opened(client_id, lease_ttl=0.1 + 0.2, **requested(), **spec)
    return start + after(
        start,
        LinkUp(server_version=178, accounts=("DU1",)),
        LeaseChanged(lease_ttl=3600.0, actor="alice"),
        LeaseChanged(lease_ttl=1e-3, actor="bob"),
        LeaseChanged(lease_ttl=30.0, actor=HOSTILE),
        EndRequested(close_reason=CloseReason.LEASE_EXPIRED, actor="broker"),
        LinkEnded(),
    )


def requested(number: int = 1) -> dict[str, Any]:
    """What makes an open repeatable."""
    return {"request_id": UUID(int=number), "request_hash": f"hash {number}"}


def failed(client_id: int = 7, **spec: Any) -> list[SessionEvent]:
    """A session that ends without ever having been CONNECTED."""
    start = opened(client_id, **spec)
    end = AttemptFailed(failure=failure(ErrorCode.INCOMPATIBLE_VERSION), delay=1.0)
    return start + after(start, end)


def folded(events: Sequence[SessionEvent], revisions: Sequence[int]) -> Session:
    session: Session | None = None
    for event, revision in zip(events, revisions, strict=True):
        session = machine.fold(session, replace(event, revision=revision))
    assert session is not None
    return session


def test_it_is_a_store(store: PostgresStore) -> None:
    port: Store = store
    assert port.epoch == 1


@pytest.mark.requirement("AC-012")
async def test_create_connection_makes_the_row(store: PostgresStore, database_url: str) -> None:
    (event,) = opened()
    assert await store.append([event]) == [1] or await store.revision() == 1
    connection = await asyncpg.connect(database_url)
    row = await connection.fetchrow("SELECT * FROM gateway_connections")
    await connection.close()
    assert row is not None
    assert (row["session_id"], row["client_id"], row["host"], row["port"], row["readonly"]) == (
        event.session_id,
        7,
        "127.0.0.1",
        4002,
        False,
    )
    assert row["server_version"] is row["connection_time"] is row["final_state"] is None
    assert row["created_at"] == NOW
    assert row["epoch"] == store.epoch


@pytest.mark.requirement("AC-012")
async def test_update_connection_moves_the_row(store: PostgresStore) -> None:
    events = opened()
    await store.append(events)
    (up,) = after(events, LinkUp(server_version=178, accounts=("DU1",)))
    assert list(await store.append([up])) == [2]
    assert await store.get_connection(up.session_id) == replace(up.session, revision=2)


@pytest.mark.requirement("AC-012")
async def test_get_connection_of_an_unknown_id_is_none(store: PostgresStore) -> None:
    assert await store.get_connection(uuid4()) is None


@pytest.mark.requirement("AC-012")
async def test_list_active_connections_leaves_final_ones_out(store: PostgresStore) -> None:
    await store.append(life(1))
    await store.append(late := opened(2, at=NOW + timedelta(seconds=9)))
    await store.append(early := opened(3))
    active = await store.list_active_connections()
    assert [one.spec.session_id for one in active] == [early[0].session_id, late[0].session_id]


@pytest.mark.parametrize("size", [1, 2, 3, 100])
@pytest.mark.parametrize("story", [life, leased, failed])
async def test_the_row_is_the_fold_of_the_events(
    store: PostgresStore, story: Callable[[], list[SessionEvent]], size: int
) -> None:
    events = story()
    revisions: list[int] = []
    for start in range(0, len(events), size):
        part = events[start : start + size]
        revisions += await store.append(part)
        assert await store.get_connection(part[-1].session_id) == folded(
            events[: len(revisions)], revisions
        )
    assert revisions == list(range(1, len(events) + 1))
    recorded = await store.list_events(events[0].session_id, limit=100)
    assert recorded == [
        replace(event, revision=number, session=replace(event.session, revision=number))
        for number, event in enumerate(events, 1)
    ]


async def test_conditions_are_kept(store: PostgresStore) -> None:
    (event,) = opened()
    await store.append([event])
    condition = Condition("UPSTREAM", "", ConditionStatus.FALSE, "LOST", "1100", NOW, 1100)
    changed = replace(event.session, sequence=2, conditions=(condition,))
    await store.append(
        [replace(event, sequence=2, change=ConditionChange(condition), session=changed)]
    )
    stored = await store.get_connection(event.session_id)
    assert stored is not None
    assert stored.conditions == (condition,)
    (_, recorded) = await store.list_events(event.session_id, limit=9)
    assert recorded.change == ConditionChange(condition)


@pytest.mark.parametrize(
    "change",
    [
        ConditionChange(
            Condition("MARKET_DATA_FARM", HOSTILE, ConditionStatus.TRUE, "OK", HOSTILE, NOW, 2104)
        ),
        SessionNotice("OVERDUE", HOSTILE, HOSTILE, "look", NOW - timedelta(microseconds=1)),
        Attempt(2, replace(failure(), since=NOW - timedelta(hours=1)), NOW),
        Update((HOSTILE,), HOSTILE),
    ],
    ids=lambda change: type(change).__name__,
)
async def test_a_change_is_read_as_it_was_written(store: PostgresStore, change: Change) -> None:
    (event,) = opened()
    await store.append([event])
    conditions = (change.condition,) if isinstance(change, ConditionChange) else ()
    last_failure = change.failure if isinstance(change, Attempt) else None
    later = [
        replace(
            event,
            sequence=number,
            change=change,
            session=replace(
                event.session, sequence=number, conditions=conditions, last_failure=last_failure
            ),
        )
        for number in range(2, 5)
    ]
    await store.append(later[:1])
    await store.append(later[1:])
    stored = [one.change for one in await store.list_events(event.session_id, limit=9)]
    assert stored == [event.change, change, change, change]
    assert await store.get_connection(event.session_id) == replace(later[-1].session, revision=4)


async def test_a_notice_is_found_by_its_kind(store: PostgresStore, database_url: str) -> None:
    (event,) = opened()
    notice = SessionNotice("GATEWAY_DRAINING", "default", "ops drains it", "wait", NOW)
    session = replace(event.session, sequence=2)
    await store.append([event, replace(event, sequence=2, change=notice, session=session)])
    connection = await asyncpg.connect(database_url)
    kinds = await connection.fetch("SELECT kind FROM session_events ORDER BY revision")
    await connection.close()
    assert [row[0] for row in kinds] == ["transition", "notice"]


async def test_a_failure_of_a_record_that_knew_no_since_has_none(
    store: PostgresStore, database_url: str
) -> None:
    events = opened()
    since = replace(failure(), since=NOW)
    events += after(events, AttemptFailed(failure=since, delay=1.0))
    await store.append(events)
    await execute(
        database_url,
        "ALTER TABLE session_events DISABLE TRIGGER session_events_immutable",
        "UPDATE session_events SET payload = "
        "payload #- '{change,failure,since}' #- '{session,last_failure,since}'",
        "UPDATE gateway_connections SET last_failure = last_failure - 'since'",
    )
    found = await store.get_connection(events[0].session_id)
    assert found is not None
    assert found.last_failure == failure()
    (_, attempt) = await store.list_events(events[0].session_id, limit=9)
    assert isinstance(attempt.change, Attempt)
    assert attempt.change.failure == attempt.session.last_failure == failure()


async def test_an_event_that_is_older_than_leases_and_requests_has_neither(
    store: PostgresStore, database_url: str
) -> None:
    [event] = opened(lease_ttl=30.0, **requested())
    await store.append([event])
    await execute(
        database_url,
        "ALTER TABLE session_events DISABLE TRIGGER session_events_immutable",
        "UPDATE session_events SET payload = payload #- '{session,lease_ttl}' "
        "#- '{session,request_id}' #- '{session,request_hash}'",
    )
    [recorded] = await store.list_events(event.session_id, limit=9)
    spec = replace(event.session.spec, request_id=None, request_hash=None)
    assert recorded.session == replace(event.session, spec=spec, lease_ttl=None, revision=1)


async def test_a_batch_of_many_sessions_is_one_transaction(store: PostgresStore) -> None:
    lives = [life(number) for number in range(1, 6)]
    mixed = [event for step in zip(*lives, strict=True) for event in step]
    assert list(await store.append(mixed)) == list(range(1, len(mixed) + 1))
    bad = replace(opened(50)[0], sequence=3)
    with pytest.raises(RecordRefusedError):
        await store.append([*opened(60), bad])
    assert await store.revision() == len(mixed)


async def test_the_history_of_a_session_is_read_page_by_page(store: PostgresStore) -> None:
    events = life()
    await store.append([*opened(8), *events])
    session_id = events[0].session_id

    async def page(after: int, limit: int) -> list[int]:
        found = await store.list_events(session_id, after=after, limit=limit)
        return [event.sequence for event in found]

    assert await page(0, 2) == [1, 2]
    assert await page(2, 3) == [3, 4, 5]
    assert await page(5, 100) == list(range(6, len(events) + 1))
    assert await page(len(events), 100) == []
    assert await store.list_events(uuid4(), limit=100) == []


@pytest.mark.parametrize(("first", "second"), [(1, 2), (2, 1)])
async def test_an_id_goes_from_a_session_that_ends_to_one_that_begins_in_one_batch(
    store: PostgresStore, first: int, second: int
) -> None:
    # Left to itself PostgreSQL would take the sessions in the order of their ids.
    one = failed(7, session_id=UUID(int=first), **requested())
    two = opened(7, session_id=UUID(int=second), **requested())
    await store.append(one[:-1])
    assert list(await store.append([*one[-1:], *two])) == [len(one), len(one) + 1]
    assert [item.spec.session_id for item in await store.list_active_connections()] == [
        two[0].session_id
    ]
    with pytest.raises(RecordRefusedError, match="_key"):
        await store.append(opened(7, **requested()))


async def test_a_request_id_is_bound_while_its_session_lives_or_once_it_was_connected(
    store: PostgresStore,
) -> None:
    request_id = UUID(int=1)
    assert await store.find_request("alice", request_id) is None
    nothing = failed(**requested())
    await store.append(nothing[:-1])
    found = await store.find_request("alice", request_id)
    assert found == replace(nothing[-2].session, revision=1)
    await store.append(nothing[-1:])
    assert await store.find_request("alice", request_id) is None
    worked = leased()
    for number, event in enumerate(worked, len(nothing) + 1):
        await store.append([event])
        found = await store.find_request("alice", request_id)
        assert found == replace(event.session, revision=number)
    assert found is not None
    assert found.spec.request_hash == "hash 1"
    assert await store.find_request("bob", request_id) is None
    assert await store.find_request("alice", UUID(int=2)) is None


async def test_a_request_id_is_its_owners_own(store: PostgresStore) -> None:
    owners = ["alice", "Alice", HOSTILE, "\U0001f600" * 128, "a\0b"]
    for number, owner in enumerate(owners, 1):
        await store.append(opened(number, owner=owner, **requested()))
    for number, owner in enumerate(owners, 1):
        found = await store.find_request(owner, UUID(int=1))
        assert found is not None
        assert found.client_id == number


async def test_twenty_writers_get_dense_revisions_in_commit_order(store: PostgresStore) -> None:
    seen: list[int] = []

    async def write(number: int) -> None:
        for event in life(number):
            (revision,) = await store.append([event])
            seen.append(revision)

    async with asyncio.TaskGroup() as group:
        for number in range(1, 21):
            group.create_task(write(number), name=f"writer-{number}")
    assert sorted(seen) == list(range(1, len(seen) + 1))
    assert await store.revision() == len(seen)


async def test_a_repeat_keeps_its_revisions(store: PostgresStore) -> None:
    events = life()
    await store.append(events[:1])
    await store.append(events[1:3])
    assert list(await store.append(events[:1])) == [1]
    assert list(await store.append(events[2:3])) == [3]
    assert list(await store.append(events)) == list(range(1, len(events) + 1))
    assert list(await store.append(events)) == list(range(1, len(events) + 1))
    assert await store.revision() == len(events)


async def test_the_same_append_at_the_same_time_is_recorded_once(store: PostgresStore) -> None:
    events = life()
    for event in events:
        first, second = await asyncio.gather(store.append([event]), store.append([event]))
        assert list(first) == list(second)
    assert await store.revision() == len(events)


async def test_a_gap_in_the_sequence_is_refused(store: PostgresStore) -> None:
    events = life()
    await store.append(events[:1])
    for batch in (events[2:3], events[2:4]):
        with pytest.raises(RecordRefusedError):
            await store.append(batch)
    with pytest.raises(RecordRefusedError):
        await store.append(life(8)[1:])
    assert await store.revision() == 1


async def test_a_final_session_never_moves_again(store: PostgresStore) -> None:
    events = life()
    await store.append(events)
    last = events[-1]
    move = Transition(1, SessionState.DISCONNECTED, SessionState.CONNECTING, "AGAIN")
    again = replace(
        last,
        sequence=last.sequence + 1,
        change=move,
        session=replace(
            last.session,
            sequence=last.sequence + 1,
            state=SessionState.CONNECTING,
            disconnect_time=None,
        ),
    )
    with pytest.raises(RecordRefusedError):
        await store.append([again])


@pytest.mark.requirement("AC-015")
async def test_hostile_text_is_stored_and_found_as_it_is(store: PostgresStore) -> None:
    events = opened(owner=HOSTILE, labels={HOSTILE: HOSTILE})
    await store.append(events)
    await store.append(opened(8))
    for wanted in (SessionFilter(owner=HOSTILE), SessionFilter(labels={HOSTILE: HOSTILE})):
        (found,) = await store.list_connections(wanted, after=None, limit=10)
        assert found == replace(events[0].session, revision=1)
    assert (
        await store.list_connections(SessionFilter(gateway_id=HOSTILE), after=None, limit=9) == []
    )
    assert await store.revision() == 2


async def test_text_that_no_database_takes_is_replaced(store: PostgresStore) -> None:
    await store.append(opened(owner="a\0b\ud800", labels={"\0": "\\u0000"}))
    (found,) = await store.list_connections(SessionFilter(owner="a\0b\ud800"), after=None, limit=9)
    assert found.spec.owner == "a\ufffdb\ufffd"
    assert found.spec.labels == {"\ufffd": "\\u0000"}


async def test_pages_follow_each_other_without_gap(store: PostgresStore) -> None:
    for number in range(1, 8):
        await store.append(opened(number, at=NOW + timedelta(seconds=number // 3)))
    pages: list[Session] = []
    key = None
    while page := await store.list_connections(SessionFilter(), after=key, limit=2):
        pages += page
        key = PageKey(page[-1].create_time, page[-1].spec.session_id)
    assert len({one.spec.session_id for one in pages}) == 7
    assert pages == sorted(pages, key=lambda one: (one.create_time, one.spec.session_id))


async def test_every_field_of_a_filter_counts(store: PostgresStore) -> None:
    one = opened(1, gateway_id="paper", owner="bob", labels={"a": "1", "b": "2"})
    await store.append(one)
    await store.append(life(2))
    id_ = frozenset((one[0].session_id,))
    everything = await store.list_connections(SessionFilter(), after=None, limit=10)
    for wanted in (
        SessionFilter(),
        SessionFilter(session_ids=id_),
        SessionFilter(session_ids=frozenset((UUID(int=1),))),
        SessionFilter(gateway_id="paper"),
        SessionFilter(owner="bob"),
        SessionFilter(labels={"a": "1"}),
        SessionFilter(labels={"a": "2"}),
        SessionFilter(states=frozenset((SessionState.DISCONNECTED,))),
        SessionFilter(owner="bob", states=frozenset((SessionState.DISCONNECTED,))),
    ):
        found = await store.list_connections(wanted, after=None, limit=10)
        assert found == [session for session in everything if wanted.matches(session)], wanted


async def test_a_cancelled_append_leaves_the_store_usable(store: PostgresStore) -> None:
    events = life()
    for delay in (0.0, 0.0005, 0.001, 0.002):
        task = asyncio.create_task(store.append(events))
        await asyncio.sleep(delay)
        task.cancel()
        await asyncio.wait([task])
    assert list(await store.append(events)) == list(range(1, len(events) + 1))
