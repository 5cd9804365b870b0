"""What a watch tells: each message as a line or two that an operator understands."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from ibgateway.broker.v1 import error_pb2, session_event_pb2, session_pb2
from ibgateway.broker.v1 import session_service_pb2 as pb
from rich.text import Text

from broker.cli import output
from broker.cli.client import Lost
from broker.cli.output import Format, clock, moment

_STYLES: Final[Mapping[str, str]] = {
    "CONNECTED": "green",
    "CONNECTING": "yellow",
    "RECONNECTING": "yellow",
    "FAILED": "red",
    "DISCONNECTED": "dim",
}
_INDENT: Final = " " * 14


def state(session: session_pb2.Session) -> Text:
    """A session's state; one that is closing says so."""
    name = _name(session.state)
    closing = bool(session.close_reason) and not session.HasField("disconnect_time")
    return Text(f"{name} (closing)" if closing else name, style=_STYLES.get(name, ""))


def tell(message: pb.WatchSessionsResponse | Lost, form: Format) -> Iterator[str | Text]:
    """The lines of one message."""
    if form is Format.JSON:
        value = {"lost": message.message} if isinstance(message, Lost) else output.message(message)
        yield output.compact(value)
    elif isinstance(message, Lost):
        yield Text(f"-- {message.message}; waiting for it --", style="bold red")
    else:
        yield from _tell(message)


def _tell(message: pb.WatchSessionsResponse) -> Iterator[str | Text]:
    match message.WhichOneof("message"):
        case "snapshot":
            session = message.snapshot
            accounts = f"  accounts {', '.join(session.accounts)}" if session.accounts else ""
            yield Text.assemble(
                f"{session.session_id}  client {session.client_id} on {session.gateway_id}  ",
                state(session),
                f"  since {moment(session.state_time)}{accounts}",
            )
            if session.state != session_pb2.SESSION_STATE_CONNECTED:
                yield from _failure(session.last_failure)
        case "snapshot_complete":
            yield Text("-- these are all; changes follow --", style="dim")
        case "event":
            yield from _event(message.event)
        case "reset":
            yield Text(f"-- begin anew: {message.reset.reason} --", style="bold yellow")
        case "draining":
            yield Text("-- the broker stops --", style="bold yellow")


def _event(event: session_event_pb2.SessionEvent) -> Iterator[Text]:
    session = event.session
    head = f"{clock(event.time)}  {event.session_id[:8]}  client {session.client_id}  "
    match event.WhichOneof("change"):
        case "transition":
            move = event.transition
            target = _name(move.to)
            yield Text.assemble(
                head,
                f"{_name(getattr(move, 'from'))} -> ",
                (target, _STYLES.get(target, "")),
                f"  {move.reason}",
                f"  accounts {', '.join(session.accounts)}" if target == "CONNECTED" else "",
            )
            if target in {"RECONNECTING", "FAILED"}:
                yield from _failure(session.last_failure)
        case "attempt":
            attempt = event.attempt
            yield Text.assemble(
                head,
                f"attempt {attempt.number} failed; the next at {clock(attempt.next_attempt_time)}",
            )
            yield from _failure(attempt.failure)
        case "condition":
            fact = event.condition
            status = session_pb2.ConditionStatus.Name(fact.status)
            yield Text.assemble(
                head,
                f"{fact.type} {fact.subject} is {status.removeprefix('CONDITION_STATUS_')}: ",
                fact.message or fact.reason,
            )
        case "updated":
            changed = ", ".join(f"{name} {getattr(session, name)}" for name in event.updated.fields)
            yield Text(f"{head}{changed} by {event.updated.actor}")


def _failure(failure: error_pb2.ConnectionFailure) -> Iterator[Text]:
    if failure.reason:
        yield Text(f"{_INDENT}{failure.reason}: {failure.message}", style="red")
        if failure.hint:
            yield Text(f"{_INDENT}{failure.hint}")


def _name(value: session_pb2.SessionState) -> str:
    return session_pb2.SessionState.Name(value).removeprefix("SESSION_STATE_")
