"""`gateway-broker gateways`: what the broker knows of each Gateway."""

from __future__ import annotations

from typing import Annotated, Final

import typer
from ibgateway.broker.v1 import gateway_pb2
from rich.text import Text

from broker.cli import output
from broker.cli.client import calling
from broker.cli.output import BrokerOption, Format, FormatOption, moment
from broker.config import broker_address

app = typer.Typer(help="See the Gateways behind the broker.", no_args_is_help=True)

_COLUMNS: Final = ("GATEWAY", "REACHABLE", "ADDRESS", "KIND", "SEATS", "LAST FAILURE")


@app.command("list")
def list_(*, broker: BrokerOption = None, form: FormatOption = Format.TABLE) -> None:
    """List all gateways.

    REACHABLE is as of the last dial; it is unknown until the first one.
    """
    with calling(broker or broker_address()) as client:
        gateways = client.gateways()
    if form is Format.JSON:
        output.document([output.message(gateway) for gateway in gateways])
        return
    output.table(_COLUMNS, (_row(gateway) for gateway in gateways))


@app.command()
def get(
    gateway_id: Annotated[str, typer.Argument(help="The name of the gateway.")] = "default",
    *,
    broker: BrokerOption = None,
    form: FormatOption = Format.TABLE,
) -> None:
    """Show one gateway: seats, client ids and who holds them, the last failure."""
    with calling(broker or broker_address()) as client:
        gateway = client.gateway(gateway_id)
    if form is Format.JSON:
        output.document(output.message(gateway))
        return
    failure = gateway.last_failure
    output.fields(
        (
            ("gateway", gateway.gateway_id),
            ("address", f"{gateway.host}:{gateway.port}"),
            ("kind", _kind(gateway)),
            ("readonly", "yes" if gateway.readonly else ""),
            ("reachable", _reachable(gateway)),
            ("as of", moment(gateway.reachable_time)),
            ("server version", str(gateway.server_version or "")),
            ("seats", f"{gateway.sessions_used} of {gateway.session_limit}"),
            (
                "client ids",
                "\n".join(
                    f"{held.client_id}  {held.session_id}  {held.owner}"
                    for held in gateway.client_ids
                ),
            ),
            ("last failure", f"{failure.reason}: {failure.message}" if failure.reason else ""),
            ("  hint", failure.hint),
            ("  at", moment(failure.time)),
        )
    )


def _row(gateway: gateway_pb2.Gateway) -> tuple[str | Text, ...]:
    return (
        gateway.gateway_id,
        _reachable(gateway),
        f"{gateway.host}:{gateway.port}",
        _kind(gateway),
        f"{gateway.sessions_used}/{gateway.session_limit}",
        gateway.last_failure.reason,
    )


def _kind(gateway: gateway_pb2.Gateway) -> str:
    name = gateway_pb2.GatewayKind.Name(gateway.kind)
    return name.removeprefix("GATEWAY_KIND_").lower()


def _reachable(gateway: gateway_pb2.Gateway) -> Text:
    if not gateway.HasField("reachable"):
        return Text("not dialled yet", style="dim")
    return Text("yes", style="green") if gateway.reachable else Text("no", style="red")
