"""Open a session, keep it, and say whatever happens to it. Ctrl-C closes it.

python keep_a_session.py 127.0.0.1:50051
"""

from __future__ import annotations

import asyncio
import sys

from ibgateway.client import (
    Attempt,
    Interrupted,
    SessionEndedError,
    SessionEvent,
    Snapshot,
    Transition,
    connect,
)


async def main(address: str) -> None:
    """Keep a session until somebody ends it."""
    async with (
        connect(address, owner="example") as broker,
        broker.open_session(client_id=11, labels={"desk": "fx"}) as session,
    ):
        print(f"{session.state}: client id {session.client_id}, accounts {session.accounts}")
        verification = await session.verify()
        print(f"the Gateway answers: {verification.healthy}")
        async for item in session.watch():
            match item:
                case Snapshot(session=now):
                    print(f"{now.state} now; changes follow")
                case SessionEvent(change=Transition(to_state=state, reason=reason)):
                    print(f"{state}: {reason}")
                case SessionEvent(change=Attempt(failure=failure)):
                    print(f"not yet: {failure}")
                case Interrupted(error=error):
                    print(f"nothing is known for now: {error}")


if __name__ == "__main__":
    try:
        asyncio.run(main(sys.argv[1]))
    except KeyboardInterrupt:
        print("closed")
    except SessionEndedError as error:
        sys.exit(f"somebody else has ended it: {error}")
