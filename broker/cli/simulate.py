"""`gateway-broker simulate`: run the simulated Gateway in the foreground."""

import asyncio
from contextlib import AsyncExitStack
from typing import Annotated

import typer

from broker.cli.address import Address, listen_address
from broker.cli.signals import StopSignal
from broker.simulator.control import ControlServer
from broker.simulator.faults import Fault
from broker.simulator.gateway import SimulatedGateway, SimulatorSettings
from broker.simulator.settings import DEFAULT_SERVER_VERSION

app = typer.Typer(add_completion=False)

_LOOPBACK = ("127.0.0.1", "::1", "localhost")


def _fault(text: str) -> tuple[Fault, int | None]:
    label, colon, times = text.partition(":")
    if colon and not (times.isascii() and times.isdecimal()):
        raise typer.BadParameter(
            f"{text!r} is not NAME or NAME:TIMES, such as http:3",
            param_hint="--fault",
        )
    try:
        return Fault.from_label(label), int(times) if colon else None
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--fault") from error


def _list_faults(wanted: bool) -> None:
    if wanted:
        width = max(len(fault.label) for fault in Fault)
        for fault in Fault:
            typer.echo(f"{fault.label:<{width}}  {fault.value}")
        raise typer.Exit


@app.command(epilog="Example: gateway-broker simulate --fault reset-after-accept:2")
def simulate(
    *,
    listen: Annotated[
        str,
        typer.Option(
            metavar="HOST:PORT", help="Where TWS clients connect; port 0 lets the system choose."
        ),
    ] = "127.0.0.1:4002",
    control: Annotated[
        str,
        typer.Option(
            "--control-listen",
            metavar="HOST:PORT",
            help="Where the gRPC control service listens. It has no authentication.",
        ),
    ] = "127.0.0.1:50052",
    no_control: Annotated[
        bool, typer.Option("--no-control", help="Run without the control service.")
    ] = False,
    server_version: Annotated[
        int, typer.Option(metavar="157..200", help="The highest server version to negotiate.")
    ] = DEFAULT_SERVER_VERSION,
    account: Annotated[
        list[str] | None,
        typer.Option(metavar="ACCOUNT", help="An account to name to clients; repeat for more."),
    ] = None,
    fault: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[:TIMES]",
            help="Let the next TIMES connections suffer a fault; without TIMES, all of them."
            " Repeat to make a queue.",
        ),
    ] = None,
    read_only: Annotated[
        bool,
        typer.Option("--read-only", help="Refuse orders with error 321, as a read-only API does."),
    ] = False,
    rate_limit: Annotated[
        int,
        typer.Option(
            metavar="N", help="Messages a second that a client may send; 0 is any number."
        ),
    ] = SimulatorSettings().rate_limit or 0,
    hold_after_reset: Annotated[
        float,
        typer.Option(
            metavar="SECONDS", help="How long a client id stays in use after its client was reset."
        ),
    ] = SimulatorSettings().hold_after_reset,
    list_faults: Annotated[
        bool,
        typer.Option(
            "--list-faults", is_eager=True, callback=_list_faults, help="Show all faults and exit."
        ),
    ] = False,
) -> None:
    """Run a SIMULATED IB Gateway: no login, no market, no real orders.

    It speaks the TWS protocol well enough for ib_async and the official API to connect, and breaks
    it on request.

    The first two connections are reset, the third finds its client id in use, the rest are served:

    gateway-broker simulate --fault reset-after-accept:2 --fault client-id-in-use:1

    Faults while it runs go through the control service, for example with grpcurl:

    grpcurl -plaintext -d '{"code": 1100}' 127.0.0.1:50052
    ibgateway.simulator.v1.SimulatorService/SendNotice

    A nightly restart, a minute long, is one call too:

    grpcurl -plaintext -d '{"down": "60s"}' 127.0.0.1:50052
    ibgateway.simulator.v1.SimulatorService/StartRestart

    It runs until SIGINT (Ctrl-C) or SIGTERM. Exit codes: 0 stopped, 1 cannot listen, 2 bad input.
    """
    del list_faults  # its callback has ended the program
    where = listen_address(listen, "--listen")
    control_where = None if no_control else listen_address(control, "--control-listen")
    faults = [_fault(text) for text in fault or ()]
    accounts = tuple(account or SimulatorSettings().accounts)
    try:
        settings = SimulatorSettings(
            host=where.host,
            port=where.port,
            server_version=server_version,
            accounts=accounts,
            rate_limit=rate_limit or None,
            read_only=read_only,
            hold_after_reset=hold_after_reset,
        )
        _armed(SimulatedGateway(settings), faults)  # refuses what cannot be before anything listens
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    try:
        asyncio.run(_run(settings, control_where, faults))
    except OSError as error:
        typer.echo(f"gateway-broker simulate: {error}", err=True)
        raise typer.Exit(1) from error


def _armed(simulator: SimulatedGateway, faults: list[tuple[Fault, int | None]]) -> SimulatedGateway:
    for fault, times in faults:
        simulator.arm(fault, times)
    return simulator


async def _run(
    settings: SimulatorSettings, control: Address | None, faults: list[tuple[Fault, int | None]]
) -> None:
    """Serve until a signal. Raises OSError, naming the address, if it cannot listen."""
    with StopSignal() as stop:
        async with AsyncExitStack() as stack:
            simulator = _armed(SimulatedGateway(settings), faults)
            try:
                await stack.enter_async_context(simulator)
            except OSError as error:
                where = Address(settings.host, settings.port)
                raise OSError(f"cannot listen on {where}: {error.strerror or error}") from error
            typer.echo(
                "*** SIMULATOR: this is not an IB Gateway; nothing here reaches a market. ***"
            )
            typer.echo(f"TWS clients: {Address(simulator.host, simulator.port)}")
            if control is not None:
                server = await stack.enter_async_context(
                    ControlServer(simulator, control.host, control.port)
                )
                typer.echo(f"control:     {Address(server.host, server.port)}")
                if control.host not in _LOOPBACK:
                    typer.echo(
                        "warning: the control service has no authentication and is not on loopback",
                        err=True,
                    )
            for item in simulator.armed:
                often = (
                    "until cleared"
                    if item.remaining is None
                    else f"for {item.remaining} connections"
                )
                typer.echo(f"fault:       {item.fault.label}, {often}")
            typer.echo("Press Ctrl-C to stop.")
            await stop.wait()
    typer.echo("The simulator has stopped.")
