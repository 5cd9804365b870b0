"""`gateway-broker info`: what the broker is."""

from __future__ import annotations

import typer
from google.protobuf.duration_pb2 import Duration

from broker.cli import output
from broker.cli.client import calling
from broker.cli.options import BrokerOption, FormatOption
from broker.cli.output import Format, moment, span

app = typer.Typer(add_completion=False)


@app.command(epilog="Example: gateway-broker info --output json")
def info(*, broker: BrokerOption = None, form: FormatOption = Format.TABLE) -> None:
    """Show what the broker is and can do: version, log, limits, capabilities."""
    with calling(broker) as client:
        found = client.info()
    if form is Format.JSON:
        output.document(output.message(found))
        return
    limits = found.limits
    output.fields(
        (
            ("version", found.version),
            ("instance", found.instance),
            ("started", moment(found.start_time)),
            ("epoch", str(found.epoch)),
            ("log", found.store_id),
            ("revision", f"{found.revision}, from {found.oldest_revision} on"),
            ("sessions", f"at most {limits.sessions}"),
            ("watchers", f"at most {limits.watchers}, {limits.watch_lag} events behind"),
            ("leases", f"of at most {span(_seconds(limits.lease_ttl))}"),
            (
                "events kept",
                f"for {span(_seconds(limits.retention_age))}, at most {limits.retention_events}",
            ),
            ("can", ", ".join(found.capabilities)),
        )
    )


def _seconds(length: Duration) -> float:
    return length.ToNanoseconds() / 1e9
