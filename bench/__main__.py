"""`python -m bench`."""

from __future__ import annotations

from broker.forking import let_processes_fork


def main() -> None:
    """Measure everything; see ``measurements``."""
    let_processes_fork()
    # gRPC reads its environment when it is imported.
    from bench.measurements import run

    run()


if __name__ == "__main__":
    main()
