"""`python -m bench`."""

from __future__ import annotations

from broker import before_grpc


def main() -> None:
    """Measure everything; see ``measurements``."""
    before_grpc.prepare()
    # gRPC reads its environment when it is imported.
    from bench.measurements import run

    run()


if __name__ == "__main__":
    main()
