"""Log lines: the standard library's records, rendered by structlog.

docs/logs.md lists them. The event's name says what happened, the fields all that varies. A line
that concerns a request, a session or a gateway has a ``correlation_id``: its own, or that of what
the running task is at.
"""

from __future__ import annotations

import logging
import re
import sys
from typing import Any, Final

import structlog

from broker.runtime.trace import correlation_id

QUIET: tuple[str, ...] = ("alembic", "asyncio", "sqlalchemy", "ib_async")
"""Libraries whose INFO is not the broker's news."""
SILENT: Final = ("aiohttp.server",)
"""Libraries that log what strangers send; what our handlers raise is logged by the guard."""

_SECRETS: Final = (
    # The password of an address, a token, and all of an account's id but its kind and its end.
    (re.compile(r"(?<=://)([^\s:/@]*):[^\s/]+@"), r"\1:***@"),
    (re.compile(r"\b((?:password|token)=)[^\s&'\"]+", re.IGNORECASE), r"\1***"),
    (re.compile(r"\b([Bb]earer) [^\s'\"]+"), r"\1 ***"),
    (re.compile(r"\b(D?[UFI])\d{2,}(\d{3})\b"), r"\1***\2"),
)


def configure(level: str, log_format: str) -> None:
    """Send every log record to standard error, one line each.

    Args:
        level: the least severe to show.
        log_format: ``json``, or ``console`` for people.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter(log_format, colors=sys.stderr.isatty()))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for name in QUIET:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))
    for name in SILENT:
        logging.getLogger(name).setLevel(logging.CRITICAL)


def formatter(log_format: str, *, colors: bool = False) -> logging.Formatter:
    """Renders a record as one line (a traceback follows it on ``console``).

    Args:
        log_format: ``json``, or ``console`` for people.
        colors: whether those have a terminal.
    """
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if log_format == "json"
        else structlog.dev.ConsoleRenderer(
            colors=colors,
            pad_event_to=22,
            exception_formatter=structlog.dev.plain_traceback,
        )
    )
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[
            structlog.stdlib.add_log_level,
            structlog.stdlib.ExtraAdder(),
            _correlate,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="timestamp"),
        ],
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.format_exc_info,
            _mask,
            renderer,
        ],
    )


def _correlate(
    _logger: object, _method: str, line: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    cause = correlation_id.get(None)
    if cause is not None:
        line.setdefault("correlation_id", cause)
    return line


def _mask(
    _logger: object, _method: str, line: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    """The last line of defence: nobody logs a secret on purpose, but others quote."""
    return {key: _masked(value) for key, value in line.items()}


def _masked(value: Any) -> Any:
    if isinstance(value, str):
        for secret, instead in _SECRETS:
            value = secret.sub(instead, value)
        return value
    if isinstance(value, dict):
        return {key: _masked(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_masked(item) for item in value]
    return value
