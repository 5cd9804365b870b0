"""`gateway-broker doctor`: what is wrong here, and what to do about it."""

from __future__ import annotations

import asyncio
import shutil
import sys
import textwrap
import time
from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
import uvloop
from rich.text import Text

from broker.cli import output
from broker.cli.client import BrokerError, calling
from broker.cli.exits import ExitCode
from broker.cli.options import BrokerOption, FormatOption
from broker.cli.output import Format

if TYPE_CHECKING:
    from ibgateway.broker.v1 import gateway_pb2

    from broker.doctor.case import GatewayReport, RunningBroker
    from broker.doctor.check import Result

DEADLINE: Final = 30.0
"""Seconds that all checks may take, unless somebody says otherwise."""
_ASKING: Final = 3.0
"""Seconds for a broker to say that it is one."""
_STYLES: Final = {"wrong": "bold red", "warning": "yellow", "ok": "green", "skipped": "dim"}
_INDENT: Final = " " * 17


app = typer.Typer(add_completion=False)


@app.command(epilog="Example: gateway-broker doctor --deadline 10")
def doctor(
    *,
    broker: BrokerOption = None,
    deadline: Annotated[
        float,
        typer.Option(min=1, max=600, metavar="SECONDS", help="How long all checks may take."),
    ] = DEADLINE,
    form: FormatOption = Format.TABLE,
) -> None:
    """Find out what is wrong with this configuration and everything that it names.

    It looks at the configuration, the machine, the addresses to listen on, the database and each
    Gateway, and says of what is wrong what to do about it. Run it with the environment, and as the
    user, of the broker.

    It changes nothing. Each Gateway is dialled once, with a whole handshake, for about a tenth of
    a second. If a broker runs on this configuration already, that one is asked instead, and if
    somebody drains a gateway, it is left alone. Exit codes: 0 nothing is wrong (there may be
    warnings), 1 something is.
    """
    began = time.monotonic()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        results = runner.run(_examine(broker, deadline, live=form is Format.TABLE))
    seconds = time.monotonic() - began
    counts = Counter(result.finding.status.value for result in results)
    worst = next(status for status in _STYLES if counts[status])
    if form is Format.JSON:
        output.document(
            {
                "status": worst,
                "seconds": round(seconds, 3),
                "checks": [_row(result) for result in results],
            }
        )
    else:
        told = ", ".join(f"{counts[status]} {status}" for status in _STYLES if counts[status])
        output.line(f"{told}, in {seconds:.1f} s")
    if worst == "wrong":
        raise typer.Exit(ExitCode.FAILED)


async def _examine(broker: str | None, deadline: float, *, live: bool) -> list[Result]:
    from broker.doctor.examination import examine_all

    return await examine_all(
        ask=lambda address: _ask(broker or address),
        now=lambda: datetime.now(UTC),
        timeout=deadline,
        tell=_tell if live else lambda _: None,
        waits=_waits,
    )


def _tell(result: Result) -> None:
    finding = result.finding
    if result.because:
        return  # which is told already
    lines = [*_wrapped(f"{result.name}: {finding.text}")]
    if finding.advice:
        lines += _wrapped(f"-> {finding.advice}")
    head = f"{finding.status.value:<8} {result.seconds:5.2f} s "
    output.line(Text.assemble((head, _STYLES[finding.status.value]), ("\n" + _INDENT).join(lines)))


def _wrapped(text: str) -> list[str]:
    """On a terminal, lines that fit beside the status; else one."""
    if not sys.stdout.isatty():
        return [text]
    room = max(shutil.get_terminal_size().columns - len(_INDENT), 40)
    return textwrap.wrap(text, room, break_long_words=False, break_on_hyphens=False)


def _waits(name: str) -> None:
    """A terminal is told what takes so long."""
    if sys.stderr.isatty():
        typer.echo(f"{_INDENT}... {name}", err=True)


def _row(result: Result) -> dict[str, Any]:
    return {
        "check": result.name,
        "status": result.finding.status.value,
        "text": result.finding.text,
        "advice": result.finding.advice,
        "seconds": round(result.seconds, 3),
    }


async def _ask(address: str) -> RunningBroker | None:
    return await asyncio.to_thread(_asked, address)


def _asked(address: str) -> RunningBroker | None:
    from broker.doctor.case import RunningBroker

    with calling(address, patience=_ASKING) as client:
        try:
            client.health("")
            gateways = tuple(_report(gateway) for gateway in client.gateways().gateways)
        except BrokerError as error:
            # One that gives a reason is a broker, whatever it refuses.
            if not error.reason:
                return None
            return RunningBroker(address, None, f"{error.reason}: {error.message}")
    return RunningBroker(address, gateways)


def _report(gateway: gateway_pb2.Gateway) -> GatewayReport:
    from ibgateway.broker.v1 import gateway_pb2

    from broker.doctor.case import GatewayReport

    state = gateway_pb2.CircuitBreakerState.Name(gateway.circuit_breaker.state)
    failure = gateway.last_failure
    drain = gateway.drain
    return GatewayReport(
        gateway_id=gateway.gateway_id,
        address=f"{gateway.host}:{gateway.port}",
        reachable=gateway.reachable if gateway.HasField("reachable") else None,
        server_version=gateway.server_version,
        sessions=gateway.sessions_used,
        failure=f"{failure.reason}: {failure.message}" if failure.reason else "",
        hint=failure.hint,
        drained=f"{drain.actor!r}{': ' if drain.reason else ''}{drain.reason}"
        if gateway.HasField("drain")
        else "",
        circuit=state.removeprefix("CIRCUIT_BREAKER_STATE_"),
        maintenance_end=_time(gateway, "maintenance_end_time"),
        next_attempt=_time(gateway, "next_attempt_time"),
    )


def _time(gateway: gateway_pb2.Gateway, field: str) -> datetime | None:
    if not gateway.HasField(field):
        return None
    found: datetime = getattr(gateway, field).ToDatetime(tzinfo=UTC)
    return found
