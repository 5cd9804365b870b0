"""What a watch tells: each message as a line or two that an operator understands."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from ibgateway.broker.v1 import error_pb2, session_event_pb2, session_pb2
from ibgateway.broker.v1 import session_service_pb2 as pb
from ibgateway.client.events import Interrupted, Resumed
from rich.text import Text

from broker.cli import output
from broker.cli.client import Told
from broker.cli.output import Format, clock, moment

_STYLES: Final[Mapping[str, str]] = {
    "CONNECTED": "green",
    "CONNECTING": "yellow",
    "RECONNECTING": "yellow",
    "FAILED": "red",
    "DISCONNECTED": "dim",
    "TRUE": "green",
    "FALSE": "red",
    "UNKNOWN": "yellow",
    "OVERDUE": "bold red",
    "MAINTENANCE_OVERRUN": "bold red",
    "CIRCUIT_OPEN": "red",
    "CIRCUIT_HALF_OPEN": "yellow",
    "CIRCUIT_CLOSED": "green",
    "GATEWAY_DRAINING": "yellow",
    "GATEWAY_RESUMED": "green",
}
_AT_ONCE: Final = 0.05
"""Seconds that are no wait to a person."""


def state(session: session_pb2.Session) -> Text:
    """A session's state; one that is closing says so."""
    text = name(session.state)
    closing = bool(session.close_reason) and not session.HasField("disconnect_time")
    return Text(f"{text} (closing)" if closing else text, style=_STYLES.get(text, ""))


def condition(fact: session_pb2.Condition) -> Text:
    """A condition: what it is about, how it is, and what the Gateway said."""
    status = session_pb2.ConditionStatus.Name(fact.status).removeprefix("CONDITION_STATUS_")
    code = f" ({fact.tws_code})" if fact.tws_code else ""
    return Text.assemble(
        "/".join(part for part in (fact.type, fact.subject) if part),
        " is ",
        (status, _STYLES.get(status, "")),
        f"{code}: {fact.message or fact.reason}",
    )


def troubled(session: session_pb2.Session) -> list[session_pb2.Condition]:
    """The conditions that are not as they should be."""
    return [fact for fact in session.conditions if fact.status != session_pb2.CONDITION_STATUS_TRUE]


class Story:
    """Tells a watch, message by message.

    It remembers since when each session has been RECONNECTING, to tell how long it was away,
    what last went wrong, to say it in full once only, and what it has told before it was on
    record, not to tell it again.
    """

    _indent = " " * 14

    def __init__(self) -> None:
        # The first two are bounded by the number of sessions that are open, the third by what the
        # broker keeps for a database that is away.
        self._away: dict[str, int] = {}
        self._told: dict[str, error_pb2.ConnectionFailure] = {}
        self._unkept: set[tuple[str, int]] = set()

    def tell(self, message: Told, form: Format) -> Iterator[str | Text]:
        """The lines of one message."""
        match message:
            case _ if form is Format.JSON:
                yield output.compact(_document(message))
            case Interrupted():
                yield Text(f"-- {message.error.message}; waiting for it --", style="bold red")
            case Resumed():
                # What was told before it was on record may have died with its broker.
                self._unkept.clear()
                yield Text("-- it is back; what was missed follows --", style="bold green")
            case _:
                yield from self._tell(message)

    def _tell(self, message: pb.WatchSessionsResponse) -> Iterator[Text]:
        match message.WhichOneof("message"):
            case "snapshot":
                yield from self._snapshot(message.snapshot)
            case "snapshot_complete":
                yield Text("-- these are all; changes follow --", style="dim")
            case "event":
                yield from self._watched(message.event)
            case "reset":
                self._away.clear()
                self._told.clear()
                self._unkept.clear()
                yield Text(f"-- begin anew: {message.reset.reason} --", style="bold yellow")
            case "draining":
                yield Text("-- the broker stops --", style="bold yellow")

    def _snapshot(self, session: session_pb2.Session) -> Iterator[Text]:
        accounts = f"  accounts {', '.join(session.accounts)}" if session.accounts else ""
        yield Text.assemble(
            f"{session.session_id}  client {session.client_id} on {session.gateway_id}  ",
            state(session),
            f"  since {moment(session.state_time)}{_generation(session)}{accounts}",
        )
        self._follow(session)
        if session.state != session_pb2.SESSION_STATE_CONNECTED:
            yield from self._failure(session.session_id, session.last_failure)
            if session.HasField("next_attempt_time"):
                yield Text(
                    f"{self._indent}the next attempt is due at {clock(session.next_attempt_time)}"
                )
        for fact in troubled(session):
            yield Text.assemble(self._indent, condition(fact))

    def _watched(self, event: session_event_pb2.SessionEvent) -> Iterator[Text]:
        key = event.session_id, event.sequence
        if not event.persisted:
            if not self._unkept:
                yield Text(
                    "-- the record is behind: what follows is lost if the broker dies before it is "
                    "written --",
                    style="bold yellow",
                )
            self._unkept.add(key)
        elif key in self._unkept:
            self._unkept.discard(key)
            if not self._unkept:
                yield Text("-- all of that is on record now --", style="dim")
            return
        yield from self._event(event)

    def _event(self, event: session_event_pb2.SessionEvent) -> Iterator[Text]:
        session = event.session
        head = self._head(event)
        match event.WhichOneof("change"):
            case "transition":
                yield from self._transition(event, head)
            case "attempt":
                yield from self._attempt(event, head)
            case "condition":
                yield Text.assemble(head, condition(event.condition))
                if asks_to_subscribe(event.condition):
                    yield Text(
                        f"{self._indent}Its owner subscribes anew, and says so: "
                        f"gateway-broker sessions acknowledge {event.session_id}"
                    )
            case "notice":
                notice = event.notice
                style = _STYLES.get(notice.reason, "yellow")
                yield Text.assemble(head, (notice.reason, style), f"  {notice.message}")
                if notice.hint and not self._is_known(event.session_id, notice.hint):
                    yield Text(f"{self._indent}{notice.hint}")
            case "updated":
                changed = ", ".join(_changed(session, name) for name in event.updated.fields)
                yield Text(f"{head}{changed} by {event.updated.actor}")
        self._follow(session)

    def _head(self, event: session_event_pb2.SessionEvent) -> str:
        return f"{clock(event.time)}  {event.session_id[:8]}  client {event.session.client_id}  "

    def _transition(self, event: session_event_pb2.SessionEvent, head: str) -> Iterator[Text]:
        session, move = event.session, event.transition
        target = name(move.to)
        away = self._away.get(event.session_id)
        back = target == "CONNECTED" and away is not None
        yield Text.assemble(
            head,
            f"{name(getattr(move, 'from'))} -> ",
            (target, _STYLES.get(target, "")),
            _generation(session) if target == "CONNECTED" else "",
            f" after {_seconds(event.time.ToNanoseconds() - (away or 0))}" if back else "",
            f"  {move.reason}",
            f"  accounts {', '.join(session.accounts)}" if target == "CONNECTED" else "",
        )
        if target in {"RECONNECTING", "FAILED"}:
            self._told.pop(event.session_id, None)
            yield from self._failure(event.session_id, session.last_failure)
        if target == "RECONNECTING":
            yield Text(f"{self._indent}{_next(event.time, session)}")

    def _attempt(self, event: session_event_pb2.SessionEvent, head: str) -> Iterator[Text]:
        attempt = event.attempt
        last = self._told.get(event.session_id)
        again = last is not None and _is_same(last, attempt.failure)
        why = f"{attempt.failure.reason} again" if again else "failed"
        yield Text(f"{head}attempt {attempt.number}: {why}; {_next(event.time, event.session)}")
        yield from self._failure(event.session_id, attempt.failure)

    def _failure(self, session_id: str, failure: error_pb2.ConnectionFailure) -> Iterator[Text]:
        """A failure and what to do about it, but for what was told last."""
        last = self._told.get(session_id)
        if not failure.reason:
            return
        self._told[session_id] = failure
        again = last is not None and _is_same(last, failure)
        if not again or (last is not None and last.message != failure.message):
            yield Text(f"{self._indent}{failure.reason}: {failure.message}", style="red")
        if failure.hint and not again:
            yield Text(f"{self._indent}{failure.hint}")

    def _is_known(self, session_id: str, hint: str) -> bool:
        return session_id in self._told and self._told[session_id].hint == hint

    def _follow(self, session: session_pb2.Session) -> None:
        if session.state == session_pb2.SESSION_STATE_RECONNECTING:
            self._away[session.session_id] = session.state_time.ToNanoseconds()
        else:
            self._away.pop(session.session_id, None)
        if session.state == session_pb2.SESSION_STATE_CONNECTED or session.HasField(
            "disconnect_time"
        ):
            self._told.pop(session.session_id, None)


def _document(message: Told) -> dict[str, Any]:
    match message:
        case Interrupted():
            told = {**output.failure(message.error), "retry_in": message.retry_in}
            return {"resume_token": message.token, "interrupted": told}
        case Resumed():
            return {"resume_token": message.token, "resumed": {}}
    return output.message(message)


def _changed(session: session_pb2.Session, name: str) -> str:
    value = getattr(session, name)
    if isinstance(value, Duration):
        value = f"{value.ToNanoseconds() / 1e9:g} s"
    return f"{name} {value}"


def _is_same(one: error_pb2.ConnectionFailure, other: error_pb2.ConnectionFailure) -> bool:
    """Whether they ask for the same; the words may tell how long it has been so."""
    return (one.reason, one.hint) == (other.reason, other.hint)


def asks_to_subscribe(fact: session_pb2.Condition) -> bool:
    """Whether the owner of the session must subscribe anew, and say so."""
    return fact.type == "DATA_CONTINUOUS" and fact.status == session_pb2.CONDITION_STATUS_FALSE


def _next(now: Timestamp, session: session_pb2.Session) -> str:
    """When the next dial is due, as of an event."""
    if not session.HasField("next_attempt_time"):
        return "no attempt is planned"
    due = session.next_attempt_time
    wait = due.ToNanoseconds() - now.ToNanoseconds()
    if wait < _AT_ONCE * 1e9:
        return "the next attempt follows at once"
    return f"the next attempt in {_seconds(wait)}, at {clock(due)}"


def _seconds(nanoseconds: int) -> str:
    return f"{nanoseconds / 1e9:.1f} s"


def _generation(session: session_pb2.Session) -> str:
    """Told from the second link on: before that there is nothing to tell apart."""
    return f" generation {session.generation}" if session.generation > 1 else ""


def name(value: session_pb2.SessionState) -> str:
    """A state as people write it."""
    return session_pb2.SessionState.Name(value).removeprefix("SESSION_STATE_")
