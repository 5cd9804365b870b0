"""The options and arguments that several commands have."""

from __future__ import annotations

from typing import Annotated

import typer

from broker.cli import complete, output
from broker.cli.output import Format


def _speak(form: Format) -> Format:
    output.speak(form=form)
    return form


def _owner(name: str | None) -> str | None:
    if name is not None and not (name and name.isascii() and name.isprintable()):
        raise typer.BadParameter(f"{name!r} is not a name in printable ASCII")
    return name


FormatOption = Annotated[
    Format,
    typer.Option(
        "--output",
        "-o",
        callback=_speak,
        # Before anything can fail, so that errors are written so, too.
        is_eager=True,
        help="For people or for programs.",
    ),
]

BrokerOption = Annotated[
    str | None,
    typer.Option(
        "--broker",
        metavar="HOST:PORT",
        envvar="GATEWAY_BROKER_ADDRESS",
        # Before what is completed by asking it.
        is_eager=True,
        help="Where the broker listens. Default: where one with this configuration listens.",
        show_default=False,
    ),
]

ActorOption = Annotated[
    str | None,
    typer.Option(
        "--owner",
        callback=_owner,
        autocompletion=complete.owners,
        help="In whose name. Default: local.",
        show_default=False,
    ),
]

SessionId = Annotated[
    str,
    typer.Argument(
        metavar="SESSION_ID",
        autocompletion=complete.sessions,
        help="The session's id.",
        show_default=False,
    ),
]

GatewayId = Annotated[
    str,
    typer.Argument(
        metavar="GATEWAY",
        autocompletion=complete.gateways,
        help="The name of the gateway.",
        show_default=False,
    ),
]

DefaultGatewayId = Annotated[
    str,
    typer.Argument(
        metavar="GATEWAY", autocompletion=complete.gateways, help="The name of the gateway."
    ),
]
