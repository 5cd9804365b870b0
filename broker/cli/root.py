"""The command `gateway-broker`: all of its commands, and how it ends.

Exit codes: 0 done, 1 failed, 2 bad usage, 3 no broker answers.
"""

from __future__ import annotations

import importlib.metadata
import sys
from typing import Annotated

import typer

from broker.cli import (
    access,
    config,
    database,
    dev,
    doctor,
    gateways,
    health,
    output,
    serve,
    sessions,
    simulate,
)
from broker.cli.caller import equip
from broker.cli.client import CallError
from broker.errors import BrokerError, StartupError

app = typer.Typer(
    name="gateway-broker",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"gateway-broker {importlib.metadata.version('gateway-broker')}")
        raise typer.Exit


@app.callback()
def gateway_broker(
    *,
    version: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=_version, help="Show the version."),
    ] = False,
) -> None:
    """One service that owns the connections to IB Gateway and brokers them over gRPC.

    Start with `gateway-broker dev`: a broker, its own PostgreSQL and a simulated Gateway.
    """
    del version  # its callback has ended the program


app.command(rich_help_panel="Run")(serve.serve)
app.command(rich_help_panel="Run")(dev.dev)
app.command(rich_help_panel="Run")(simulate.simulate)
app.add_typer(sessions.app, name="sessions", rich_help_panel="Use")
app.add_typer(gateways.app, name="gateways", rich_help_panel="Use")
app.command(rich_help_panel="Use")(health.health)
app.add_typer(access.app, name="access", rich_help_panel="Run")
app.add_typer(config.app, name="config", rich_help_panel="Look")
app.command(rich_help_panel="Look", epilog="Example: gateway-broker doctor --deadline 10")(
    doctor.doctor
)
app.command(rich_help_panel="Database")(database.migrate)
app.add_typer(database.db, name="db", rich_help_panel="Database")
equip(app)


def run() -> None:
    """Run the command line, and turn what it raises into a message and an exit code."""
    try:
        app(prog_name="gateway-broker")
    except CallError as error:
        output.complain(error)
        sys.exit(3 if error.unreachable else 1)
    except (StartupError, BrokerError) as error:
        output.error(str(error))
        sys.exit(1)
