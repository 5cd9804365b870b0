"""List all sessions on record, and what has happened to each.

python show_the_history.py 127.0.0.1:50051
"""

from __future__ import annotations

import asyncio
import sys

from ibgateway.client import Attempt, Condition, Notice, SessionEvent, Transition, Update, connect


def tell(event: SessionEvent) -> str:
    """One event in a line."""
    match event.change:
        case Transition(from_state=before, to_state=after, reason=reason):
            return f"{before} -> {after}: {reason}"
        case Attempt(number=number, failure=failure):
            return f"attempt {number} failed: {failure}"
        case Condition(type=name, subject=subject, status=status, message=message):
            return f"{name} {subject} is {status}: {message}"
        case Notice(reason=reason, message=message, hint=hint):
            return f"{reason}: {message} {hint}"
        case Update(fields=fields, actor=actor):
            return f"{', '.join(fields)} changed by {actor}"
    return "something that this library does not know"


async def main(address: str) -> None:
    """Print the record."""
    async with connect(address) as broker:
        async for session in broker.list_sessions(include_final=True):
            print(f"{session.session_id} client id {session.client_id}: {session.state}")
            async for event in broker.session_events(session.session_id):
                print(f"  {event.sequence} {event.time} {tell(event)}")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
