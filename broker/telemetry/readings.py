"""What is read of the running broker when somebody scrapes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from broker.events.hub import Hub
from broker.events.log import EventLog
from broker.gateway.breaker import BreakerState
from broker.gateway.conditions import CONDITION_TYPES
from broker.gateway.endpoint import Endpoint
from broker.runtime.manager import SessionManager
from broker.session.model import ConditionStatus, Session, SessionState
from broker.telemetry import metric_table as table
from broker.telemetry.metric_table import Metric

Reading = tuple[float, tuple[str, ...]]
"""A value, and those of the labels in the order of the metric's."""

_STATES: Final = (SessionState.CONNECTING, SessionState.CONNECTED, SessionState.RECONNECTING)
_BREAKER: Final = {BreakerState.CLOSED: 0, BreakerState.OPEN: 1, BreakerState.HALF_OPEN: 2}


@dataclass(frozen=True, slots=True)
class Readings:
    """Reads the gauges.

    Args:
        manager: the sessions and gateways.
        hub: what watchers see.
        log: what waits for the record.
        holds_lock: whether the database is ours.
        now: the time, in UTC.
    """

    manager: SessionManager
    hub: Hub
    log: EventLog
    holds_lock: Callable[[], bool]
    now: Callable[[], datetime]

    def readers(self) -> Mapping[Metric, Callable[[], Iterable[Reading]]]:
        """How each is read."""
        gateways, hub, log = self.manager.gateways, self.hub, self.log
        return {
            table.ACTIVE_CONNECTIONS: self._active,
            table.CIRCUIT_BREAKER_STATE: lambda: self._each(lambda it: _BREAKER[it.breaker.state]),
            table.SESSIONS: self._sessions,
            table.SESSION_STATE_AGE: self._ages,
            table.CONDITIONS_FALSE: self._conditions,
            table.SEATS_USED: self._seats,
            table.SEATS_LIMIT: lambda: self._each(lambda it: it.settings.session_limit),
            table.CLIENT_IDS_HELD: lambda: (
                (len(gateways.client_ids(name).holders), (name,)) for name in gateways.endpoints
            ),
            table.CLIENT_IDS_QUARANTINED: lambda: (
                (len(gateways.client_ids(name).quarantined), (name,)) for name in gateways.endpoints
            ),
            table.GATEWAY_REACHABLE: lambda: self._each(lambda it: bool(it.reachable)),
            table.GATEWAY_DRAINED: lambda: self._each(lambda it: it.drain is not None),
            table.EVENTS_UNRECORDED: lambda: [(log.depth, ())],
            table.STORE_AVAILABLE: lambda: [(int(log.available and self.holds_lock()), ())],
            table.REVISION: lambda: [(hub.revision, ())],
            table.OLDEST_REVISION: lambda: [(hub.oldest, ())],
            table.WATCHERS: lambda: [(hub.watchers, ())],
            table.WATCHER_LAG: lambda: [(hub.lag, ())],
            table.QUEUE_DEPTH: lambda: [
                (log.depth, ("journal",)),
                (gateways.unwritten, ("quarantine",)),
                (sum(it.waiting for it in gateways.endpoints.values()), ("dials",)),
            ],
        }

    def _each(self, read: Callable[[Endpoint], float]) -> Iterator[Reading]:
        for name, endpoint in self.manager.gateways.endpoints.items():
            yield int(read(endpoint)), (name,)

    def _open(self) -> Iterator[Session]:
        for supervisor in self.manager.supervisors.values():
            if not supervisor.session.state.is_final:
                yield supervisor.session

    def _active(self) -> Iterator[Reading]:
        found = Counter(
            session.spec.gateway_id
            for session in self._open()
            if session.state is SessionState.CONNECTED
        )
        return self._each(lambda it: found[it.settings.gateway_id])

    def _seats(self) -> Iterator[Reading]:
        found = Counter(it.session.spec.gateway_id for it in self.manager.supervisors.values())
        return self._each(lambda it: found[it.settings.gateway_id])

    def _sessions(self) -> Iterator[Reading]:
        found = Counter((session.spec.gateway_id, session.state) for session in self._open())
        for name in self.manager.gateways.endpoints:
            for state in _STATES:
                yield found[name, state], (name, state.value)

    def _ages(self) -> Iterator[Reading]:
        since: dict[tuple[str, SessionState], datetime] = {}
        now = self.now()
        for session in self._open():
            key = (session.spec.gateway_id, session.state)
            since[key] = min(since.get(key, now), session.state_time)
        for name in self.manager.gateways.endpoints:
            for state in _STATES:
                age = now - since.get((name, state), now)
                yield max(age.total_seconds(), 0.0), (name, state.value)

    def _conditions(self) -> Iterator[Reading]:
        found = Counter(
            key
            for session in self._open()
            for key in {
                (session.spec.gateway_id, condition.type)
                for condition in session.conditions
                if condition.status is ConditionStatus.FALSE
            }
        )
        for name in self.manager.gateways.endpoints:
            for kind in CONDITION_TYPES:
                yield found[name, kind], (name, kind)
