"""`gateway-broker health`: the standard health service, as a probe."""

from __future__ import annotations

from typing import Annotated

import typer

from broker.cli import output
from broker.cli.client import calling
from broker.cli.exits import ExitCode
from broker.cli.options import BrokerOption

app = typer.Typer(add_completion=False)


@app.command(epilog="Example: gateway-broker health gateways/default --deadline 1")
def health(
    service: Annotated[
        str,
        typer.Argument(
            help="Which service; empty asks for the broker as a whole. Others: "
            "ibgateway.broker.v1.SessionService, gateways/NAME.",
            show_default=False,
        ),
    ] = "",
    *,
    broker: BrokerOption = None,
    deadline: Annotated[
        float, typer.Option(min=0.01, max=600, metavar="SECONDS", help="How long to wait.")
    ] = 3.0,
) -> None:
    """Ask the broker for its health, as container probes do.

    The broker as a whole is SERVING while its Gateways are down, so that nobody restarts a
    broker that waits for one. Exit codes: 0 SERVING, 1 anything else, 3 no broker answers, 4 not in
    time.
    """
    with calling(broker, patience=deadline) as client:
        status = client.health(service)
    output.line(status)
    if status != "SERVING":
        raise typer.Exit(ExitCode.FAILED)
