"""How mypy sees the library; it is checked and never run."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import assert_never, assert_type

from ibgateway.client import (
    Attempt,
    Bookmark,
    Broker,
    BrokerError,
    Condition,
    ConnectionFailure,
    Draining,
    Gateway,
    Interrupted,
    Notice,
    Reset,
    Resumed,
    Session,
    SessionEvent,
    SessionInfo,
    SessionOpening,
    SessionState,
    Snapshot,
    SnapshotComplete,
    Transition,
    Update,
    Verification,
    Watch,
    WatchItem,
    connect,
)


async def sessions(broker: Broker) -> None:
    opening = broker.open_session(client_id=7)
    assert_type(opening, SessionOpening)
    assert_type(await opening, Session)
    async with opening as session:
        assert_type(session.state, SessionState)
        assert_type(session.info.last_failure, ConnectionFailure | None)
        assert_type(session.info.labels, Mapping[str, str])
        assert_type(await session.verify(), Verification)
        assert_type(session.watch(), Watch)
        assert_type(session.interruption, BrokerError | None)
        session.info.state = SessionState.FAILED  # type: ignore[misc]
    assert_type(broker.list_sessions(), AsyncIterator[SessionInfo])
    assert_type(await broker.gateways.list(), tuple[Gateway, ...])
    broker.open_session("paper")  # type: ignore[call-arg]
    broker.open_session(client_id="7")  # type: ignore[arg-type]
    connect("127.0.0.1:1", timeout=1)  # type: ignore[call-arg]


def told(item: WatchItem) -> str:
    """Every kind of item, and of change, is told apart."""
    match item:
        case Snapshot(session=session):
            return str(session.state)
        case SessionEvent(change=change):
            match change:
                case Transition():
                    return str(change.to_state)
                case Attempt():
                    return str(change.failure)
                case Condition():
                    return str(change.status)
                case Notice():
                    return change.hint
                case Update():
                    return ", ".join(change.fields)
                case None:
                    return "something newer"
                case _:
                    assert_never(change)
        case SnapshotComplete() | Bookmark():
            return str(item.revision)
        case Reset():
            return item.reason
        case Draining():
            return str(item.stop_time)
        case Interrupted():
            return str(item.error)
        case Resumed():
            return item.token
        case _:
            assert_never(item)
