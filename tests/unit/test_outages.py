"""Hours without a Gateway, in virtual time: endpoint, supervisors and log as in the broker."""

from __future__ import annotations

import asyncio
import itertools
import random
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any, cast

import pytest

from broker.events.archive import Archive
from broker.events.hub import Hub
from broker.events.log import EventLog
from broker.gateway.breaker import BreakerState
from broker.gateway.endpoint import Endpoint, GatewaySettings
from broker.gateway.maintenance import Calendar
from broker.runtime.supervisor import Ports, Supervisor
from broker.session import machine
from broker.session.backoff import Backoff
from broker.session.client_ids import ClientIds, Pool
from broker.session.drain import Drain
from broker.session.model import (
    Attempt,
    ClientIdPolicy,
    CloseReason,
    Session,
    SessionEvent,
    SessionNotice,
    SessionSpec,
    SessionState,
    Transition,
)
from broker.store.base import Store
from tests.memory_store import MemoryStore
from tests.scripted_gateway import Mood, ScriptedGateway
from tests.virtual_time import BEGIN, now, run, until

HOUR = 3600.0


class Witness(Hub):
    """Remembers what it has made visible."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.events: list[SessionEvent] = []

    def publish(self, events: Sequence[SessionEvent]) -> None:
        super().publish(events)
        self.events += events


class World:
    """A Gateway, what the broker has of it, and the events that watchers would have seen."""

    def __init__(self, tasks: asyncio.TaskGroup, seed: int | None, **changes: Any) -> None:
        source = random.Random(seed)
        chance = source.random if seed is not None else (lambda: 0.5)
        self.gateway = ScriptedGateway()
        self.store = MemoryStore()
        self.hub = Witness(Archive(cast("Store", self.store)), memory=16, lag=1000)
        self.log = EventLog(cast("Store", self.store), self.hub, grace=0.25)
        settings = GatewaySettings("default", "127.0.0.1", 4002, **changes)
        self.endpoint = Endpoint(settings, self.gateway, now=now, random=chance)
        self.ids = ClientIds("default", Pool())
        self.ports = Ports(log=self.log, now=now, random=chance, new_id=uuid.uuid4)
        self.supervisors: dict[int, Supervisor] = {}
        self.tasks = tasks
        self.endpoint.tell = self._tell

    @property
    def events(self) -> list[SessionEvent]:
        """All that watchers would have seen."""
        return self.hub.events

    def prepare(self, client_id: int, **changes: Any) -> Supervisor:
        values: dict[str, Any] = {
            "session_id": uuid.uuid4(),
            "gateway_id": "default",
            "host": "127.0.0.1",
            "port": 4002,
            "owner": "alice",
            "requested_client_id": client_id,
            "client_id_policy": ClientIdPolicy.EXACT,
            "readonly": False,
            "timeout": 30.0,
            "max_attempts": 7,
            "reconnect_max_attempts": None,
            "return_immediately": True,
        }
        spec = SessionSpec(**(values | changes))
        opening = machine.open_session(
            spec, client_id, now=now(), correlation_id=self.ports.new_id()
        )
        supervisor = Supervisor(opening, self.endpoint, self.ids, self.ports)
        self.ids.take(client_id, spec.session_id)
        self.supervisors[client_id] = supervisor
        return supervisor

    def take_up(self, session: Session) -> Supervisor:
        """As a broker does that finds the session in the record."""
        step = machine.Step(session, ())
        supervisor = Supervisor(step, self.endpoint, self.ids, self.ports, taken_up=True)
        self.ids.take(session.client_id, session.spec.session_id)
        self.supervisors[session.client_id] = supervisor
        self.tasks.create_task(supervisor.run(), name=f"session {session.client_id}")
        return supervisor

    def open(self, client_id: int, **changes: Any) -> Supervisor:
        supervisor = self.prepare(client_id, **changes)
        self.tasks.create_task(supervisor.run(), name=f"session {client_id}")
        return supervisor

    async def connected(self, client_id: int, **changes: Any) -> Supervisor:
        supervisor = self.open(client_id, **changes)
        await until(lambda: supervisor.session.state is machine.CONNECTED, 60)
        return supervisor

    def all_in(self, state: SessionState) -> bool:
        return all(each.session.state is state for each in self.supervisors.values())

    def attempts(self) -> list[SessionEvent]:
        return [event for event in self.events if isinstance(event.change, Attempt)]

    def notices(self, reason: str) -> list[tuple[float, SessionNotice]]:
        return [
            ((event.time - BEGIN).total_seconds(), event.change)
            for event in self.events
            if isinstance(event.change, SessionNotice) and event.change.reason == reason
        ]

    def moves(self, client_id: int) -> list[tuple[SessionState, str]]:
        session_id = self.supervisors[client_id].session.spec.session_id
        return [
            (event.change.target, event.change.reason)
            for event in self.events
            if event.session_id == session_id and isinstance(event.change, Transition)
        ]

    def _tell(self, notice: SessionNotice) -> None:
        for supervisor in self.supervisors.values():
            supervisor.tell(notice)


@asynccontextmanager
async def world(seed: int | None = None, **changes: Any) -> AsyncIterator[World]:
    async with asyncio.TaskGroup() as tasks:
        made = World(tasks, seed, **changes)
        writer = tasks.create_task(made.log.run(), name="event-log")
        yield made
        for supervisor in made.supervisors.values():
            supervisor.request_end(CloseReason.CLOSE_REQUESTED, "test")
        for supervisor in made.supervisors.values():
            await supervisor.released
        made.endpoint.stop()
        writer.cancel()
    assert made.gateway.most <= 1, "one handshake at a time"
    assert not made.gateway.links, "no link is left"
    assert not made.ids.holders, "no client id is left"


def time() -> float:
    return asyncio.get_running_loop().time()


def gaps(times: Sequence[float]) -> list[float]:
    return [round(later - earlier, 1) for earlier, later in itertools.pairwise(times)]


@pytest.mark.parametrize("seed", [None, 1, 2, 3])
def test_a_gateway_that_is_away_for_an_hour_costs_no_session(seed: int | None) -> None:
    async def main() -> None:
        async with world(seed) as made:
            for client_id in range(1, 11):
                made.open(client_id)
            await until(lambda: made.all_in(machine.CONNECTED), 60)
            await asyncio.sleep(120)
            before = len(made.gateway.dials)
            made.gateway.leave()
            await asyncio.sleep(HOUR)
            assert made.all_in(machine.RECONNECTING)
            dials = len(made.gateway.dials) - before
            # 1 + 2 + 4 + 8 + 16 s, and then one each 32 s, for all ten together.
            assert 100 <= dials <= 130, dials
            made.gateway.mood = Mood.WELL
            wait = made.endpoint.retry_in
            assert wait is not None
            assert wait <= 32 * 1.2
            took = await until(lambda: made.all_in(machine.CONNECTED))
            assert took <= wait + 2
            assert [each.session.generation for each in made.supervisors.values()] == [2] * 10
            assert sorted(made.gateway.links) == list(range(1, 11))
            waiting = [e for e in made.events if e.session.state is machine.RECONNECTING]
            for event in waiting:
                assert event.session.next_attempt_time is not None
                if isinstance(event.change, Attempt):
                    assert event.change.next_attempt_time is not None
                    assert event.change.next_attempt_time > event.time
            # Each dial that failed was an attempt of every session.
            assert len(made.attempts()) == 10 * dials
            assert not made.notices("MAINTENANCE_OVERRUN")

    run(main())


def test_a_session_is_told_of_at_one_two_four_and_eight_budgets() -> None:
    async def main() -> None:
        async with world() as made:
            await made.connected(1)
            await asyncio.sleep(100 - time())
            made.gateway.leave()
            await asyncio.sleep(HOUR)
            told = made.notices("OVERDUE")
            assert [round(when - 100) for when, _ in told] == [300, 600, 1200, 2400]
            assert {notice.subject for _, notice in told} == {"RECONNECTING"}
            assert all("IB_CONN_001" in notice.message for _, notice in told)

    run(main())


def test_what_happens_in_a_maintenance_window_is_no_alarm_until_its_end() -> None:
    async def main() -> None:
        # It is 03:04:05.
        async with world(maintenance=Calendar.of(["03:00-04:00 UTC"])) as made:
            for client_id in (1, 2):
                await made.connected(client_id)
            made.gateway.leave()
            end = 55 * 60 + 55
            await asyncio.sleep(end - 1 - time())
            assert made.endpoint.breaker.state is BreakerState.CLOSED
            assert not made.notices("OVERDUE")
            assert not made.notices("MAINTENANCE_OVERRUN")
            failure = made.supervisors[1].session.last_failure
            assert failure is not None
            assert "in maintenance until Tue 04:00 UTC" in failure.hint
            await asyncio.sleep(end + 301 - time())
            told = [round(when) for when, _ in made.notices("MAINTENANCE_OVERRUN")]
            assert told == [end, end]
            told = [round(when) for when, _ in made.notices("OVERDUE")]
            assert told == [end + 300, end + 300]
            assert made.endpoint.breaker.state is not BreakerState.CLOSED

    run(main())


def test_a_gateway_that_returns_in_its_window_is_no_news() -> None:
    async def main() -> None:
        async with world(maintenance=Calendar.of(["03:00-04:00 UTC"])) as made:
            await made.connected(1)
            made.gateway.leave()
            await asyncio.sleep(1800)
            made.gateway.mood = Mood.WELL
            await asyncio.sleep(HOUR)
            assert made.all_in(machine.CONNECTED)
            assert not made.notices("MAINTENANCE_OVERRUN")
            assert not made.notices("CIRCUIT_OPEN")

    run(main())


@pytest.mark.parametrize("idle", [0.0, 3.0, 9.99, 10.0, 14.0, 25.0])
def test_a_mute_link_is_noticed_within_interval_and_timeout(idle: float) -> None:
    async def main() -> None:
        async with world() as made:
            supervisor = await made.connected(1)
            await asyncio.sleep(idle)
            made.gateway.muted = True
            took = await until(lambda: supervisor.session.state is machine.RECONNECTING, 60)
            assert took <= 15.1
            assert made.moves(1)[-1] == (machine.RECONNECTING, "HEARTBEAT_UNANSWERED")
            made.gateway.muted = False
            await until(lambda: supervisor.session.state is machine.CONNECTED, 60)

    run(main())


def test_a_link_that_lives_is_asked_once_in_an_interval_and_no_more() -> None:
    async def main() -> None:
        async with world() as made:
            supervisor = await made.connected(1)
            await asyncio.sleep(HOUR)
            assert made.all_in(machine.CONNECTED)
            assert supervisor.vitals.heartbeat_latency is not None
            assert len(made.events) == 2

    run(main())


def test_the_ladder_is_left_after_a_minute_that_a_link_held_and_not_before() -> None:
    async def main() -> None:
        async with world() as made:
            supervisor = await made.connected(1)

            async def lose(after: float) -> float:
                up = time()
                await asyncio.sleep(after)
                made.gateway.drop()
                await until(lambda: supervisor.session.generation > generation, 120)
                return time() - up - after

            waits = []
            for after in (59, 59, 59, 59, 61, 59):
                generation = supervisor.session.generation
                waits.append(round(await lose(after)))
            assert waits == [1, 2, 4, 8, 0, 1]

    run(main())


def test_a_disclaimer_is_asked_for_each_minute_for_as_long_as_it_takes() -> None:
    async def main() -> None:
        async with world() as made:
            supervisor = await made.connected(1)
            await asyncio.sleep(100)
            made.gateway.drop()
            made.gateway.mood = Mood.DISCLAIMER
            before = len(made.gateway.dials)
            await asyncio.sleep(HOUR)
            assert made.all_in(machine.RECONNECTING)
            waits = gaps([dialled.time for dialled in made.gateway.dials[before:]])
            assert waits[:5] == [1, 2, 4, 8, 16]
            assert set(waits[5:]) == {60}
            assert made.endpoint.breaker.state is BreakerState.CLOSED
            made.gateway.mood = Mood.WELL
            took = await until(lambda: supervisor.session.state is machine.CONNECTED)
            assert took <= 61

    run(main())


def test_a_disclaimer_ends_an_open_once_the_grace_is_over() -> None:
    async def main() -> None:
        async with world() as made:
            made.gateway.mood = Mood.DISCLAIMER
            supervisor = made.open(1, max_attempts=99)
            took = await until(lambda: supervisor.session.state is machine.FAILED)
            assert 30 <= took <= 33
            assert supervisor.session.last_failure is not None
            assert supervisor.session.last_failure.code.reason == "IB_CONN_005"

    run(main())


# -- crashes ---------------------------------------------------------------------------


def test_the_third_crash_in_a_row_ends_an_open() -> None:
    async def main() -> None:
        async with world() as made:
            made.gateway.mood = Mood.BUG
            supervisor = made.open(1)
            await until(lambda: supervisor.session.state is machine.FAILED, 60)
            assert len(made.gateway.dials) == 3
            assert [event.session.attempt for event in made.attempts()] == [1, 2]
            assert made.moves(1)[-1] == (machine.FAILED, "BROKER_ERROR")
            final = await supervisor.ended
            assert final.last_failure is not None
            assert final.last_failure.code.reason == "IB_CONN_001"

    run(main())


def test_a_crash_between_others_is_not_the_third_in_a_row() -> None:
    async def main() -> None:
        async with world() as made:
            supervisor = made.open(1, max_attempts=99)
            for _ in range(5):
                made.gateway.mood = Mood.BUG
                count = len(made.gateway.dials)
                await until(lambda: len(made.gateway.dials) >= count + 2)  # noqa: B023
                made.gateway.mood = Mood.IN_USE
                count = len(made.gateway.dials)
                await until(lambda: len(made.gateway.dials) > count)  # noqa: B023
            assert supervisor.session.state is machine.CONNECTING
            made.gateway.mood = Mood.WELL
            await until(lambda: supervisor.session.state is machine.CONNECTED)

    run(main())


def test_three_crashes_that_began_with_a_link_end_the_session_too() -> None:
    async def main() -> None:
        async with world() as made:
            supervisor = await made.connected(1)
            made.gateway.mood = Mood.BUG
            made.gateway.links[1].crash()
            await until(lambda: supervisor.session.state is machine.FAILED, 60)
            assert len(made.gateway.dials) == 3

    run(main())


# -- ends, drain, and what comes before the first event --------------------------------


@pytest.mark.parametrize("mood", list(Mood))
@pytest.mark.parametrize("moment", [0.0, 0.001, 0.02, 0.5, 3.0])
def test_a_session_that_waits_or_dials_ends_at_once_when_asked(mood: Mood, moment: float) -> None:
    async def main() -> None:
        async with world() as made:
            supervisor = await made.connected(1)
            made.gateway.leave()
            made.gateway.mood = mood
            await asyncio.sleep(moment)
            if supervisor.session.state is machine.FAILED:
                return
            supervisor.request_end(CloseReason.CLOSE_REQUESTED, "alice")
            took = await until(supervisor.ended.done, 10)
            assert took <= 0.1
            assert supervisor.session.state is machine.DISCONNECTED

    run(main())


def test_a_drained_gateway_is_not_dialled_for_lost_sessions_until_it_is_resumed() -> None:
    async def main() -> None:
        async with world() as made:
            for client_id in (1, 2, 3):
                await made.connected(client_id)
            made.endpoint.set_drain(Drain("bob", "update", now()))
            before = len(made.gateway.dials)
            made.gateway.drop()
            await asyncio.sleep(HOUR)
            assert len(made.gateway.dials) == before
            assert made.all_in(machine.RECONNECTING)
            assert all(each.session.next_attempt_time is None for each in made.supervisors.values())
            made.endpoint.set_drain(None)
            took = await until(lambda: made.all_in(machine.CONNECTED), 60)
            assert took <= 2

    run(main())


def test_a_folded_log_is_the_session_after_a_day_of_trouble() -> None:
    async def main() -> None:
        chance = random.Random(7)
        async with world(7) as made:
            for client_id in range(1, 6):
                made.open(client_id, max_attempts=99)
            moods = [*Mood]
            moods.remove(Mood.BUG)
            for _ in range(200):
                made.gateway.mood = chance.choice([Mood.WELL, *moods])
                made.gateway.muted = chance.random() < 0.1
                if chance.random() < 0.5:
                    made.gateway.drop()
                made.gateway.notify(chance.choice([1100, 1101, 1102, 2110]), "told")
                await asyncio.sleep(chance.uniform(0, 900))
            made.gateway.mood, made.gateway.muted = Mood.WELL, False
            await until(
                lambda: all(
                    each.session.state in (machine.CONNECTED, machine.FAILED)
                    for each in made.supervisors.values()
                ),
                200,
            )
            folded: dict[uuid.UUID, Session] = {}
            for event in made.events:
                folded[event.session_id] = machine.fold(folded.get(event.session_id), event)
                assert event.time <= now() + timedelta(microseconds=1)
            for supervisor in made.supervisors.values():
                session = folded[supervisor.session.spec.session_id]
                assert (session.state, session.sequence) == (
                    supervisor.session.state,
                    supervisor.session.sequence,
                )

    run(main())


def test_backoff_can_be_configured_for_the_ladder_of_all() -> None:
    async def main() -> None:
        async with world(backoff=Backoff(5.0, 20.0, 0.0)) as made:
            await made.connected(1)
            await asyncio.sleep(100)
            made.gateway.leave()
            before = len(made.gateway.dials)
            await asyncio.sleep(100)
            waits = gaps([dialled.time for dialled in made.gateway.dials[before:]])
            assert waits == [5, 10, 20, 20, 20, 20]

    run(main())


@pytest.mark.parametrize("mood", [Mood.SILENT, Mood.REFUSES])
def test_a_session_that_cannot_connect_is_told_of_too(mood: Mood) -> None:
    """Even while its first dial goes on, of which no event tells."""

    async def main() -> None:
        async with world() as made:
            made.gateway.mood = mood
            made.open(1, timeout=500.0, max_attempts=99)
            await asyncio.sleep(490)
            assert [round(when) for when, _ in made.notices("OVERDUE")] == [60, 120, 240, 480]

    run(main())


def test_all_farms_that_break_at_once_are_told_of() -> None:
    async def main() -> None:
        async with world() as made:
            await made.connected(1)
            begin = time()
            for farm in ("usfarm", "eufarm", "jfarm"):
                made.gateway.notify(2103, f"Market data farm connection is broken:{farm}")
            await asyncio.sleep(650)
            told = [
                (round(when - begin), notice.subject) for when, notice in made.notices("OVERDUE")
            ]
            farms = [f"MARKET_DATA_FARM/{name}" for name in ("eufarm", "jfarm", "usfarm")]
            assert sorted(told) == [(at, farm) for at in (300, 600) for farm in farms]

    run(main())


def test_an_alarm_is_not_lost_to_an_event_of_the_same_moment() -> None:
    """It comes a little late, so that no clock's grain lets it come twice: in this little
    time another event must not make it be forgotten.
    """

    async def main() -> None:
        async with world() as made:
            supervisor = await made.connected(1)
            made.gateway.leave()
            begin = time()
            notice = SessionNotice("SOMETHING", "gateway", "happens", "", now())
            asyncio.get_running_loop().call_at(begin + 300.001, supervisor.tell, notice)
            await asyncio.sleep(400)
            assert [round(when - begin) for when, _ in made.notices("OVERDUE")] == [300]

    run(main())


@pytest.mark.parametrize("interval", [0.1, 0.5, 1.0])
def test_an_interval_below_what_a_gateway_answers_does_not_stop_the_broker(
    interval: float,
) -> None:
    """A Gateway answers once a second: meanwhile its last answer stands, and nobody spins."""

    async def main() -> None:
        async with world(heartbeat_interval=interval) as made:
            await made.connected(1)
            await asyncio.sleep(60)
            assert made.all_in(machine.CONNECTED)
            assert len(made.events) == 2

    run(main())


def test_a_short_silence_is_followed_by_the_wait_that_it_announces() -> None:
    """It proves nothing about the Gateway, but it is no reason to dial without a pause."""

    async def main() -> None:
        async with world() as made:
            made.gateway.mood = Mood.SILENT
            made.open(1, timeout=1.0)
            await until(lambda: made.all_in(machine.FAILED))
            waits = gaps([dialled.time for dialled in made.gateway.dials])
            assert waits == [1 + wait for wait in (1, 2, 4, 8, 16, 32)]
            for event in made.attempts():
                assert isinstance(event.change, Attempt)
                assert event.change.next_attempt_time is not None
                assert event.change.next_attempt_time > event.time

    run(main())


def test_a_crash_over_a_live_link_costs_the_link_and_not_the_session() -> None:
    async def main() -> None:
        async with world() as made:
            supervisor = await made.connected(1)
            outage = made.events[-1].correlation_id
            made.gateway.links[1].crash()
            await until(lambda: supervisor.session.state is machine.RECONNECTING, 1)
            assert made.moves(1)[-1] == (machine.RECONNECTING, "BROKER_ERROR")
            assert supervisor.session.next_attempt_time is not None
            await until(lambda: not made.gateway.links, 1)
            assert made.events[-1].correlation_id != outage, "each lost link starts a new one"
            await until(lambda: supervisor.session.state is machine.CONNECTED, 60)
            assert supervisor.session.generation == 2

    run(main())


def test_news_of_the_gateway_does_not_come_before_the_opening() -> None:
    # A circuit can open in the very turn in which a session begins.
    async def main() -> None:
        async with world() as made:
            supervisor = made.prepare(1)
            supervisor.tell(SessionNotice("CIRCUIT_OPEN", "default", "open", "", now()))
            made.tasks.create_task(supervisor.run(), name="session 1")
            await until(lambda: supervisor.session.state is machine.CONNECTED, 10)
            assert [event.sequence for event in made.events] == list(range(1, len(made.events) + 1))

    run(main())
