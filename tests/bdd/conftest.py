"""The steps of the features: a broker in this process, the simulated Gateway, real PostgreSQL.

pytest-bdd's steps are plain functions, so that each runs the scenario's event loop for as long as
it takes. What lives on that loop longer than a step has a task of its own.
"""

from __future__ import annotations

import asyncio
import gc
import time
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import grpc.aio
import pytest
from ibgateway.broker.v1 import gateway_pb2, gateway_service_pb2, session_event_pb2, session_pb2
from ibgateway.broker.v1.session_service_pb2 import CLIENT_ID_POLICY_EXACT as EXACT
from pytest_bdd import given, parsers, then, when

from broker.simulator.faults import Fault
from broker.simulator.gateway import SimulatedGateway, SimulatorSettings
from broker.simulator.raw_client import RawClient
from broker.simulator.restart import Restart
from broker.simulator.storm import Storm
from tests.harness import (
    CONNECTED,
    FAILED,
    RECONNECTING,
    Client,
    Refusal,
    eventually,
    refusal,
    serving,
)
from tests.integration.test_watch import Watch

LIMIT = 20.0
"""Seconds that anything may take on a machine that has much else to do."""

QUICK: dict[str, Any] = {
    "heartbeat_interval": 1.2,
    "heartbeat_timeout": 0.3,
    "circuit_breaker_timeout": 1.0,
}

T = TypeVar("T")
Event = session_event_pb2.SessionEvent


@dataclass
class Story:
    """One scenario: its loop, what stands on it, and what has happened so far."""

    runner: asyncio.Runner
    database_url: str
    leave: list[tuple[asyncio.Event, asyncio.Task[None]]] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    sessions: list[session_pb2.Session] = field(default_factory=list)
    simulator: SimulatedGateway = field(init=False)
    client: Client = field(init=False)
    watch: Watch = field(init=False)
    program: RawClient = field(init=False)
    refused: Refusal | None = None
    took: float = 0.0
    dials: int = 0

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Let the loop run until the work is done."""
        return self.runner.run(work)

    def hold(self, context: AbstractAsyncContextManager[T]) -> T:
        """Enter a context, to be left at the end of the scenario by the task that entered it."""
        return self.run(self._hold(context))

    async def _hold(self, context: AbstractAsyncContextManager[T]) -> T:
        entered: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        leave = asyncio.Event()

        async def stay() -> None:
            try:
                async with context as value:
                    entered.set_result(value)
                    await leave.wait()
            except BaseException as error:
                if entered.done():
                    raise
                entered.set_exception(error)

        self.leave.append((leave, asyncio.create_task(stay(), name=type(context).__name__)))
        return await entered

    def end(self) -> None:
        """Leave all contexts, the last one first."""
        for leave, task in reversed(self.leave):
            leave.set()
            self.run(asyncio.wait_for(task, LIMIT))
        # gRPC's server says good-bye to its loop when it is forgotten, so before the loop ends.
        vars(self).pop("client", None)
        vars(self).pop("watch", None)
        gc.collect()
        self.run(asyncio.sleep(0))

    def look(self, check: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        """Wait until a check gives something true."""
        return self.run(eventually(check, LIMIT))

    def told(self, wanted: Callable[[Event], Any], count: int = 1) -> list[Event]:
        """Wait until the watcher has been told so many events of some kind; all of that kind."""

        async def listen() -> list[Event]:
            while len(found := [event for event in self.events if wanted(event)]) < count:
                message = await anext(self.watch.messages)
                if message.WhichOneof("message") == "event":
                    self.events.append(message.event)
            return found

        return self.run(asyncio.wait_for(listen(), LIMIT))

    @property
    def session(self) -> session_pb2.Session:
        """The latest session, as it was when it was opened."""
        return self.sessions[-1]

    async def gateway(self) -> gateway_pb2.Gateway:
        """The gateway as the broker shows it."""
        answer = await self.client.gateways.GetGateway(gateway_service_pb2.GetGatewayRequest())
        gateway: gateway_pb2.Gateway = answer.gateway
        return gateway


@pytest.fixture
def story(database_url: str) -> Iterator[Story]:
    """A scenario's loop; at its end nothing of the scenario is left."""
    with asyncio.Runner() as runner:
        scenario = Story(runner, database_url)
        try:
            yield scenario
        finally:
            scenario.end()


def state(event: Event) -> str:
    """The state that a transition leads to; "" for another event."""
    if not event.HasField("transition"):
        return ""
    return session_pb2.SessionState.Name(event.transition.to).removeprefix("SESSION_STATE_")


def opening(story: Story, **fields: Any) -> None:
    """Open a session, and note what came of it."""

    async def attempt() -> None:
        story.refused = None
        begin = time.monotonic()
        try:
            story.sessions.append(await story.client.open(**fields))
        except grpc.aio.AioRpcError as error:
            story.refused = refusal(error)
        story.took = time.monotonic() - begin

    story.run(attempt())


# -- the stage -------------------------------------------------------------------


@given("a Gateway")
def _(story: Story) -> None:
    story.simulator = story.hold(SimulatedGateway(SimulatorSettings(hold_after_reset=0.0)))


@given("a broker in front of it")
def _(story: Story, monkeypatch: pytest.MonkeyPatch) -> None:
    # A minute between two dials of a Gateway that waits for a human is too long for a test.
    monkeypatch.setattr("broker.runtime.ladder.HUMAN_PAUSE", 0.5)
    story.client = story.hold(serving(story.simulator, story.database_url, gateway_changes=QUICK))


@given("somebody who watches")
def somebody_watches(story: Story) -> None:
    async def begin() -> Watch:
        watch = Watch(story.client)
        await watch.snapshot()
        return watch

    story.watch = story.run(begin())


@given(parsers.re(r"(?:a session that is|(?P<count>\d+) sessions that are) connected, and .*"))
def _(story: Story, count: str | None) -> None:
    for _number in range(int(count or 1)):
        opening(story)
        assert story.refused is None
    somebody_watches(story)


@given("another program is connected as client 7")
def _(story: Story) -> None:
    story.program = story.hold(RawClient(story.simulator.host, story.simulator.port))
    story.run(story.program.ready(7))


@given("the Gateway waits for somebody to accept the paper trading disclaimer")
def _(story: Story) -> None:
    story.simulator.arm(Fault.PAPER_DISCLAIMER)


@given("the Gateway speaks a version that is too old")
def _(story: Story) -> None:
    story.simulator.arm(Fault.OLD_SERVER_VERSION)


@given("the Gateway accepts connections and says nothing")
def _(story: Story) -> None:
    story.simulator.arm(Fault.SILENT_AFTER_ACCEPT)


@given("nothing listens on the Gateway's port")
def _(story: Story) -> None:
    story.run(story.simulator.stop_listening())


# -- opening ---------------------------------------------------------------------


@when("a service opens a session")
def _(story: Story) -> None:
    story.dials = story.simulator.statistics.accepts
    opening(story)


@when("a service opens a session as client 7")
def _(story: Story) -> None:
    opening(story, client_id=7)


@when("a service opens a session as client 7 and no other")
def _(story: Story) -> None:
    opening(story, client_id=7, client_id_policy=EXACT, max_attempts=2)


@when("a service opens a session and allows 0.3 seconds for an attempt, and one attempt")
def _(story: Story) -> None:
    opening(story, timeout={"nanos": 300_000_000}, max_attempts=1)


@when(parsers.parse("a service opens a session and allows {count:d} attempts"))
def _(story: Story, count: int) -> None:
    opening(story, max_attempts=count)


@then("the session is connected")
def _(story: Story) -> None:
    assert story.refused is None
    assert story.session.state == CONNECTED


@then("it has an identity, a client id and an account")
def _(story: Story) -> None:
    assert uuid.UUID(story.session.session_id).version == 4
    assert story.session.client_id
    assert list(story.session.accounts) == ["DU1234567"]


@then("it has client id 8, and says that this was changed")
def _(story: Story) -> None:
    assert (story.session.client_id, story.session.client_id_changed) == (8, True)


@then("the other program is still connected")
def _(story: Story) -> None:
    async def ask() -> list[str]:
        await story.program.request(49, 1)
        return await story.program.until(49)

    assert story.run(ask())


@then(parsers.re(r"the open (?:fails|is refused) with (?P<reason>[A-Z0-9_]+)"))
def _(story: Story, reason: str) -> None:
    assert story.refused is not None
    assert story.refused.reason == reason


@then("the open is refused with CIRCUIT_OPEN and the time to come back")
def _(story: Story) -> None:
    assert story.refused is not None
    assert story.refused.reason == "CIRCUIT_OPEN"
    assert story.refused.retry_after is not None
    assert story.refused.retry_after <= QUICK["circuit_breaker_timeout"]


@then("no session was made for it")
def _(story: Story) -> None:
    assert story.run(story.client.list(include_final=True)) == story.run(
        story.client.list(states=[FAILED], include_final=True)
    )
    assert story.simulator.statistics.accepts == story.dials


@then(parsers.parse('the hint names "{words}"'))
def _(story: Story, words: str) -> None:
    assert story.refused is not None
    assert story.refused.failure is not None
    assert words in story.refused.failure.hint


@then("the Gateway was dialled 1 time")
def _(story: Story) -> None:
    assert story.simulator.statistics.accepts == 1


@then(parsers.parse('the watcher saw it go "{path}"'))
def _(story: Story, path: str) -> None:
    first, *states = path.split(", ")
    assert first == "DISCONNECTED"
    assert [state(event) for event in story.told(state, len(states))] == states


@then("it took between 0.3 and 3 seconds")
def _(story: Story) -> None:
    assert 0.3 <= story.took < 3


@then(parsers.re(r"the circuit is (?P<wanted>[A-Z_]+)"))
@when(parsers.re(r"the circuit is (?P<wanted>[A-Z_]+) after a while"))
def _(story: Story, wanted: str) -> None:
    async def check() -> bool:
        circuit = (await story.gateway()).circuit_breaker.state
        return gateway_pb2.CircuitBreakerState.Name(circuit) == f"CIRCUIT_BREAKER_STATE_{wanted}"

    story.look(check)


@when("the Gateway listens again")
def _(story: Story) -> None:
    story.run(story.simulator.start_listening())


# -- outages ---------------------------------------------------------------------


@when("the Gateway restarts as every night")
def _(story: Story) -> None:
    async def restart() -> None:
        night = Restart(
            notices=2, notice_interval=0.05, down=0.5, first_connections=2, next_order_id=1
        )
        await story.simulator.start_restart(night).wait()

    story.run(restart())


@when("the Gateway no longer answers")
def _(story: Story) -> None:
    story.simulator.mute(True)


@when("the Gateway answers again")
def _(story: Story) -> None:
    story.simulator.mute(False)


@when("the link breaks")
def _(story: Story) -> None:
    story.dials = story.simulator.statistics.accepts
    story.simulator.drop()


@when("the link breaks, and the Gateway holds the client id for another 0.5 seconds")
def _(story: Story) -> None:
    async def lose() -> None:
        story.simulator.ghost(story.session.client_id, 0.5)
        story.simulator.drop(reset=True)

    story.run(lose())


@when("a market data farm flaps 20 times")
def _(story: Story) -> None:
    async def flap() -> None:
        storm = Storm(codes=(2103, 2104), count=20, interval=0.002)
        await story.simulator.start_storm(storm).wait()

    story.run(flap())


@when("the Gateway goes away")
def _(story: Story) -> None:
    story.run(story.simulator.stop_listening())
    story.simulator.drop()


@when(parsers.parse("every session has dialled {count:d} times in vain"))
def _(story: Story, count: int) -> None:
    async def tried() -> bool:
        left = await story.client.list(states=[RECONNECTING])
        return len(left) == len(story.sessions) and all(item.attempt >= count for item in left)

    story.look(tried)


@when("the Gateway is back, but waits for somebody to accept the paper trading disclaimer")
def _(story: Story) -> None:
    story.simulator.arm(Fault.PAPER_DISCLAIMER)
    story.run(story.simulator.start_listening())


@when("a human has accepted it")
def _(story: Story) -> None:
    story.simulator.clear()


@when(parsers.parse('an operator drains the gateway for "{reason}"'))
def _(story: Story, reason: str) -> None:
    ask = gateway_service_pb2.DrainGatewayRequest(reason=reason)
    story.run(_answer(story.client.gateways.DrainGateway(ask)))


@when("an operator resumes the gateway")
def _(story: Story) -> None:
    ask = gateway_service_pb2.ResumeGatewayRequest()
    story.run(_answer(story.client.gateways.ResumeGateway(ask)))


async def _answer(call: Awaitable[T]) -> T:
    return await call


@then("each session is told that the servers are lost, and then loses its link with IB_CONN_001")
def _(story: Story) -> None:
    count = len(story.sessions)
    lost = story.told(lambda event: event.condition.reason == "CONNECTIVITY_LOST", count)
    away = story.told(lambda event: state(event) == "RECONNECTING", count)
    assert {event.session.last_failure.reason for event in away} == {"IB_CONN_001"}
    for event in away:
        [before] = [item for item in lost if item.session_id == event.session_id]
        assert before.sequence < event.sequence


@then("nobody waits in silence: each session says when it dials again")
def _(story: Story) -> None:
    waiting = story.told(lambda event: event.session.state == RECONNECTING, 2 * len(story.sessions))
    assert all(event.session.HasField("next_attempt_time") for event in waiting)
    assert all(event.session.last_failure.hint for event in waiting)


@then("each session is connected again, as the same one under the same client id")
def _(story: Story) -> None:
    async def back() -> bool:
        now = {item.session_id: item for item in await story.client.list(states=[CONNECTED])}
        return all(
            before.session_id in now
            and now[before.session_id].generation == 2
            and now[before.session_id].client_id == before.client_id
            for before in story.sessions
        )

    story.look(back)
    assert max(story.simulator.statistics.max_holders.values()) == 1


@then("each session says that its data are no longer continuous")
def _(story: Story) -> None:
    story.told(lambda event: event.condition.reason == "NEW_GENERATION", len(story.sessions))


@then("no session has failed")
def _(story: Story) -> None:
    assert not story.run(story.client.list(states=[FAILED], include_final=True))
    story.told(lambda event: state(event) == "CONNECTED", len(story.sessions))
    assert not [event for event in story.events if state(event) == "FAILED"]


@then(
    parsers.re(r"(?:without anybody asking, )?the session is RECONNECTING for (?P<reason>[A-Z_]+)")
)
def _(story: Story, reason: str) -> None:
    [lost] = story.told(lambda event: state(event) == "RECONNECTING")
    assert lost.transition.reason == reason


@then("the session says that its own last connection still has the id")
def _(story: Story) -> None:
    [first, *_] = story.told(lambda event: event.HasField("attempt"))
    assert first.attempt.failure.reason == "IB_CONN_002"
    assert "this session's own last connection" in first.attempt.failure.message


@then("the watcher is told of each change of MARKET_DATA_FARM/usfarm, the last is TRUE")
def _(story: Story) -> None:
    # The first OK came with the handshake, so that the first news is that it is broken.
    found = story.told(lambda event: event.condition.subject == "usfarm", 40)
    assert [event.condition.reason for event in found] == ["BROKEN", "OK"] * 20
    assert found[-1].condition.status == session_pb2.CONDITION_STATUS_TRUE


@then("the session never lost its link")
def _(story: Story) -> None:
    assert not [event for event in story.events if state(event)]
    assert story.run(story.client.get(story.session.session_id)).generation == 1
    assert story.simulator.statistics.accepts == 1


@then("each session asks for a human")
def _(story: Story) -> None:
    async def asks() -> bool:
        left = await story.client.list(states=[RECONNECTING])
        return len(left) == len(story.sessions) and all(
            item.last_failure.tws_code == 10141 and "A human must" in item.last_failure.hint
            for item in left
        )

    story.look(asks)


@then(parsers.re(r"the watcher is told (?P<reason>GATEWAY_[A-Z]+)"))
def _(story: Story, reason: str) -> None:
    [notice] = story.told(lambda event: event.notice.reason == reason)
    assert notice.notice.hint


@then("the session says that an operator must resume the gateway, and does not dial")
def _(story: Story) -> None:
    [lost] = story.told(lambda event: state(event) == "RECONNECTING")
    assert "an operator must resume it" in lost.session.last_failure.hint
    assert not lost.session.HasField("next_attempt_time")
    story.run(asyncio.sleep(0.3))  # longer than any wait of this configuration
    assert story.simulator.statistics.accepts == story.dials
