"""How commands speak: tables for people, JSON for programs, errors and progress beside both."""

from __future__ import annotations

import enum
import json
import re
import sys
import threading
import time
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, TextIO

import typer
from ibgateway.client.errors import (
    BrokerError,
    BrokerUnreachableError,
    CallTimeoutError,
    InvalidArgumentError,
    PermissionDeniedError,
    SlowConsumerError,
    UnauthenticatedError,
)

from broker.cli.exits import ExitCode

if TYPE_CHECKING:
    from google.protobuf.message import Message
    from google.protobuf.timestamp_pb2 import Timestamp
    from rich.console import Console
    from rich.status import Status
    from rich.table import Table
    from rich.text import Text

PATIENCE: Final = 1.0
"""Seconds of waiting after which a terminal is told what for."""
_UNWRAPPED: Final = 10_000
"""Columns of an output that is no terminal: what reads it does its own wrapping."""
_GAP: Final = 2
_START: Final = (
    "start one with `gateway-broker serve` or `gateway-broker dev`, "
    "or say where it is with --broker, and with --tls-ca if it serves TLS"
)
_TRUST: Final = (
    "its certificate must be of --tls-ca, and name the host of --broker; if it asks for one, give "
    "--cert and --key"
)
_HINTS: Final[Sequence[tuple[type[BrokerError], str]]] = (
    (CallTimeoutError, "wait longer with --deadline, where there is one, or see the broker's log"),
    (BrokerUnreachableError, _START),
    (
        UnauthenticatedError,
        "give --token-file, or --cert and --key; `gateway-broker access` makes them",
    ),
    (SlowConsumerError, "watch fewer sessions, or let what reads this read faster"),
)
"""What helps on a command line, where the hint of the Python client is about programs."""


class Format(enum.StrEnum):
    """How an answer is written."""

    TABLE = "table"
    JSON = "json"


class Color(enum.StrEnum):
    """Whether an answer is coloured."""

    AUTO = "auto"
    ALWAYS = "always"
    NEVER = "never"


@dataclass(frozen=True, slots=True)
class Manner:
    """How the command that runs speaks, as its command line asks for."""

    form: Format = Format.TABLE
    color: Color = Color.AUTO


_PLAINLY: Final = Manner()
_manner: ContextVar[Manner] = ContextVar("manner", default=_PLAINLY)


def speak(form: Format | None = None, color: Color | None = None) -> None:
    """Speak so from now on; None leaves it as it is."""
    now = _manner.get()
    _manner.set(Manner(form or now.form, color or now.color))


def begin() -> None:
    """Speak as a command without options does."""
    _manner.set(_PLAINLY)


def harmless(text: Text) -> Text:
    """Take out what a terminal would obey: callers choose labels and reasons."""
    text.plain = _harmless(text.plain)
    return text


def _harmless(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(
        char if char == "\n" or not unicodedata.category(char).startswith("C") else "\ufffd"
        for char in text
    )


def console(file: TextIO | None = None) -> Console:
    """What writes to a stream, standard output by default, as wide as that is."""
    from rich.console import Console

    file = file or sys.stdout
    color = _manner.get().color
    return Console(
        file=file,
        width=None if file.isatty() else _UNWRAPPED,
        highlight=False,
        markup=False,
        emoji=False,
        force_terminal=True if color is Color.ALWAYS else None,
        no_color=True if color is Color.NEVER else None,
    )


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table.

    Args:
        name: its heading.
        optional: left out, the last such one first, where the terminal is too narrow.
        folds: broken into lines, where the terminal is too narrow.
    """

    name: str
    optional: bool = False
    folds: bool = False


_FOLDED: Final = 24
"""Columns that a column which folds keeps at least."""


def table(columns: Sequence[Column], rows: Iterable[Sequence[str | Text]]) -> None:
    """Write rows under a heading, as many columns as the terminal has room for."""
    from rich.table import Table

    cells = [[harmless(_text(value)) for value in row] for row in rows]
    out = console()
    shown = _fitting(columns, cells, out.width)
    grid = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="bold")
    for index in shown:
        folds = columns[index].folds
        grid.add_column(columns[index].name, no_wrap=not folds, overflow="fold")
    for row in cells:
        grid.add_row(*(row[index] for index in shown))
    _show(out, grid)
    hidden = [item.name for index, item in enumerate(columns) if index not in shown]
    if hidden:
        line(f"(too narrow for: {', '.join(hidden)})")


def _show(out: Console, grid: Table) -> None:
    """Write a table; where it is no terminal, without the blanks that fill its lines."""
    if out.is_terminal:
        out.print(grid)
        return
    with out.capture() as captured:
        out.print(grid)
    for text in captured.get().splitlines():
        typer.echo(text.rstrip())


def _fitting(columns: Sequence[Column], rows: Sequence[Sequence[Text]], width: int) -> list[int]:
    """Which columns fit."""
    shown = list(range(len(columns)))

    def needed() -> int:
        total = 0
        for index in shown:
            widest = max((row[index].cell_len for row in rows), default=0)
            least = min(widest, _FOLDED) if columns[index].folds else widest
            total += max(least, len(columns[index].name)) + _GAP
        return total - _GAP

    while needed() > width:
        optional = [index for index in shown if columns[index].optional]
        if not optional:
            break
        shown.remove(optional[-1])
    return shown


def fields(pairs: Iterable[tuple[str, str | Text]]) -> None:
    """Write one thing, a field a line; empty fields are left out."""
    from rich.table import Table

    grid = Table(box=None, show_header=False, pad_edge=False, padding=(0, _GAP, 0, 0))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in pairs:
        if value:
            grid.add_row(name, harmless(_text(value)))
    _show(console(), grid)


def line(text: str | Text) -> None:
    """Write one line."""
    if isinstance(text, str):
        typer.echo(_harmless(text))
    else:
        console().print(harmless(text), soft_wrap=True)
    sys.stdout.flush()


def _text(value: str | Text) -> Text:
    from rich.text import Text

    return value if isinstance(value, Text) else Text(value)


def moment(time: Timestamp) -> str:
    """Date and time of day where the reader is; empty for one that is absent."""
    return f"{_local(time):%Y-%m-%d %H:%M:%S}" if time.seconds else ""


def clock(time: Timestamp) -> str:
    """The time of day where the reader is, to the millisecond."""
    return f"{_local(time):%H:%M:%S}.{time.nanos // 1_000_000:03d}"


def _local(time: Timestamp) -> datetime:
    return time.ToDatetime(tzinfo=UTC).astimezone()


def span(seconds: float) -> str:
    """A length of time in at most two units, such as "8 ms", "4.2 s" or "3 m 05 s"."""
    seconds = max(seconds, 0.0)
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for unit, large, small, rest in (
        (86_400, "d", "h", 3600),
        (3600, "h", "m", 60),
        (60, "m", "s", 1),
    ):
        if whole >= unit:
            return f"{whole // unit} {large} {whole % unit // rest:02d} {small}"
    return f"{whole} s"


def message(value: Message) -> dict[str, Any]:
    """A message as the proto3 JSON mapping has it, with the names of the contract."""
    from google.protobuf.json_format import MessageToDict

    found: dict[str, Any] = MessageToDict(
        value, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    return found


def document(value: Any) -> None:
    """Write JSON, for a person who looks at it, too."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


def compact(value: Any) -> str:
    """JSON on one line: one of a stream."""
    return json.dumps(value, ensure_ascii=False)


def error(text: str, code: ExitCode = ExitCode.FAILED) -> None:
    """Say what went wrong."""
    if _manner.get().form is Format.JSON:
        typer.echo(compact({"error": {"message": text, "exit_code": code.value}}), err=True)
    else:
        typer.echo(f"error: {_harmless(text)}", err=True)


def remark(text: str) -> None:
    """Say something beside the answer that people should know."""
    if _manner.get().form is Format.TABLE:
        typer.echo(text, err=True)


def hint(failed: BrokerError) -> str:
    """What to do about a call that failed."""
    if isinstance(failed, BrokerUnreachableError) and re.search("SSL|certificate", failed.message):
        return _TRUST
    if isinstance(failed, PermissionDeniedError) and failed.metadata.get("role") == (
        failed.needed_role
    ):
        return "leave --owner out: a token or a certificate says in whose name you call"
    return next((text for kind, text in _HINTS if isinstance(failed, kind)), failed.hint)


def failure(failed: BrokerError) -> dict[str, Any]:
    """A call that failed, for programs; what is not known is left out."""
    violations = failed.violations if isinstance(failed, InvalidArgumentError) else ()
    found = {
        "message": failed.message,
        "reason": failed.reason,
        "hint": hint(failed),
        "retry_after": failed.retry_after,
        "violations": [
            {"field": field, "description": description} for field, description in violations
        ],
        "metadata": dict(failed.metadata),
        "correlation_id": failed.correlation_id,
    }
    return {name: value for name, value in found.items() if value not in ("", None, [], {})}


def complain(failed: BrokerError, code: ExitCode) -> None:
    """Say what the broker refused, what to do about it, and when."""
    if _manner.get().form is Format.JSON:
        typer.echo(compact({"error": {**failure(failed), "exit_code": code.value}}), err=True)
        return
    error(f"{failed.reason}: {failed.message}" if failed.reason else failed.message)
    if isinstance(failed, InvalidArgumentError):
        for name, description in failed.violations:
            typer.echo(f"  {name}: {_harmless(description)}", err=True)
    if hint(failed):
        typer.echo(f"hint: {_harmless(hint(failed))}", err=True)
    if failed.retry_after is not None:
        typer.echo(f"retry: in {failed.retry_after:.1f} s", err=True)
    if failed.correlation_id and failed.reason:
        typer.echo(f"correlation id: {failed.correlation_id}", err=True)


@contextmanager
def waiting(text: str) -> Iterator[None]:
    """Tell a terminal what is waited for, and since when, once that takes longer than a second.

    Args:
        text: such as "waiting for the link to end".
    """
    if not sys.stderr.isatty():
        yield
        return
    shown = _Progress(text)
    timer = threading.Timer(PATIENCE, shown.start)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
        shown.stop()


class _Progress:
    """A line that turns, and counts the time that it takes."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._begun = time.monotonic()
        self._since = f"{datetime.now(UTC).astimezone():%H:%M:%S}"
        self._status: Status | None = None

    def start(self) -> None:
        """Show it."""
        self._status = console(sys.stderr).status(self)
        self._status.start()

    def stop(self) -> None:
        """Take it away."""
        if self._status is not None:
            self._status.stop()

    def __rich__(self) -> str:
        taken = span(time.monotonic() - self._begun)
        return f"{self._text}, for {taken} (since {self._since})"
