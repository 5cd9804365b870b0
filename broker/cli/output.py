"""How commands speak: tables for people, JSON for programs, errors and progress beside both."""

from __future__ import annotations

import enum
import json
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Annotated, Any, Final, TextIO

import typer
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from rich.console import Console
from rich.table import Table
from rich.text import Text

from broker.cli.client import CallError

PATIENCE: Final = 1.0
"""Seconds of waiting after which a terminal is told what for."""
_UNWRAPPED: Final = 10_000
"""Columns of an output that is no terminal: what reads it does its own wrapping."""


class Format(enum.StrEnum):
    """How an answer is written."""

    TABLE = "table"
    JSON = "json"


FormatOption = Annotated[Format, typer.Option("--output", "-o", help="For people or for programs.")]

BrokerOption = Annotated[
    str | None,
    typer.Option(
        "--broker",
        metavar="HOST:PORT",
        help="Where the broker listens. Default: GATEWAY_BROKER_ADDRESS, else where one with "
        "this configuration listens.",
        show_default=False,
    ),
]

ActorOption = Annotated[
    str | None,
    typer.Option("--owner", help="In whose name. Default: local.", show_default=False),
]


def _console(file: TextIO) -> Console:
    return Console(
        file=file,
        width=None if file.isatty() else _UNWRAPPED,
        highlight=False,
        markup=False,
        emoji=False,
    )


def table(columns: Sequence[str], rows: Iterable[Sequence[str | Text]]) -> None:
    """Write rows under a heading."""
    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for name in columns:
        grid.add_column(name, no_wrap=name.isupper(), overflow="fold")
    for row in rows:
        grid.add_row(*row)
    _console(sys.stdout).print(grid)


def fields(pairs: Iterable[tuple[str, str | Text]]) -> None:
    """Write one thing, a field a line; empty fields are left out."""
    grid = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in pairs:
        if value:
            grid.add_row(name, value)
    _console(sys.stdout).print(grid)


def line(text: str | Text) -> None:
    """Write one line."""
    _console(sys.stdout).print(text, soft_wrap=True)
    sys.stdout.flush()


def moment(time: Timestamp) -> str:
    """Date and time of day where the reader is; empty for one that is absent."""
    return f"{_local(time):%Y-%m-%d %H:%M:%S}" if time.seconds else ""


def clock(time: Timestamp) -> str:
    """The time of day where the reader is, to the millisecond."""
    return f"{_local(time):%H:%M:%S}.{time.nanos // 1_000_000:03d}"


def _local(time: Timestamp) -> datetime:
    return time.ToDatetime(tzinfo=UTC).astimezone()


def message(value: Message) -> dict[str, Any]:
    """A message as the proto3 JSON mapping has it, with the names of the contract."""
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


def error(text: str) -> None:
    """Say what went wrong."""
    typer.echo(f"error: {text}", err=True)


def complain(failed: CallError) -> None:
    """Say what the broker refused, what to do about it, and when."""
    error(f"{failed.reason}: {failed.message}" if failed.reason else failed.message)
    for name, description in failed.violations:
        typer.echo(f"  {name}: {description}", err=True)
    if failed.hint:
        typer.echo(f"hint: {failed.hint}", err=True)
    if failed.retry_after is not None:
        typer.echo(f"retry: in {failed.retry_after:.1f} s", err=True)
    if failed.correlation_id:
        typer.echo(f"correlation id: {failed.correlation_id}", err=True)


@contextmanager
def waiting(text: str) -> Iterator[None]:
    """Tell a terminal what is waited for, once that takes longer than a second."""
    console = _console(sys.stderr)
    if not console.is_terminal:
        yield
        return
    status = console.status(text)
    timer = threading.Timer(PATIENCE, status.start)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
        status.stop()
