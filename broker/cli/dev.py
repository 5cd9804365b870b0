"""`gateway-broker dev`: everything in one process, with a SIMULATED Gateway."""

from __future__ import annotations

import os
import shutil
import sys
from contextlib import AbstractAsyncContextManager, AsyncExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Final, TypeVar

import typer

from broker.cli.address import Address, listen_address
from broker.cli.serve import DataDir, run
from broker.cli.signals import StopSignal
from broker.config import Settings, dev_data_dir, load_settings
from broker.errors import StartupError
from broker.gateway.base import GatewayKind
from broker.simulator.control import ControlServer
from broker.simulator.gateway import SimulatedGateway, SimulatorSettings
from broker.telemetry import logs

T = TypeVar("T")
app = typer.Typer(add_completion=False)

BANNER: Final = """
  gateway-broker is running. Its Gateway is SIMULATED: nothing here reaches a market.

    console      {console}  (open it in a browser, and leave it open)
    gRPC         {grpc}
    Gateway      {gateway}  (simulated; TWS programs can connect, too)
    its control  {control}  (gRPC: faults and notices on request)
    database     a PostgreSQL of its own in {data_dir}

  In a second terminal, watch, if you like that better than the console:

    {command} sessions watch{broker}

  In a third, make something happen:

    {command} sessions open --client-id 7{broker}
    {command} sessions list{broker}
    {command} gateways explain{broker}
    psql "$({command} db url --dev)" -c 'select * from session_events'
    grpcurl {shown} {grpc} list

  Then break it, and watch the session come back, as generation 2 and 3: its connection is reset;
  the Gateway restarts for 20 s, and holds the client id for another 5 s.

    S=ibgateway.simulator.v1.SimulatorService
    grpcurl -plaintext -d '{{"reset": true}}' {control} $S/DropClients
    grpcurl -plaintext -d '{{"down": "20s", "ghosts": "5s"}}' {control} $S/StartRestart

  Ctrl-C stops all of it.
"""


@app.command(epilog="Example: gateway-broker dev --grpc-listen 127.0.0.1:50061")
def dev(
    *,
    grpc_listen: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Where the gRPC server listens.")
    ] = "127.0.0.1:50051",
    gateway_listen: Annotated[
        str,
        typer.Option(
            metavar="HOST:PORT",
            help="Where the simulated Gateway listens; port 0 takes the one that it had before, "
            "or a free one.",
        ),
    ] = "127.0.0.1:0",
    control_listen: Annotated[
        str,
        typer.Option(metavar="HOST:PORT", help="Where the simulator's control service listens."),
    ] = "127.0.0.1:50052",
    http_listen: Annotated[
        str,
        typer.Option(metavar="HOST:PORT", help="Where health and the console are served."),
    ] = "127.0.0.1:8080",
    prometheus_port: Annotated[
        int, typer.Option(metavar="PORT", help="The port of metrics; 0 takes a free one.")
    ] = 9090,
    data_dir: DataDir = None,
    access: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Serve TLS, and ask callers for a token: with the files that `access init DIR` "
            "has made.",
            show_default=False,
        ),
    ] = None,
    log_level: Annotated[str, typer.Option(help="The least severe messages to log.")] = "INFO",
) -> None:
    """Run a broker, a PostgreSQL of its own and a SIMULATED Gateway, to try it out.

    It keeps its data apart from that of `serve` and takes no setting from the environment or a
    file, so that it never dials a real Gateway. Ctrl-C stops all of it.
    """
    gateway = listen_address(gateway_listen, "--gateway-listen")
    control = listen_address(control_listen, "--control-listen")
    given = load_settings(
        found=False,
        grpc_listen=grpc_listen,
        http_listen=http_listen,
        prometheus_port=prometheus_port,
        data_dir=data_dir or dev_data_dir(),
        log_level=log_level,
        log_format="console",
        **({} if access is None else _asking(access)),
    )
    logs.configure(given.log_level, given.log_format)
    run(_dev(given, SimulatorSettings(host=gateway.host, port=gateway.port), control))


def _asking(directory: Path) -> dict[str, Path]:
    from broker.access.trial import Trial

    trial = Trial(directory)
    return {
        "tls_certificate": trial.certificate,
        "tls_key": trial.key,
        "access_file": trial.access_file,
    }


def _reached(settings: Settings, address: str) -> tuple[str, str]:
    """What must be said to a command, and to grpcurl, to reach the broker."""
    where = "" if address == "127.0.0.1:50051" else f" --broker {address}"
    if settings.access_file is None:
        return where, "-plaintext"
    from broker.access.identity import Role
    from broker.access.trial import Trial

    trial = Trial(settings.access_file.parent)
    token = trial.token(Role.OPERATOR)
    return (
        f"{where} --tls-ca {trial.ca} --token-file {token}",
        f'-cacert {trial.ca} -H "authorization: Bearer $(cat {token})"',
    )


async def _dev(given: Settings, simulated: SimulatorSettings, control_address: Address) -> None:
    from broker.app import broker

    with StopSignal() as stop:
        async with AsyncExitStack() as stack:
            port_file = given.data_dir / "simulated-gateway-port"
            simulator = await _simulated_gateway(stack, simulated, port_file)
            settings = load_settings(
                found=False,
                **given.model_dump(exclude={"gateways"}),
                gateways={
                    "default": {
                        "host": simulator.host,
                        "port": simulator.port,
                        "kind": GatewayKind.PAPER,
                    }
                },
            )
            running = await stack.enter_async_context(broker(settings))
            _keep_port(port_file, simulator.port)
            # After the database has been started: gRPC grumbles about a fork while it serves.
            control = await _listening(
                stack,
                ControlServer(simulator, control_address.host, control_address.port),
                control_address,
            )
            reached, shown = _reached(settings, running.grpc_address)
            typer.echo(
                BANNER.format(
                    console=_url(running.http_address),
                    grpc=running.grpc_address,
                    gateway=f"{simulator.host}:{simulator.port}",
                    control=f"{control.host}:{control.port}",
                    data_dir=settings.data_dir,
                    command=_command(),
                    broker=reached,
                    shown=shown,
                )
            )
            await stop.wait()
            typer.echo("stopping")
    typer.echo("stopped")


def _keep_port(port_file: Path, port: int) -> None:
    port_file.write_text(f"{port}\n")


def _port_before(port_file: Path) -> int:
    return int(port_file.read_text())


async def _simulated_gateway(
    stack: AsyncExitStack, simulated: SimulatorSettings, port_file: Path
) -> SimulatedGateway:
    """Where it was before, if it may choose: sessions belong to the address of their Gateway."""
    if simulated.port == 0:
        with suppress(OSError, ValueError, OverflowError):
            before = replace(simulated, port=_port_before(port_file))
            return await stack.enter_async_context(SimulatedGateway(before))
    return await _listening(
        stack, SimulatedGateway(simulated), Address(simulated.host, simulated.port)
    )


async def _listening(
    stack: AsyncExitStack, server: AbstractAsyncContextManager[T], address: Address
) -> T:
    try:
        return await stack.enter_async_context(server)
    except OSError as error:
        raise StartupError(
            f"cannot listen on {address}: is another `gateway-broker dev` running? Stop it, or "
            f"choose other addresses with --gateway-listen and --control-listen ({error})"
        ) from None


def _url(address: str) -> str:
    return f"http://{address}/" if address else "is off"


def _command() -> str:
    """How this program was called, so that what we print can be typed."""
    program = Path(sys.argv[0])
    if program.name != "gateway-broker":
        return "gateway-broker"
    if shutil.which("gateway-broker") == str(program):
        return "gateway-broker"
    return os.path.relpath(program)
