"""The broker with a bug in it, for the checker to find: python -m tests.robustness.planted NAME."""

from __future__ import annotations

import sys

from broker import before_grpc


def main(name: str) -> None:
    """Plant the bug and serve."""
    before_grpc.prepare()
    # gRPC reads its environment when it is imported.
    from broker.cli.root import run
    from tests.robustness.plants.bugs import BUGS

    BUGS[name].plant()
    sys.argv[1:] = ["serve"]
    run()


if __name__ == "__main__":
    main(sys.argv[1])
