"""Log lines: the standard library's records, rendered by structlog."""

from __future__ import annotations

import logging
import sys

import structlog

QUIET: tuple[str, ...] = ("alembic", "asyncio", "sqlalchemy", "ib_async")
"""Libraries whose INFO is not the broker's news."""


def configure(level: str, log_format: str) -> None:
    """Send every log record to standard error, one line each.

    Args:
        level: the least severe to show.
        log_format: ``json``, or ``console`` for people.
    """
    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="timestamp"),
    ]
    rendered: list[structlog.typing.Processor] = (
        [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
        if log_format == "json"
        else [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), pad_event_to=22)]
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendered],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for name in QUIET:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))
