"""`gateway-broker serve`: the broker in front of the configured Gateways."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, Any

import typer
import uvloop

from broker.cli.signals import StopSignal
from broker.config import Configuration, Settings, read_configuration
from broker.errors import BrokerError, StartupError
from broker.telemetry import logs

logger = logging.getLogger(__name__)
app = typer.Typer(add_completion=False)

DataDir = Annotated[
    Path | None,
    typer.Option(help="Where the broker's own PostgreSQL keeps its files.", show_default=False),
]


@app.command(epilog="Example: gateway-broker serve --grpc-listen 127.0.0.1:50051")
def serve(
    *,
    grpc_listen: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            help="Where the gRPC server listens; port 0 takes a free one.",
            show_default="127.0.0.1:50051",
        ),
    ] = None,
    http_listen: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            help="Where health and the console are served; port 0 takes a free one, off serves "
            "neither.",
            show_default="127.0.0.1:8080",
        ),
    ] = None,
    prometheus_port: Annotated[
        int | None,
        typer.Option(
            help="The port of metrics; 0 takes a free one.", show_default="9090", metavar="PORT"
        ),
    ] = None,
    data_dir: DataDir = None,
    insecure_no_auth: Annotated[
        bool,
        typer.Option(
            "--insecure-no-auth",
            help="Listen beyond loopback although anybody who connects can then open sessions.",
        ),
    ] = False,
) -> None:
    """Run the broker in front of the configured Gateways.

    The settings come from the environment and from a TOML file; what is said here wins:

    IB_GATEWAY_HOST, IB_GATEWAY_PORT, IB_GATEWAY_KIND   the Gateway
    DATABASE_URL            the PostgreSQL to use; without it the broker runs one of its own
    LOG_LEVEL               DEBUG, INFO, WARNING or ERROR
    PROMETHEUS_PORT         where metrics are
    GATEWAY_BROKER_CONFIG   the TOML file, where several gateways can be declared
    GATEWAY_BROKER_...      every other setting: docs/settings.md

    It logs to standard error. SIGTERM or SIGINT (Ctrl-C) closes all links and stops it; the next
    broker on the same database takes the sessions up. A second signal ends it at once. Exit codes:
    0 stopped, 1 cannot start or cannot go on.
    """
    given: dict[str, Any] = {
        "grpc_listen": grpc_listen,
        "http_listen": http_listen,
        "prometheus_port": prometheus_port,
        "data_dir": data_dir,
    }
    overrides = {name: value for name, value in given.items() if value is not None}
    if insecure_no_auth:
        overrides["insecure_no_auth"] = True
    configuration = read_configuration(**overrides)
    settings = configuration.settings
    logs.configure(settings.log_level, settings.log_format)
    _tell_doubts(configuration)
    run(_serve(settings))


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run a command that serves, on the fast loop.

    Raises:
        StartupError: it cannot start.
        BrokerError: it cannot go on; the log has it too.
    """
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            runner.run(main)
        except StartupError:
            raise
        except BrokerError as error:
            logger.critical("broker_failed", extra={"error": str(error)})
            raise


def _tell_doubts(configuration: Configuration) -> None:
    from broker.doctor.doubts import doubts

    for doubt in doubts(configuration):
        if not doubt.told:
            logger.warning(
                "setting_doubted",
                extra={"field": doubt.field, "text": doubt.text, "advice": doubt.advice},
            )


async def _serve(settings: Settings) -> None:
    from broker.app import broker

    with StopSignal() as stop:
        async with broker(settings) as running:
            logger.info(
                "broker_serving",
                extra={
                    "grpc": running.grpc_address,
                    "console": running.http_address and f"http://{running.http_address}/",
                    "metrics": running.metrics_address
                    and f"http://{running.metrics_address}/metrics",
                    "gateways": {
                        name: f"{gateway.host}:{gateway.port}"
                        for name, gateway in settings.gateways.items()
                    },
                    "sessions_taken_up": running.taken_up,
                    "tls": settings.tls_certificate is not None,
                    "callers_are_known": settings.knows_callers,
                },
            )
            if settings.insecure_no_auth:
                logger.warning(
                    "insecure_no_auth",
                    extra={
                        "grpc": running.grpc_address,
                        "hint": "tokens can be read on their way, unless something in front of the "
                        "broker encrypts it"
                        if settings.knows_callers
                        else "whoever reaches the port can open and close sessions",
                    },
                )
            await stop.wait()
            logger.info("broker_stopping")
    logger.info("broker_stopped")
