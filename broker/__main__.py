"""`gateway-broker`, and `python -m broker`."""

from __future__ import annotations

from broker.forking import let_processes_fork


def main() -> None:
    """Run the command line; ends the process."""
    let_processes_fork()
    # gRPC reads its environment when it is imported.
    from broker.cli.root import run

    run()


if __name__ == "__main__":
    main()
