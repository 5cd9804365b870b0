"""How long a session waits between two dials or for its end, and that nothing is kept silent."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc.aio
import pytest
from ibgateway.broker.v1 import gateway_service_pb2, session_event_pb2

from broker.app import broker
from broker.config import GatewayConfig, Settings
from broker.simulator.faults import Fault
from broker.simulator.gateway import SimulatedGateway
from tests.harness import (
    CONNECTED,
    DISCONNECTED,
    NO_FIXED_PORTS,
    Client,
    connected,
    eventually,
    refusal,
    serving,
)
from tests.integration.scripted_peer import HANDSHAKE, Do, ScriptedPeer
from tests.integration.test_watch import Watch


async def changes(watch: Watch, kind: str) -> AsyncIterator[session_event_pb2.SessionEvent]:
    """The events of one kind, from now on."""
    while True:
        [event] = await watch.events(1)
        if event.WhichOneof("change") == kind:
            yield event


def announced(event: session_event_pb2.SessionEvent) -> float:
    """How many seconds an attempt says that the next one is away."""
    due = event.attempt.next_attempt_time.ToNanoseconds()
    return float(due - event.time.ToNanoseconds()) / 1e9


async def test_a_first_dial_that_lasts_too_long_is_told(
    simulator: SimulatedGateway, database_url: str
) -> None:
    quick: dict[str, Any] = {"connecting_budget": 0.2}
    async with serving(simulator, database_url, gateway_changes=quick) as client:
        simulator.arm(Fault.SILENT_AFTER_ACCEPT)
        watch = Watch(client)
        await watch.snapshot()
        session = await client.open(return_immediately=True)
        told = await anext(changes(watch, "notice"))
        assert (told.notice.reason, told.notice.subject) == ("OVERDUE", "CONNECTING")
        assert told.session_id == session.session_id
        assert told.session.attempt == 0


async def test_an_impatient_open_waits_between_its_dials_as_announced(
    simulator: SimulatedGateway, database_url: str
) -> None:
    quick: dict[str, Any] = {"retry_initial_delay": 0.3, "retry_max_delay": 5.0}
    async with serving(simulator, database_url, gateway_changes=quick) as client:
        simulator.arm(Fault.SILENT_AFTER_ACCEPT)
        watch = Watch(client)
        await watch.snapshot()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.open(timeout={"nanos": 100_000_000}, max_attempts=3)
        assert refusal(caught.value).reason == "IB_CONN_003"
        attempts = changes(watch, "attempt")
        waits = [announced(await anext(attempts)) for _ in range(2)]
        dials = [record.accepted for record in simulator.connections]
        assert len(dials) == 3
        for wait, begin, end in zip(waits, dials, dials[1:], strict=False):
            assert end - begin >= wait


async def test_an_impatient_open_goes_on_at_once_when_the_gateway_answers_another(
    simulator: SimulatedGateway, database_url: str
) -> None:
    quick: dict[str, Any] = {"retry_initial_delay": 600.0, "retry_max_delay": 600.0}
    async with serving(simulator, database_url, gateway_changes=quick) as client:
        simulator.arm(Fault.SILENT_AFTER_ACCEPT, 1)
        watch = Watch(client)
        await watch.snapshot()
        waiting = await client.open(timeout={"nanos": 100_000_000}, return_immediately=True)
        await anext(changes(watch, "attempt"))
        await client.open()
        await eventually(lambda: _is_connected(client, waiting.session_id))


async def test_a_gateway_that_was_long_away_and_then_wants_a_login_is_tried_as_if_it_was_not(
    simulator: SimulatedGateway, database_url: str
) -> None:
    quick: dict[str, Any] = {
        "auth_grace": 30.0,
        "retry_initial_delay": 0.02,
        "retry_max_delay": 600.0,
        "retry_jitter": 0.0,
    }
    async with serving(simulator, database_url, gateway_changes=quick) as client:
        session = await client.open()
        watch = Watch(client)
        await watch.snapshot()
        await simulator.stop_listening()
        simulator.drop()
        attempts = changes(watch, "attempt")
        while (await anext(attempts)).attempt.number < 6:  # the ladder is at 0.64 s by now
            pass
        simulator.arm(Fault.PAPER_DISCLAIMER, 2)
        await simulator.start_listening()
        own: list[session_event_pb2.SessionEvent] = []
        while len(own) < 2:
            event = await anext(attempts)
            if event.attempt.failure.tws_code:
                own.append(event)
        # A link that was lost soon after it was made counts as the first rung.
        assert [announced(event) for event in own] == pytest.approx([0.04, 0.08], abs=0.01)
        await eventually(lambda: _is_connected(client, session.session_id))


async def _is_connected(client: Client, session_id: str) -> bool:
    return bool((await client.get(session_id)).state == CONNECTED)


@pytest.mark.parametrize(
    ("code", "text", "subject", "who"),
    [
        (1101, None, "DATA_CONTINUOUS", "The session's owner must subscribe anew"),
        (321, "cause - The API interface is in Read-Only mode.", "WRITABLE", "untick Read-Only"),
        (10197, None, "NO_COMPETING_LOGIN", "must log out"),
        (1100, None, "UPSTREAM", "an operator must look at the Gateway"),
    ],
)
async def test_a_condition_that_lasts_says_who_must_act(
    simulator: SimulatedGateway,
    database_url: str,
    code: int,
    text: str | None,
    subject: str,
    who: str,
) -> None:
    quick: dict[str, Any] = {"condition_budget": 0.1}
    async with serving(simulator, database_url, gateway_changes=quick) as client:
        await client.open()
        watch = Watch(client)
        await watch.snapshot()
        simulator.notify(code, text)
        told = await anext(changes(watch, "notice"))
        assert (told.notice.reason, told.notice.subject) == ("OVERDUE", subject)
        assert who in told.notice.hint


async def test_an_id_whose_close_a_hung_gateway_did_not_answer_is_quarantined(
    database_url: str,
) -> None:
    async with ScriptedPeer(*HANDSHAKE, Do.DEAF) as peer:
        settings = Settings(
            gateways={"default": GatewayConfig(port=peer.port, sentinel=False)},
            database_url=database_url,
            **NO_FIXED_PORTS,
        )
        async with broker(settings) as running, connected(running) as client:
            session = await client.open()
            closed = await client.close(session.session_id)
            assert closed.state == DISCONNECTED
            answer = await client.gateways.GetGateway(gateway_service_pb2.GetGatewayRequest())
            [item] = answer.gateway.quarantined_client_ids
            assert (item.client_id, item.reason) == (session.client_id, "CLOSE_UNANSWERED")
