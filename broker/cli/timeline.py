"""The record of one session, told as a timeline with durations."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from ibgateway.broker.v1 import session_event_pb2, session_pb2
from rich.text import Text

from broker.cli.output import clock, moment, span
from broker.cli.story import Story, name

_GAP = 9


class Timeline(Story):
    """Tells the events of one session in their order, and then what it has come to.

    Beside each event stands how long after the one before it was.
    """

    _indent = " " * (12 + 2 + _GAP + 2)

    def __init__(self) -> None:
        super().__init__()
        self._day = ""
        self._last: int | None = None
        self._state = session_pb2.SESSION_STATE_UNSPECIFIED
        self._entered = 0
        # In nanoseconds: bounded by the number of states.
        self._spent: dict[session_pb2.SessionState, list[int]] = {}

    def recall(self, event: session_event_pb2.SessionEvent) -> Iterator[Text]:
        """The lines of the next event."""
        if self._last is None and event.sequence > 1:
            yield Text(f"-- the first {event.sequence - 1} events are no longer kept --", "yellow")
        day = moment(event.time)[:10]
        if day != self._day:
            self._day = day
            yield Text(f"-- {day} --", style="dim")
        yield from self._event(event)
        self._last = event.time.ToNanoseconds()
        if event.session.state != self._state:
            self._leave(self._last)
            self._state = event.session.state
            self._entered = event.session.state_time.ToNanoseconds()

    def summary(self, session: session_pb2.Session, now: datetime) -> Iterator[Text]:
        """How long the session has been in which state, as far as was recalled.

        Args:
            session: as it is now.
            now: the time.
        """
        if self._last is None:
            yield Text("nothing of it is on record any more", style="yellow")
            return
        is_over = session.HasField("disconnect_time")
        end = self._last if is_over else max(int(now.timestamp() * 1e9), self._last)
        if not is_over:
            self._leave(end)
        total = sum(map(sum, self._spent.values()))
        for state, times in sorted(self._spent.items(), key=lambda item: -sum(item[1])):
            often = (
                f" ({len(times)} times, the longest {span(max(times) / 1e9)})"
                if len(times) > 1
                else ""
            )
            share = f"{sum(times) / total:.1%}" if total else ""
            yield Text(f"{name(state):<13} {share:>6}  {span(sum(times) / 1e9)}{often}")
        if is_over:
            why = session.close_reason or session.last_failure.reason
            yield Text(f"It is over: {name(session.state)}, {why}, at {moment(session.state_time)}")
        else:
            since = (end - session.state_time.ToNanoseconds()) / 1e9
            yield Text(
                f"It is {name(session.state)}, since {moment(session.state_time)} ({span(since)})"
            )

    def _leave(self, now: int) -> None:
        if self._state:
            self._spent.setdefault(self._state, []).append(max(now - self._entered, 0))

    def _head(self, event: session_event_pb2.SessionEvent) -> str:
        before = self._last if self._last is not None else event.time.ToNanoseconds()
        gap = (event.time.ToNanoseconds() - before) / 1e9
        return f"{clock(event.time)}  {f'+{span(gap)}' if gap > 0 else '':>{_GAP}}  "
