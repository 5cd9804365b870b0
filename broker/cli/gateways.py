"""`gateway-broker gateways`: what is known of each Gateway, and what operators decide about it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, Final

import typer
from ibgateway.broker.v1 import gateway_pb2, session_event_pb2, session_pb2
from rich.text import Text

from broker.cli import explain as explaining
from broker.cli import output
from broker.cli.client import Broker, BrokerError, Filter, calling
from broker.cli.options import (
    ActorOption,
    BrokerOption,
    DefaultGatewayId,
    FormatOption,
    GatewayId,
)
from broker.cli.output import Column, Format, moment

app = typer.Typer(
    help="See the Gateways behind the broker; take them out of use and back.",
    no_args_is_help=True,
    add_completion=False,
)

_COLUMNS: Final = (
    Column("GATEWAY"),
    Column("REACHABLE"),
    Column("SEATS"),
    Column("LAST FAILURE"),
    Column("NOW", folds=True),
    Column("KIND", optional=True),
    Column("ADDRESS", optional=True),
)


@app.command("list", epilog="Example: gateway-broker gateways list")
def list_(*, broker: BrokerOption = None, form: FormatOption = Format.TABLE) -> None:
    """List all gateways, with breaker, drain, next attempt, maintenance and quarantine.

    REACHABLE is as of the last dial; it is unknown until the first one. The JSON is a
    ListGatewaysResponse.
    """
    with calling(broker) as client:
        found = client.gateways()
    if form is Format.JSON:
        output.document(output.message(found))
        return
    output.table(_COLUMNS, (_row(gateway) for gateway in found.gateways))


@app.command(epilog="Example: gateway-broker gateways get paper")
def get(
    gateway_id: DefaultGatewayId = "default",
    *,
    broker: BrokerOption = None,
    form: FormatOption = Format.TABLE,
) -> None:
    """Show one gateway: who holds which client id, breaker, drain, maintenance, last failure."""
    with calling(broker) as client:
        gateway = client.gateway(gateway_id)
    _show(gateway, form)


@app.command(epilog="Example: gateway-broker gateways explain paper")
def explain(
    gateway_id: DefaultGatewayId = "default",
    *,
    broker: BrokerOption = None,
    form: FormatOption = Format.TABLE,
) -> None:
    """Say how it is with a gateway: why it is down, since when, what happens next, who must act.

    The answer is made of what the broker knows of the gateway, of its sessions, and of the events
    of the one that suffers for longest. It is right also when nothing is wrong.
    """
    with calling(broker) as client:
        gateway = client.gateway(gateway_id)
        sessions = client.sessions(Filter(gateway_id=gateway.gateway_id)).sessions
        events = _events(client, explaining.worst(sessions))
    found = explaining.explain(gateway, sessions, events, datetime.now(UTC))
    if form is Format.JSON:
        output.document(asdict(found))
        return
    output.line(Text(found.verdict, style=explaining.STYLES[found.status]))
    output.line("")
    output.fields((name, " ".join(sentences)) for name, sentences in found.sections())


@app.command(epilog='Example: gateway-broker gateways drain paper --reason "upgrade to 10.45"')
def drain(
    gateway_id: GatewayId,
    *,
    reason: Annotated[
        str, typer.Option(help="Why, for those who are refused.", show_default=False)
    ] = "",
    close_sessions: Annotated[
        bool,
        typer.Option(
            "--close-sessions", help="End its sessions, too, and wait until they have ended."
        ),
    ] = False,
    owner: ActorOption = None,
    broker: BrokerOption = None,
    form: FormatOption = Format.TABLE,
) -> None:
    """Take a gateway out of use until `resume`, also over a restart of the broker.

    It takes no new session. Sessions that are CONNECTED stay; one that loses its link waits in
    RECONNECTING without dialling.
    """
    with calling(broker, owner=owner) as client:
        gateway = client.drain(gateway_id, reason, close_sessions=close_sessions)
    _show(gateway, form)


@app.command(epilog="Example: gateway-broker gateways resume paper")
def resume(
    gateway_id: GatewayId,
    *,
    owner: ActorOption = None,
    broker: BrokerOption = None,
    form: FormatOption = Format.TABLE,
) -> None:
    """Put a gateway into use again; sessions that wait for it dial at once."""
    with calling(broker, owner=owner) as client:
        gateway = client.resume(gateway_id)
    _show(gateway, form)


@app.command("reset-breaker", epilog="Example: gateway-broker gateways reset-breaker paper")
def reset_breaker(
    gateway_id: GatewayId, *, broker: BrokerOption = None, form: FormatOption = Format.TABLE
) -> None:
    """Close a gateway's circuit, and let whoever waits for the gateway try at once.

    For when you have repaired it and do not want to wait.
    """
    with calling(broker) as client:
        gateway = client.reset_breaker(gateway_id)
    _show(gateway, form)


def _events(
    client: Broker, session: session_pb2.Session | None
) -> list[session_event_pb2.SessionEvent] | None:
    """Those of a session; None if the database, where they are, is away."""
    if session is None:
        return []
    try:
        return list(client.events(session.session_id))
    except BrokerError as error:
        if error.reason != "STORE_UNAVAILABLE":
            raise
        return None


def _show(gateway: gateway_pb2.Gateway, form: Format) -> None:
    if form is Format.JSON:
        output.document(output.message(gateway))
        return
    failure = gateway.last_failure
    output.fields(
        (
            ("gateway", gateway.gateway_id),
            ("address", f"{gateway.host}:{gateway.port}"),
            ("kind", explaining.kind(gateway)),
            ("readonly", "yes" if gateway.readonly else ""),
            ("reachable", _reachable(gateway)),
            ("as of", moment(gateway.reachable_time)),
            ("next attempt", moment(gateway.next_attempt_time)),
            ("breaker", _breaker(gateway.circuit_breaker)),
            ("drained by", _drained(gateway)),
            ("maintenance", _maintenance(gateway)),
            ("server version", str(gateway.server_version or "")),
            ("seats", f"{gateway.sessions_used} of {gateway.session_limit}"),
            (
                "client ids",
                "\n".join(
                    f"{held.client_id}  {held.session_id}  {held.owner}"
                    for held in gateway.client_ids
                ),
            ),
            (
                "quarantined",
                "\n".join(
                    f"{item.client_id}  {item.reason}  since {moment(item.quarantine_time)}"
                    for item in gateway.quarantined_client_ids
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
        f"{gateway.sessions_used}/{gateway.session_limit}",
        gateway.last_failure.reason,
        Text("; ").join(_now(gateway)),
        explaining.kind(gateway),
        f"{gateway.host}:{gateway.port}",
    )


def _now(gateway: gateway_pb2.Gateway) -> Iterator[Text]:
    """What is out of the ordinary; in one column, so that it fits a terminal."""
    yield Text.assemble("circuit ", _breaker(gateway.circuit_breaker))
    if gateway.HasField("drain"):
        yield Text(f"drained by {_drained(gateway)}", style="yellow")
    if gateway.HasField("next_attempt_time"):
        yield Text(f"next attempt {moment(gateway.next_attempt_time)}")
    if gateway.HasField("maintenance_end_time"):
        yield Text(f"maintenance {_maintenance(gateway)}")
    if gateway.quarantined_client_ids:
        ids = ", ".join(str(item.client_id) for item in gateway.quarantined_client_ids)
        yield Text(f"quarantined {ids}")


def _breaker(breaker: gateway_pb2.CircuitBreaker) -> Text:
    """Its state; an open one says when it half-opens, a closed one what it has counted."""
    name = gateway_pb2.CircuitBreakerState.Name(breaker.state)
    name = name.removeprefix("CIRCUIT_BREAKER_STATE_")
    style = {"CLOSED": "green", "OPEN": "red"}.get(name, "yellow")
    if breaker.HasField("half_open_time"):
        return Text(f"{name}, a trial at {moment(breaker.half_open_time)}", style=style)
    if breaker.failures and name == "CLOSED":
        return Text(f"{name}, failures {breaker.failures}", style="yellow")
    return Text(name, style=style)


def _drained(gateway: gateway_pb2.Gateway) -> str:
    """Who drains it, since when and why; empty if nobody does."""
    if not gateway.HasField("drain"):
        return ""
    drain = gateway.drain
    why = f": {drain.reason}" if drain.reason else ""
    return f"{drain.actor} since {moment(drain.drain_time)}{why}"


def _maintenance(gateway: gateway_pb2.Gateway) -> str:
    end = moment(gateway.maintenance_end_time)
    return f"until {end}" if end else ""


def _reachable(gateway: gateway_pb2.Gateway) -> Text:
    if not gateway.HasField("reachable"):
        return Text("not dialled yet", style="dim")
    return Text("yes", style="green") if gateway.reachable else Text("no", style="red")
