"""React to a lost link: subscribe anew once it is back, and say so.

Subscriptions end with the link. DATA_CONTINUOUS is FALSE from then on, until the owner has
subscribed anew and acknowledges it.

python subscribe_again.py 127.0.0.1:50051
"""

from __future__ import annotations

import asyncio
import sys

from ibgateway.client import (
    BrokerError,
    ConditionStatus,
    Session,
    SessionEvent,
    SessionState,
    Snapshot,
    SnapshotComplete,
    connect,
)


async def subscribe(session: Session, generation: int) -> None:
    """Stands for your requests of market data; they belong to one generation of the link."""
    print(f"subscribed on generation {generation} of client id {session.client_id}")


async def main(address: str) -> None:
    """Keep subscriptions alive over lost links."""
    async with (
        connect(address, owner="example") as broker,
        broker.open_session(client_id=12) as session,
    ):
        await subscribe(session, session.generation)
        handled = None
        async for item in session.watch():
            # What is so counts, not what has happened: it may have happened before the snapshot.
            if isinstance(item, SnapshotComplete):
                print("changes follow")
            if not isinstance(item, Snapshot | SessionEvent):
                continue
            now = item.session
            if now.state is SessionState.RECONNECTING:
                print(f"do not trade: {now.last_failure}; next attempt: {now.next_attempt_time}")
            continuous = now.condition("DATA_CONTINUOUS")
            if continuous is None or continuous.status is not ConditionStatus.FALSE:
                continue
            interruption = (now.generation, continuous.transition_time)
            if now.state is SessionState.CONNECTED and interruption != handled:
                handled = interruption
                await subscribe(session, now.generation)
                try:
                    await session.acknowledge_data(generation=now.generation)
                    print("trade on")
                except BrokerError as error:
                    # The link was lost again: it is told, and comes back with a new generation.
                    print(f"too late: {error}")


if __name__ == "__main__":
    try:
        asyncio.run(main(sys.argv[1]))
    except KeyboardInterrupt:
        print("closed")
