"""`python -m clients.conformance`: does every client of the broker do what it must?"""

from __future__ import annotations

import signal
import sys

from broker import before_grpc


def main() -> int:
    """Run; returns the exit code."""
    # gRPC reads its environment when it is imported.
    before_grpc.prepare()
    # What a shell starts in the background ignores Ctrl-C, and so would what is started here.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    from clients.conformance.command import run  # noqa: PLC0415

    try:
        return run(sys.argv[1:])
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; all that was started has ended\n")
        return 130


if __name__ == "__main__":
    sys.exit(main())
