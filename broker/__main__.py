"""`gateway-broker`, and `python -m broker`."""

from __future__ import annotations

from broker import before_grpc


def main() -> None:
    """Run the command line; ends the process."""
    before_grpc.prepare()
    # gRPC reads its environment when it is imported.
    from broker.cli.root import run

    run()


if __name__ == "__main__":
    main()
