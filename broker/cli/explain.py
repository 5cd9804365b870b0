"""How it is with a gateway, in sentences: what is wrong, since when, what next, who must act."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp
from ibgateway.broker.v1 import error_pb2, gateway_pb2, session_event_pb2, session_pb2

from broker.cli.output import moment, span
from broker.cli.story import name

_CONNECTING: Final = session_pb2.SESSION_STATE_CONNECTING
_CONNECTED: Final = session_pb2.SESSION_STATE_CONNECTED
_RECONNECTING: Final = session_pb2.SESSION_STATE_RECONNECTING
_DATA: Final = "DATA_CONTINUOUS"
_LISTED: Final = 10
"""How many sessions that suffer are named."""


class Status(enum.StrEnum):
    """The verdict in a word."""

    UP = "UP"
    IMPAIRED = "IMPAIRED"
    LOST = "LOST"
    REFUSING = "REFUSING"
    DOWN = "DOWN"
    DRAINED = "DRAINED"
    UNTRIED = "UNTRIED"


STYLES: Final[Mapping[Status, str]] = {
    Status.UP: "bold green",
    Status.IMPAIRED: "bold yellow",
    Status.LOST: "bold red",
    Status.REFUSING: "bold red",
    Status.DOWN: "bold red",
    Status.DRAINED: "bold yellow",
    Status.UNTRIED: "bold",
}

_PASSING: Final = "Nobody yet if it is restarting; if it lasts for minutes, whoever runs it."
_ACTORS: Final[Mapping[str, str]] = {
    "IB_CONN_001 tcp": _PASSING,
    "IB_CONN_001 handshake": "An operator, unless it is just starting.",
    "IB_CONN_001 start_api": _PASSING,
    "IB_CONN_001 connected": "Nobody yet: a session that lost its link dials by itself.",
    "IB_CONN_002": "Whoever holds the client id, if it is not let go by itself within a minute.",
    "IB_CONN_003": "Whoever can see the Gateway's screen.",
    "IB_CONN_004": "Whoever runs the network between the broker and the Gateway's host.",
    "IB_CONN_005": "A human at the Gateway, or whoever configures the broker.",
    "IB_CONN_006": "Whoever can upgrade the Gateway.",
}
"""Who must act, by code, and phase where that makes a difference; the hint says what to do."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """The answer. Each section is a list of sentences; one without is left out.

    Attributes:
        gateway_id: which gateway.
        status: the verdict in a word.
        verdict: the verdict in a sentence.
        why: what went wrong last.
        since: since when, and how it began.
        next: what happens by itself.
        act: who must act, and how.
        suffers: the sessions that do not work as they should.
    """

    gateway_id: str
    status: Status
    verdict: str
    why: list[str] = field(default_factory=list)
    since: list[str] = field(default_factory=list)
    next: list[str] = field(default_factory=list)
    act: list[str] = field(default_factory=list)
    suffers: list[str] = field(default_factory=list)

    def sections(self) -> Iterator[tuple[str, list[str]]]:
        """Those that say something, with their headings."""
        yield "Why", self.why
        yield "Since", self.since
        yield "Next", self.next
        yield "Who acts", self.act
        yield "Sessions", self.suffers


def worst(sessions: Sequence[session_pb2.Session]) -> session_pb2.Session | None:
    """The session without a link that has waited for longest; None if all have one."""
    waiting = [item for item in sessions if item.state in (_CONNECTING, _RECONNECTING)]
    return min(
        waiting,
        key=lambda item: (item.state != _RECONNECTING, item.state_time.ToNanoseconds()),
        default=None,
    )


def kind(gateway: gateway_pb2.Gateway) -> str:
    """What the configuration declares it to be."""
    text = gateway_pb2.GatewayKind.Name(gateway.kind)
    return text.removeprefix("GATEWAY_KIND_").lower()


def explain(
    gateway: gateway_pb2.Gateway,
    sessions: Sequence[session_pb2.Session],
    events: Sequence[session_event_pb2.SessionEvent] | None,
    now: datetime,
) -> Explanation:
    """Say how it is with a gateway.

    Args:
        gateway: as the broker knows it.
        sessions: those of it that are not final.
        events: those of the session that `worst` gives, empty if there is none; None if they
            cannot be read, since the broker's database is away.
        now: the time.
    """
    return _Case(gateway, sessions, events, now).explanation()


class _Case:
    def __init__(
        self,
        gateway: gateway_pb2.Gateway,
        sessions: Sequence[session_pb2.Session],
        events: Sequence[session_event_pb2.SessionEvent] | None,
        now: datetime,
    ) -> None:
        self._gateway = gateway
        self._now = now.timestamp()
        self._is_unrecorded = events is None
        self._events = events or ()
        self._worst = worst(sessions)
        self._waiting = [s for s in sessions if s.state in (_CONNECTING, _RECONNECTING)]
        self._connected = [s for s in sessions if s.state == _CONNECTED]
        self._impaired = [s for s in self._connected if _false(s)]
        self._failure = self._latest_failure()

    def explanation(self) -> Explanation:
        status = self._status()
        if status is Status.UP:
            return Explanation(
                self._gateway.gateway_id,
                status,
                self._verdict(status),
                next=[*self._next(status)],
                act=["Nobody."],
                suffers=[*self._sufferers(), *self._quarantine(), *self._history()],
            )
        return Explanation(
            self._gateway.gateway_id,
            status,
            self._verdict(status),
            why=[*self._why(status)],
            since=[*self._since(status)],
            next=[*self._next(status)],
            act=[*self._act(status)],
            suffers=[*self._sufferers(), *self._quarantine()],
        )

    # -- the verdict -----------------------------------------------------------------

    def _status(self) -> Status:
        gateway = self._gateway
        if gateway.HasField("drain"):
            return Status.DRAINED
        if not gateway.HasField("reachable"):
            return Status.UNTRIED
        if not gateway.reachable:
            return Status.DOWN
        if self._is_loss():
            return Status.IMPAIRED if self._connected else Status.LOST
        if self._failure is not None:
            return Status.REFUSING
        return Status.IMPAIRED if self._impaired else Status.UP

    def _verdict(self, status: Status) -> str:
        gateway = self._gateway
        which = f"Gateway {gateway.gateway_id} ({gateway.host}:{gateway.port}, {kind(gateway)})"
        match status:
            case Status.DRAINED:
                drain = gateway.drain
                why = f": {drain.reason}" if drain.reason else ""
                answers = (
                    "it was not dialled yet"
                    if not gateway.HasField("reachable")
                    else "it answered when it was last dialled"
                    if gateway.reachable
                    else "it did not answer when it was last dialled"
                )
                return (
                    f"{which} is DRAINED: {drain.actor} takes it out of use, since "
                    f"{self._at(drain.drain_time)}{why}; {answers}."
                )
            case Status.UNTRIED:
                return f"{which} is not known yet: no attempt to reach it has ended."
            case Status.DOWN if self._connected:
                return (
                    f"{which} is DOWN for new connections: it does not answer, though "
                    f"{_count(self._connected, 'session')} still CONNECTED."
                )
            case Status.DOWN:
                return f"{which} is DOWN: it does not answer."
            case Status.LOST:
                return f"{which} has LOST the links of all its sessions, and none is back."
            case Status.REFUSING:
                return f"{which} is REFUSING: it answers, but does not take every session."
            case Status.IMPAIRED if self._waiting:
                return f"{which} is UP, but {_count(self._waiting, 'session')} without a link."
            case Status.IMPAIRED:
                return f"{which} is UP, but not all is well behind it."
        version = f", with server version {gateway.server_version}"
        answered = f"it last answered at {self._at(gateway.reachable_time)}"
        return f"{which} is UP: {answered}{version if gateway.server_version else ''}."

    def _is_loss(self) -> bool:
        """Whether the trouble is a link that was lost and not dialled since, not a dial."""
        return self._failure is not None and self._failure.phase in {"connected", "heartbeat"}

    def _latest_failure(self) -> error_pb2.ConnectionFailure | None:
        """The failure that stands: of those who wait, or of an attempt that nothing followed."""
        found = [item.last_failure for item in self._waiting if item.last_failure.reason]
        last = self._gateway.last_failure
        worked = max((_time(item.connect_time) for item in self._connected), default=0.0)
        if not self._gateway.reachable:
            stands = True
        else:
            # A gateway that answers has answered since the last dial that it did not.
            stands = not found and not _is_unanswered(last) and _time(last.time) > worked
        if last.reason and stands:
            found.append(last)
        return max(found, key=lambda item: _time(item.time), default=None)

    # -- the sections ----------------------------------------------------------------

    def _why(self, status: Status) -> Iterator[str]:
        failure = self._failure
        if failure is not None:
            code = f", the Gateway's error {failure.tws_code}" if failure.tws_code else ""
            yield (
                f"{failure.reason} in phase {failure.phase}{code}: {_sentence(failure.message)} "
                f"That was at {self._at(failure.time)}."
            )
        if status is Status.UNTRIED and failure is None:
            yield "No session has used it since the broker was started."
        yield from _facts(self._impaired)

    def _since(self, status: Status) -> Iterator[str]:
        session = self._worst
        if session is None:
            if status is Status.DOWN:
                yield f"{self._at(self._gateway.reachable_time)} at the latest: it was dialled."
            times = [fact.transition_time for s in self._impaired for fact in _false(s)]
            if times and status is Status.IMPAIRED:
                yield f"{self._at(min(times, key=_time))}."
            return
        who = f"session {session.session_id[:8]} (client {session.client_id})"
        failed = self._failed_attempts()
        attempts = f"; {_count(failed, 'attempt')} failed since" if failed else ""
        if session.state == _RECONNECTING:
            loss = self._loss()
            how = f" ({loss.reason}: {loss.message})" if loss is not None else ""
            yield f"{self._at(session.state_time)}: {who} lost its link then{how}{attempts}."
        else:
            opened = f"{who} was asked for then, and is not CONNECTED yet"
            yield f"{self._at(session.create_time)}: {opened}{attempts}."

    def _next(self, status: Status) -> Iterator[str]:
        gateway, name_ = self._gateway, self._gateway.gateway_id
        if gateway.HasField("maintenance_end_time"):
            yield (
                "It is in a maintenance window, in which a loss is expected, until "
                f"{moment(gateway.maintenance_end_time)}."
            )
        if status is Status.DRAINED:
            yield (
                f"New sessions are refused (GATEWAY_DRAINING), those that wait do not dial, and "
                f"those that are CONNECTED stay, until `gateway-broker gateways resume {name_}`."
            )
            return
        yield from self._attempts(status)
        yield from self._admission()

    def _attempts(self, status: Status) -> Iterator[str]:
        gateway = self._gateway
        times = [s.next_attempt_time for s in self._waiting if s.HasField("next_attempt_time")]
        if gateway.HasField("next_attempt_time"):
            times = [gateway.next_attempt_time]
        if times and (self._waiting or status is not Status.UP):
            due = min(times, key=_time)
            wait = _time(due) - self._now
            when = f"at {moment(due)}, in {span(wait)}" if wait > 0 else "now"
            yield f"It is dialled again {when}; nobody need ask for it."
        elif self._waiting:
            yield "An attempt is under way."
        elif status is Status.DOWN:
            yield "It has no sentinel: nobody dials it before a session is opened."
        elif status is Status.REFUSING:
            yield "No session waits for it: it is dialled when one is opened."

    def _admission(self) -> Iterator[str]:
        """Whether new sessions are taken."""
        gateway, breaker = self._gateway, self._gateway.circuit_breaker
        seats = f"{gateway.sessions_used} of {gateway.session_limit} seats are used"
        match breaker.state:
            case gateway_pb2.CIRCUIT_BREAKER_STATE_OPEN:
                times = f"{breaker.failures} failure{'s' * (breaker.failures != 1)}"
                yield (
                    f"New sessions are refused (CIRCUIT_OPEN) after {times} in a row, until a "
                    f"trial at {moment(breaker.half_open_time)}."
                )
            case gateway_pb2.CIRCUIT_BREAKER_STATE_HALF_OPEN:
                yield "New sessions are let through one at a time, as trials (circuit HALF_OPEN)."
            case _ if self._is_unrecorded:
                yield "New sessions are refused: the broker's database is away (STORE_UNAVAILABLE)."
            case _ if gateway.sessions_used >= gateway.session_limit:
                yield f"New sessions are refused (SESSION_LIMIT): {seats}."
            case _:
                yield f"New sessions are let through (circuit CLOSED); {seats}."

    def _act(self, status: Status) -> Iterator[str]:
        gateway, failure = self._gateway, self._failure
        is_open = gateway.circuit_breaker.state == gateway_pb2.CIRCUIT_BREAKER_STATE_OPEN
        if status is Status.DRAINED:
            yield f"{gateway.drain.actor}, or another operator, by resuming it."
        elif gateway.HasField("maintenance_end_time"):
            yield "Nobody before the window ends."
        elif failure is not None:
            place = f"{failure.reason} {failure.phase}"
            yield _ACTORS.get(place) or _ACTORS.get(failure.reason, "An operator.")
        elif any(fact.type != _DATA for item in self._impaired for fact in _false(item)):
            yield "Nobody at the broker: the links live, and what is missing is beyond the Gateway."
        elif not self._impaired:
            yield "Nobody."
        if failure is not None and failure.hint:
            yield _sentence(failure.hint)
        loss = self._loss()
        if loss is not None and loss.tws_code and (failure is None or loss.hint != failure.hint):
            # What the Gateway itself said as it went says more than the silence after it.
            yield f"It was lost with error {loss.tws_code}: {_sentence(loss.hint)}"
        for session in self._impaired:
            if any(fact.type == _DATA for fact in _false(session)):
                yield (
                    f"{session.owner} subscribes anew, and says so: gateway-broker sessions "
                    f"acknowledge {session.session_id}."
                )
        if is_open:
            yield (
                f"Once it is repaired, `gateway-broker gateways reset-breaker "
                f"{gateway.gateway_id}` saves the wait."
            )

    def _sufferers(self) -> Iterator[str]:
        suffering = [*self._waiting, *self._impaired]
        total = len(self._waiting) + len(self._connected)
        if not total:
            yield "No session uses it."
            return
        if not suffering:
            yield f"{_count(self._connected, 'session')} CONNECTED; none suffers."
            return
        verb = "suffers" if len(suffering) == 1 else "suffer"
        yield f"{len(suffering)} of {total} {verb}:" if total > 1 else "The only one suffers:"
        ordered = sorted(suffering, key=lambda item: item.state_time.ToNanoseconds())
        yield "; ".join(map(self._sufferer, ordered[:_LISTED])) + (
            f"; and {len(ordered) - _LISTED} more." if len(ordered) > _LISTED else "."
        )

    def _sufferer(self, session: session_pb2.Session) -> str:
        facts = ", ".join(dict.fromkeys(fact.type for fact in _false(session)))
        reason = facts or session.last_failure.reason
        age = span(self._now - _time(session.state_time))
        return (
            f"{session.session_id[:8]} (client {session.client_id}, {session.owner}) is "
            f"{name(session.state)} for {age}{f', {reason}' if reason else ''}"
        )

    def _quarantine(self) -> Iterator[str]:
        ids = [f"{item.client_id} ({item.reason})" for item in self._gateway.quarantined_client_ids]
        if ids:
            yield (
                f"In quarantine, as the Gateway may still hold them: client ids {', '.join(ids)}; "
                "the pool gives them only if no other is left."
            )

    def _history(self) -> Iterator[str]:
        last = self._gateway.last_failure
        if last.reason:
            yield f"The last failure, {last.reason} at {self._at(last.time)}, is over."

    # -- details ---------------------------------------------------------------------

    def _failed_attempts(self) -> list[session_event_pb2.SessionEvent]:
        """The attempts that failed since the session has been in its state."""
        found: list[session_event_pb2.SessionEvent] = []
        for event in self._events:
            match event.WhichOneof("change"):
                case "transition":
                    found = []
                case "attempt":
                    found.append(event)
        return found

    def _loss(self) -> error_pb2.ConnectionFailure | None:
        """How the link of the session that waits for longest was lost, if that is on record."""
        for event in reversed(self._events):
            if event.WhichOneof("change") == "transition":
                is_loss = event.transition.to == _RECONNECTING
                return event.session.last_failure if is_loss else None
        return None

    def _at(self, time: Timestamp) -> str:
        return f"{moment(time)} ({span(self._now - _time(time))} ago)"


def _false(session: session_pb2.Session) -> list[session_pb2.Condition]:
    return [
        fact for fact in session.conditions if fact.status == session_pb2.CONDITION_STATUS_FALSE
    ]


def _is_unanswered(failure: error_pb2.ConnectionFailure) -> bool:
    """Whether a dial has ended before the Gateway told its version."""
    return failure.phase in {"tcp", "handshake"} and failure.reason != "IB_CONN_006"


def _facts(sessions: Sequence[session_pb2.Session]) -> Iterator[str]:
    """What is not as it should be, each once."""
    seen = {}
    for session in sessions:
        for fact in _false(session):
            about = "/".join(part for part in (fact.type, fact.subject) if part)
            code = f" ({fact.tws_code})" if fact.tws_code else ""
            seen[about] = f"{about} is FALSE{code}: {_sentence(fact.message or fact.reason)}"
    yield from seen.values()


def _time(time: Timestamp) -> float:
    return time.ToNanoseconds() / 1e9


def _sentence(text: str) -> str:
    text = text.strip()
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _count(items: Sequence[object], noun: str) -> str:
    """Such as "1 session is" or "2 attempts have"."""
    verb = ("is", "are") if noun == "session" else ("has", "have")
    return f"{len(items)} {noun}{'' if len(items) == 1 else 's'} {verb[len(items) != 1]}"
