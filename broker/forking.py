"""What must be said to gRPC before it is imported; so small that every command can afford it."""

from __future__ import annotations

import os


def let_processes_fork() -> None:
    """Tell gRPC, before it is imported, that child processes are no concern of its own.

    The embedded PostgreSQL is started and stopped by some. gRPC would log each, and its handlers
    have been seen to make one fail between fork and exec.
    """
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
