"""`gateway-broker config`: what is configured, where it was said, and whether it is accepted."""

from __future__ import annotations

import enum
import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Final

import typer
from pydantic import BaseModel

from broker.cli import output
from broker.cli.options import FormatOption
from broker.cli.output import Column, Format
from broker.config import Configuration, read_configuration
from broker.errors import ConfigurationError
from broker.provenance import Location, Origin, masked

app = typer.Typer(help="Show the configuration, and check it.", no_args_is_help=True)

_HEADING: Final = """\
# Every setting of this configuration, and where it was said. Passwords are masked: put them in, or
# leave them out and set DATABASE_URL or DATABASE_URL_FILE."""


class ShowFormat(enum.StrEnum):
    """How the configuration is written."""

    TABLE = "table"
    TOML = "toml"
    JSON = "json"


@app.command(epilog="Example: gateway-broker config show --output toml")
def show(
    *,
    form: Annotated[
        ShowFormat,
        typer.Option("--output", "-o", help="For people, as a file, or for programs."),
    ] = ShowFormat.TABLE,
) -> None:
    """Show every setting: its value, and which variable, line of the file, or default it is from.

    Passwords are masked, in addresses too. As TOML it is a configuration file.
    """
    configuration = read_configuration()
    rows = list(_rows(configuration))
    match form:
        case ShowFormat.TABLE:
            output.table(
                (Column("SETTING"), Column("VALUE", folds=True), Column("FROM", optional=True)),
                [(_dotted(at), _plain(value), str(origin)) for at, value, origin in rows],
            )
        case ShowFormat.JSON:
            output.document(
                [
                    {
                        "field": _dotted(at),
                        "value": value,
                        "from": origin.kind.value,
                        "source": origin.name,
                    }
                    for at, value, origin in rows
                ]
            )
        case ShowFormat.TOML:
            typer.echo("\n".join(_toml(rows)))


@app.command(epilog="Example: gateway-broker config check --output json")
def check(*, form: FormatOption = Format.TABLE) -> None:
    """Say all that is wrong with the configuration, and what is probably not meant.

    It reads what `serve` would read, the environment and the file that GATEWAY_BROKER_CONFIG names,
    and starts nothing; run it as the user of the broker, which must be able to use the files that
    the configuration names. Exit codes: 0 accepted (there may be warnings), 1 refused. Whether
    database and Gateways answer, `gateway-broker doctor` says.
    """
    from broker.doctor.doubts import doubts
    from broker.doctor.files import unusable

    problems: tuple[Any, ...] = ()
    doubted: list[Any] = []
    try:
        configuration = read_configuration()
        doubted = doubts(configuration)
        problems = tuple(unusable(configuration, lambda: datetime.now(UTC)))
    except ConfigurationError as error:
        problems = error.problems
    if form is Format.JSON:
        output.document(
            {
                "accepted": not problems,
                "problems": [
                    {"field": p.field, "text": p.text, "got": p.got, "source": p.source}
                    for p in problems
                ],
                "warnings": [
                    {"field": d.field, "text": d.text, "advice": d.advice, "source": d.source}
                    for d in doubted
                ],
            }
        )
    else:
        for problem in problems:
            output.error(str(problem))
        for doubt in doubted:
            said = f" (in {doubt.source})" if doubt.source else ""
            output.line(f"warning: {doubt.field}: {doubt.text}{said}\n  {doubt.advice}")
        if not problems:
            many = "1 warning" if len(doubted) == 1 else f"{len(doubted)} warnings"
            output.line(f"accepted, with {many}" if doubted else "accepted")
    if problems:
        raise typer.Exit(1)


def _rows(configuration: Configuration) -> Iterator[tuple[Location, Any, Origin]]:
    for location, value in _leaves(configuration.settings, ()):
        yield location, masked(location, _native(value)), configuration.origins.of(location)


def _leaves(value: Any, location: Location) -> Iterator[tuple[Location, Any]]:
    """Every setting with its location; those of tables come last, as TOML wants it."""
    if isinstance(value, BaseModel | Mapping):
        parts = dict(value).items()
        for name, part in parts:
            if not isinstance(part, BaseModel | Mapping):
                yield (*location, name), part
        for name, part in parts:
            if isinstance(part, BaseModel | Mapping):
                yield from _leaves(part, (*location, name))
    else:
        yield location, value


def _native(value: Any) -> Any:
    """As JSON and TOML have it; what they do not have is text, as it can be given."""
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, list | tuple):
        return [_native(item) for item in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def _dotted(location: Location) -> str:
    return ".".join(str(part) for part in location)


def _plain(value: Any) -> str:
    if value is None or value == []:
        return "-"
    if isinstance(value, list):
        return ", ".join(_plain(item) for item in value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def _toml(rows: list[tuple[Location, Any, Origin]]) -> Iterator[str]:
    yield _HEADING
    table: Location = ()
    for location, value, origin in rows:
        if location[:-1] != table:
            table = location[:-1]
            yield f"\n[{_dotted(table)}]"
        name = location[-1]
        if value is None:
            yield f"# {name} is not set"
        else:
            yield f"{name} = {_literal(value)}  # {origin}"


def _literal(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(_literal(item) for item in value)}]"
    # JSON's strings are TOML's, but for DEL, which TOML wants escaped.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
