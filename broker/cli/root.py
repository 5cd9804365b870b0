"""The command `gateway-broker`: all of its commands, and how it ends."""

from __future__ import annotations

import importlib
import importlib.metadata
import sys
from collections.abc import Iterator, MutableMapping
from typing import Annotated, Any, Final

import typer
from ibgateway.client.errors import BrokerError as CallError
from typer.core import TyperGroup

from broker.cli import exits, output
from broker.cli.caller import equip
from broker.cli.exits import ExitCode
from broker.cli.output import Color
from broker.errors import BrokerError, StartupError

_COMMANDS: Final = {
    "serve": ("broker.cli.serve:app", "Run"),
    "dev": ("broker.cli.dev:app", "Run"),
    "simulate": ("broker.cli.simulate:app", "Run"),
    "sessions": ("broker.cli.sessions:app", "Use"),
    "gateways": ("broker.cli.gateways:app", "Use"),
    "health": ("broker.cli.health:app", "Use"),
    "info": ("broker.cli.info:app", "Use"),
    "config": ("broker.cli.config:app", "Look"),
    "doctor": ("broker.cli.doctor:app", "Look"),
    "access": ("broker.cli.access:app", "Run"),
    "migrate": ("broker.cli.database:migration", "Database"),
    "db": ("broker.cli.database:db", "Database"),
}
"""Each command: the Typer that it is made of, and where the help shows it."""


class _Commands(MutableMapping[str, Any]):
    """The commands by name, each loaded when it is wanted: a probe need not load a server."""

    def __init__(self, loaded: MutableMapping[str, Any]) -> None:
        self._loaded = loaded
        self._names = [*_COMMANDS, *(name for name in loaded if name not in _COMMANDS)]

    def __getitem__(self, name: str) -> Any:
        if name not in self._loaded:
            place, panel = _COMMANDS[name]
            module, _, attribute = place.partition(":")
            found = getattr(importlib.import_module(module), attribute)
            equip(found)
            command = typer.main.get_command(found)
            command.name = name
            command.rich_help_panel = panel  # type: ignore[attr-defined]
            _let_flow(command)
            self._loaded[name] = command
        return self._loaded[name]

    def __setitem__(self, name: str, command: Any) -> None:
        if name not in self._names:
            self._names.append(name)
        self._loaded[name] = command

    def __delitem__(self, name: str) -> None:
        self._names.remove(name)
        self._loaded.pop(name, None)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _let_flow(command: Any) -> None:
    """Let the help be as wide as the terminal: paragraphs have no lines, only tables do."""
    paragraphs = (command.help or "").split("\n\n")
    command.help = "\n\n".join(
        text if "   " in text else " ".join(text.split()) for text in paragraphs
    )
    for part in getattr(command, "commands", {}).values():
        _let_flow(part)


class _Root(TyperGroup):
    """All commands; an interruption of any of them has one exit code."""

    def __init__(self, **more: Any) -> None:
        super().__init__(**more)
        self.commands = _Commands(self.commands)

    def invoke(self, ctx: Any) -> Any:
        """Run the command that is meant."""
        output.begin()
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise typer.Exit(ExitCode.INTERRUPTED) from None


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"gateway-broker {importlib.metadata.version('gateway-broker')}")
        raise typer.Exit


def _exit_codes() -> str:
    """The table, for the end of the help."""
    lines = [f"{code:>4}  {meaning}" for code, meaning, _ in exits.rows()]
    return "\n".join(["Exit codes of all commands:", *lines])


app = typer.Typer(
    cls=_Root,
    name="gateway-broker",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=_exit_codes(),
)


@app.callback()
def gateway_broker(
    *,
    version: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=_version, help="Show the version."),
    ] = False,
    color: Annotated[
        Color, typer.Option(help="Whether to colour the output; AUTO does on a terminal.")
    ] = Color.AUTO,
) -> None:
    """One service that owns the connections to IB Gateway and brokers them over gRPC.

    Start with `gateway-broker dev`: a broker, its own PostgreSQL and a simulated Gateway.

    Every command has its own --help, with an example. The environment variable NO_COLOR is heeded.
    """
    del version  # its callback has ended the program
    output.speak(color=color)


def run() -> None:
    """Run the command line, and turn what it raises into a message and an exit code."""
    try:
        app(prog_name="gateway-broker")
    except CallError as error:
        code = exits.exit_code(error)
        output.complain(error, code)
        sys.exit(code)
    except (StartupError, BrokerError) as error:
        output.error(str(error))
        sys.exit(ExitCode.FAILED)
