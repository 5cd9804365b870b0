"""What must be said to gRPC before it is imported; so small that every command can afford it."""

from __future__ import annotations

import os


def prepare() -> None:
    """Tell gRPC that child processes are no concern of its own, and that the log is ours.

    The embedded PostgreSQL is started and stopped by some. gRPC would log each, and its handlers
    have been seen to make one fail between fork and exec. And what strangers send to its port it
    would write beside our lines: whatever matters of that reaches us as an error.
    """
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
