"""The live table of `sessions watch`: what is wrong first, and below it what happened last."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp
from ibgateway.broker.v1 import session_pb2
from ibgateway.broker.v1 import session_service_pb2 as pb
from ibgateway.client.events import Interrupted, Resumed
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from broker.cli.client import Filter, Told
from broker.cli.output import Format, harmless, span
from broker.cli.story import Story, asks_to_subscribe, condition, name, state, troubled

_STATES: Final = (
    session_pb2.SESSION_STATE_FAILED,
    session_pb2.SESSION_STATE_RECONNECTING,
    session_pb2.SESSION_STATE_CONNECTING,
    session_pb2.SESSION_STATE_CONNECTED,
    session_pb2.SESSION_STATE_DISCONNECTED,
)
"""The worst first."""
_FAILED: Final = 20
"""How many sessions that have FAILED stay on the board."""
_EVENTS: Final = 200
"""How many lines of events are remembered."""
_SHOWN: Final = 8
"""How many of them are shown, where there is room."""
_HEADINGS: Final = ("SESSION", "CLIENT", "GATEWAY", "OWNER", "STATE", "FOR", "NEXT")
_INDENT: Final = "          "


class Board:
    """All sessions of a watch, as they are now.

    Args:
        address: where the broker is.
        wanted: which sessions are watched.
        now: the time when it begins.
    """

    def __init__(self, address: str, wanted: Filter, now: datetime) -> None:
        self._address = address
        self._wanted = wanted
        self._now = now
        self._sessions: dict[str, session_pb2.Session] = {}
        self._anew: dict[str, session_pb2.Session] | None = {}
        self._failed: deque[str] = deque()
        self._story = Story()
        self._events: deque[Text] = deque(maxlen=_EVENTS)
        self._lost: Interrupted | None = None
        self._lost_at = now
        self._is_draining = False

    def take(self, told: Told | None, now: datetime) -> None:
        """Know what is told; None is that time has passed.

        Args:
            told: the next item of the watch.
            now: the time.
        """
        self._now = now
        if told is None:
            return
        if isinstance(told, Interrupted):
            if self._lost is None:
                self._lost_at = now
            self._lost, self._is_draining = told, False
        elif isinstance(told, Resumed):
            self._lost = None
        else:
            self._message(told)
        lines = [line for line in self._story.tell(told, Format.TABLE) if isinstance(line, Text)]
        # Snapshots are the board itself; the story only needs to know of them.
        if isinstance(told, Interrupted | Resumed) or not told.WhichOneof("message").startswith(
            "snapshot"
        ):
            # Causes and hints stand above, with the sessions.
            self._events.extend(line for line in lines if not line.plain.startswith(" "))

    def _message(self, told: pb.WatchSessionsResponse) -> None:
        match told.WhichOneof("message"):
            case "snapshot" if self._anew is not None:
                self._anew[told.snapshot.session_id] = told.snapshot
            case "snapshot_complete" if self._anew is not None:
                self._sessions, self._anew = self._anew, None
            case "event":
                self._keep(told.event.session)
            case "reset":
                self._anew = {}
            case "draining":
                self._is_draining = True

    def _keep(self, session: session_pb2.Session) -> None:
        states = {f"SESSION_STATE_{item}" for item in self._wanted.states}
        left = states and session_pb2.SessionState.Name(session.state) not in states
        is_over = session.state == session_pb2.SESSION_STATE_DISCONNECTED
        if left or (is_over and not self._wanted.include_final):
            self._sessions.pop(session.session_id, None)
            return
        self._sessions[session.session_id] = session
        if session.state == session_pb2.SESSION_STATE_FAILED and not self._wanted.include_final:
            self._failed.append(session.session_id)
            if len(self._failed) > _FAILED:
                self._sessions.pop(self._failed.popleft(), None)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield from map(harmless, self._lines(console, options.max_width, options.height))

    def _lines(self, console: Console, width: int, height: int | None) -> Iterator[Text]:
        height = height or console.height
        events = list(self._events)[-min(_SHOWN, max(height // 3, 1)) :]
        head = [_cut(line, width) for line in self._head()]
        yield from head
        yield from self._rows(console, width, height - len(head) - len(events) - 2)
        if events:
            yield Text("LAST EVENTS", style="bold")
            yield from (_cut(line, width) for line in events)

    def _head(self) -> Iterator[Text]:
        counts = Counter(session.state for session in self._sessions.values())
        states = ", ".join(f"{counts[item]} {name(item)}" for item in _STATES if counts[item])
        yield Text.assemble(
            (f"{self._address}  {self._now.astimezone():%H:%M:%S}  ", "bold"),
            states or "no session",
        )
        if self._lost is not None:
            away = span((self._now - self._lost_at).total_seconds())
            yield Text(
                f"NO BROKER for {away}: what is shown is of {self._lost_at.astimezone():%H:%M:%S}; "
                f"trying again. {self._lost.error.message}",
                style="bold white on red",
            )
        elif self._is_draining:
            yield Text("the broker stops; the watch waits for the next one", style="bold yellow")

    def _rows(self, console: Console, width: int, room: int) -> Iterator[Text]:
        if not self._sessions:
            return
        ordered = sorted(self._sessions.values(), key=_urgency)
        cells = [self._cells(session) for session in ordered]
        # The owner is what a narrow terminal does without, and then the gateway.
        shown = list(range(len(_HEADINGS)))
        for optional in (3, 2):
            if sum(_widths(cells, shown)) + 2 * (len(shown) - 1) > width:
                shown.remove(optional)
        widths = _widths(cells, shown)
        yield _cut(_joined([Text(_HEADINGS[index]) for index in shown], widths, "bold"), width)
        room -= 1
        hints: set[str] = set()
        for place, (session, row) in enumerate(zip(ordered, cells, strict=True)):
            lines = [_cut(_joined([row[index] for index in shown], widths), width)]
            for text in self._why(session, hints):
                wrapped = text.wrap(console, max(width - len(_INDENT), 20))
                lines.extend(Text.assemble(_INDENT, line) for line in wrapped)
            left = len(ordered) - place - 1
            # The last line is for how many there are besides.
            kept = lines[: max(room - (left > 0), 0)]
            yield from kept
            room -= len(kept)
            if left and room <= 1:
                yield Text(f"… and {left} more", style="dim")
                return

    def _cells(self, session: session_pb2.Session) -> list[Text]:
        return [
            Text(session.session_id[:8]),
            Text(str(session.client_id)),
            Text(session.gateway_id),
            Text(session.owner),
            state(session),
            Text(span(self._since(session.state_time))),
            Text(self._next(session)),
        ]

    def _next(self, session: session_pb2.Session) -> str:
        """Which attempt comes when, for a session that has no link."""
        if session.state not in _STATES[1:3]:
            return ""
        number = f"attempt {session.attempt + 1} "
        if not session.HasField("next_attempt_time"):
            if session.state == session_pb2.SESSION_STATE_CONNECTING:
                return f"{number}now"
            return "none is planned"
        wait = -self._since(session.next_attempt_time)
        return f"{number}in {span(wait)}" if wait > 0 else f"{number}now"

    def _why(self, session: session_pb2.Session, hints: set[str]) -> Iterator[Text]:
        """What is wrong with it, and what to do about that, said once on the board."""
        if session.close_reason:
            yield Text(session.close_reason, style="dim")
        elif session.state != session_pb2.SESSION_STATE_CONNECTED:
            failure = session.last_failure
            if failure.reason:
                yield Text(f"{failure.reason}: {failure.message}", style="red")
            if failure.hint and failure.hint not in hints:
                hints.add(failure.hint)
                yield Text(failure.hint)
        for fact in troubled(session):
            yield condition(fact)
            if asks_to_subscribe(fact):
                yield Text(f"gateway-broker sessions acknowledge {session.session_id}")

    def _since(self, time: Timestamp) -> float:
        return self._now.timestamp() - time.ToNanoseconds() / 1e9


def _urgency(session: session_pb2.Session) -> tuple[int, int]:
    """The worst first, and of those the one that has been so for longest."""
    place = 2 * _STATES.index(session.state) if session.state in _STATES else 0
    is_impaired = any(
        fact.status == session_pb2.CONDITION_STATUS_FALSE for fact in session.conditions
    )
    return place + (not is_impaired), session.state_time.ToNanoseconds()


def _widths(cells: Sequence[Sequence[Text]], shown: Sequence[int]) -> list[int]:
    return [max(len(_HEADINGS[index]), *(row[index].cell_len for row in cells)) for index in shown]


def _joined(cells: Sequence[Text], widths: Sequence[int], style: str = "") -> Text:
    line = Text(style=style)
    for cell, width in zip(cells, widths, strict=True):
        line.append_text(cell)
        line.append(" " * (width - cell.cell_len + 2))
    line.rstrip()
    return line


def _cut(line: Text, width: int) -> Text:
    cut = line.copy()
    cut.truncate(width, overflow="ellipsis")
    return cut
