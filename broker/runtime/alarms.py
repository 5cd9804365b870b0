"""Nothing lasts in silence: what takes longer than its budget is told, again and again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from typing import Final

from broker.gateway.maintenance import Calendar
from broker.session import machine
from broker.session.budgets import Budgets, next_alarm
from broker.session.model import ConditionStatus, Session, SessionNotice, SessionState

_HINTS: Final = {
    SessionState.CONNECTING: "It goes on trying. Its last failure says what is in the way.",
    SessionState.RECONNECTING: "It goes on trying by itself. If the Gateway does not come back, an "
    "operator must look whether it runs, and whether it waits for a login or second factor.",
}
_MARGIN: Final = 0.002
"""Seconds that an alarm comes late, so that no clock's grain lets it come twice."""

_CONDITION_HINT: Final = (
    "The session's link lives. If this lasts, an operator must look at the Gateway."
)
_CONDITION_HINTS: Final = {
    machine.DATA_CONTINUOUS: "The session's owner must subscribe anew, and acknowledge that it has "
    "(AcknowledgeData). The Gateway is well.",
    "WRITABLE": "The session can read only. If it is to trade, an operator must untick Read-Only "
    "API in the Gateway's settings.",
    "NO_COMPETING_LOGIN": "Somebody uses the Gateway's login elsewhere, and has the market data: "
    "whoever it is must log out there.",
}


class Alarms:
    """Watches over one session's clock with a single timer.

    Args:
        budgets: what may pass without alarm.
        maintenance: when the loss of a link is expected; such a loss has its budget from the end
            of the window, and an alarm of its own there.
        begin: what was due before is not told: the broker before this one did.
        tell: called with each alarm. What it tells of is an event of the session, so that
            ``follow`` is called again.
    """

    def __init__(
        self,
        budgets: Budgets,
        maintenance: Calendar,
        begin: datetime,
        tell: Callable[[SessionNotice], None],
    ) -> None:
        self._budgets = budgets
        self._maintenance = maintenance
        self._tell = tell
        self._timer: asyncio.TimerHandle | None = None
        self._told_until = begin

    def follow(self, session: Session, now: datetime) -> None:
        """The session is like this now; the next alarm is due accordingly."""
        self.stop()
        if session.state.is_final or session.is_closing:
            return
        # After the last that was told, not after now: another may be due in this very moment.
        alarms = list(self._due(session, self._told_until))
        if alarms:
            first = min(time for time, _ in alarms)
            notices = [notice for time, notice in alarms if time == first]
            pause = max((first - now).total_seconds(), 0.0) + _MARGIN
            self._timer = asyncio.get_running_loop().call_later(
                pause, self._tell_all, first, notices
            )

    def stop(self) -> None:
        """Tell nothing any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tell_all(self, time: datetime, notices: Iterable[SessionNotice]) -> None:
        self._told_until = time
        for notice in notices:
            self._tell(notice)

    def _due(self, session: Session, after: datetime) -> Iterator[tuple[datetime, SessionNotice]]:
        since = session.state_time
        if session.state is SessionState.CONNECTING:
            yield self._overdue_state(session, since, self._budgets.connecting, after)
        elif session.state is SessionState.RECONNECTING:
            end = self._maintenance.until(since)
            if end is not None and end > after:
                yield end, _overrun(since)
            yield self._overdue_state(session, end or since, self._budgets.reconnecting, after)
        for condition in session.conditions:
            if condition.status is ConditionStatus.FALSE:
                name = "/".join(part for part in (condition.type, condition.subject) if part)
                time = next_alarm(condition.transition_time, self._budgets.condition, after)
                lasted = _seconds(condition.transition_time, time)
                yield (
                    time,
                    SessionNotice(
                        reason="OVERDUE",
                        subject=name,
                        message=f"{name} still FALSE after {lasted} s: {condition.message}",
                        hint=_CONDITION_HINTS.get(condition.type, _CONDITION_HINT),
                        since=condition.transition_time,
                    ),
                )

    def _overdue_state(
        self, session: Session, since: datetime, budget: float, after: datetime
    ) -> tuple[datetime, SessionNotice]:
        time = next_alarm(since, budget, after)
        state, failure = session.state, session.last_failure
        why = f": {failure.code.reason}: {failure.message}" if failure is not None else ""
        return time, SessionNotice(
            reason="OVERDUE",
            subject=state.value,
            message=f"still {state.value} after {_seconds(session.state_time, time)} s{why}",
            hint=failure.hint if failure is not None and failure.hint else _HINTS[state],
            since=session.state_time,
        )


def _overrun(since: datetime) -> SessionNotice:
    return SessionNotice(
        reason="MAINTENANCE_OVERRUN",
        subject=SessionState.RECONNECTING.value,
        message="the maintenance window has ended, and the session is not back",
        hint=_HINTS[SessionState.RECONNECTING],
        since=since,
    )


def _seconds(since: datetime, time: datetime) -> int:
    return round((time - since).total_seconds())
