"""Watch all sessions, also over restarts of this program: the token of what was handled is kept in
a file.

python resume_from_a_file.py 127.0.0.1:50051 token.txt
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from ibgateway.client import (
    Interrupted,
    Reset,
    SessionEvent,
    Snapshot,
    SnapshotComplete,
    connect,
)


def kept(path: Path) -> str:
    """The token of the run before; empty at the first."""
    return path.read_text() if path.exists() else ""


def keep(path: Path, token: str) -> None:
    """Replace the file as a whole: half a token would be none."""
    fresh = path.with_suffix(".new")
    fresh.write_text(token)
    fresh.replace(path)


async def main(address: str, path: Path) -> None:
    """Watch until interrupted."""
    token = kept(path)
    print(f"continue after {token}" if token else "begin with a snapshot")
    async with connect(address) as broker, broker.watch(resume_token=token) as watch:
        async for item in watch:
            match item:
                case Reset(reason=reason):
                    print(f"what was known is void: {reason}")
                case Snapshot(session=session):
                    print(f"{session.session_id} is {session.state}")
                case SnapshotComplete():
                    print("these are all")
                case SessionEvent(session=session, change=change):
                    print(f"{session.session_id} is {session.state}: {change}")
                case Interrupted(error=error):
                    print(f"nothing is known for now: {error}")
            # After the item was handled: what was not is told again after a crash.
            keep(path, item.token)


if __name__ == "__main__":
    try:
        asyncio.run(main(sys.argv[1], Path(sys.argv[2] if len(sys.argv) > 2 else "token.txt")))
    except KeyboardInterrupt:
        print("stopped")
