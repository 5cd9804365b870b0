"""A day of a broker in a few seconds: what its metrics, its log and its traces must tell of."""

from __future__ import annotations

from typing import Any

import grpc.aio
import pytest
from ibgateway.broker.v1 import session_pb2
from ibgateway.broker.v1 import session_service_pb2 as pb

from broker.simulator.faults import Fault
from broker.simulator.gateway import SimulatedGateway
from tests.harness import CONNECTED, Client, eventually, refusal

SETTINGS: dict[str, Any] = {
    "retry_max_attempts": 2,
    "circuit_breaker_failure_threshold": 3,
    "circuit_breaker_timeout": 1.0,
    "circuit_breaker_success_threshold": 2,
    "heartbeat_interval": 60.0,
    "heartbeat_timeout": 5.0,
}
"""Of its gateway: the third failure in a row opens the circuit, and nobody is asked for a heartbeat
who was not meant to be.
"""

CORRELATION_ID = "3c9ad6a5-4a3e-4b8d-9f53-0a1b2c3d4e5f"
"""Of the first open."""


async def play(client: Client, simulator: SimulatedGateway) -> session_pb2.Session:
    """Open, meet conflicts, lose the link, open in vain until the circuit is open, try, close.

    Dials: two conflicts (client ids 7 and 8) and a success (9); one success after the loss of that
    link; three that are refused, of one open; two successes that close the circuit. Returns the
    first session.
    """
    simulator.configure(hold_after_reset=0.0)
    simulator.arm(Fault.CLIENT_ID_IN_USE, 2)
    answer = await client.sessions.OpenSession(
        pb.OpenSessionRequest(client_id=7), metadata=(("x-correlation-id", CORRELATION_ID),)
    )
    session: session_pb2.Session = answer.session
    assert session.client_id == 9
    verdict = await client.sessions.VerifySession(
        pb.VerifySessionRequest(session_id=session.session_id)
    )
    assert verdict.healthy
    simulator.drop()

    async def is_back() -> bool:
        now = await client.get(session.session_id)
        return bool(now.state == CONNECTED and now.generation == 2)

    await eventually(is_back)
    simulator.arm(Fault.CLOSE_AFTER_ACCEPT, 3)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await client.open(client_id=20)
    assert refusal(caught.value).reason == "IB_CONN_001"
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await client.open(client_id=20)
    assert refusal(caught.value).reason == "CIRCUIT_OPEN"

    async def opens() -> session_pb2.Session | None:
        try:
            return await client.open(client_id=21)
        except grpc.aio.AioRpcError:
            return None

    second = await eventually(opens)
    third = await client.open(client_id=22)
    for each in (third, second, session):
        await client.close(each.session_id)
    return session
