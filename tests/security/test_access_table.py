"""Every rpc, called by everybody over a real TLS socket: who is served, and who is refused how.

The table of ``docs/access.md`` is made from what happens here. To write it anew:
``UPDATE_DOCS=1 pytest tests/security/test_access_table.py``
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from ibgateway.broker.v1 import broker_service_pb2, gateway_service_pb2, session_service_pb2

from broker.access.identity import Role
from broker.access.rights import RIGHTS
from broker.simulator.gateway import SimulatedGateway
from tests.access import calling, give_token, guarded, make, token_of
from tests.harness import Client, refusal

DOCUMENT: Final = Path(__file__).parents[2] / "docs" / "access.md"
BEGIN: Final = "<!-- made by tests/security/test_access_table.py -->\n"
END: Final = "<!-- end of what is made -->\n"
CALLERS: Final = (
    "no token",
    "wrong token",
    "viewer",
    "trader of another session",
    "trader",
    "operator",
)
SERVED: Final = "yes"
REFUSED: Final = {"UNAUTHENTICATED", "PERMISSION_DENIED"}

gateways = gateway_service_pb2
sessions = session_service_pb2


async def read(stream: Any) -> None:
    await stream.read()


async def reflect(client: Client, _session: str) -> None:
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    channel: Any = client.channel
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
    await read(stub.ServerReflectionInfo(iter([request])))


def health(client: Client) -> Any:
    return health_pb2_grpc.HealthStub(client.channel)


CALLS: Final[Mapping[str, Callable[[Client, str], Awaitable[Any]]]] = {
    "OpenSession": lambda client, _: client.open(validate_only=True),
    "CloseSession": lambda client, session: client.close(session),
    "GetSession": lambda client, session: client.get(session),
    "ListSessions": lambda client, _: client.list(),
    "VerifySession": lambda client, session: client.sessions.VerifySession(
        sessions.VerifySessionRequest(session_id=session)
    ),
    "RenewSession": lambda client, session: client.sessions.RenewSession(
        sessions.RenewSessionRequest(session_id=session, lease_ttl={"seconds": 600})
    ),
    "ListSessionEvents": lambda client, session: client.sessions.ListSessionEvents(
        sessions.ListSessionEventsRequest(session_id=session)
    ),
    "AcknowledgeData": lambda client, session: client.sessions.AcknowledgeData(
        sessions.AcknowledgeDataRequest(session_id=session, generation=1)
    ),
    "WatchSessions": lambda client, _: read(
        client.sessions.WatchSessions(sessions.WatchSessionsRequest())
    ),
    "ListGateways": lambda client, _: client.gateways.ListGateways(gateways.ListGatewaysRequest()),
    "GetGateway": lambda client, _: client.gateways.GetGateway(gateways.GetGatewayRequest()),
    "DrainGateway": lambda client, _: client.gateways.DrainGateway(gateways.DrainGatewayRequest()),
    "ResumeGateway": lambda client, _: client.gateways.ResumeGateway(
        gateways.ResumeGatewayRequest()
    ),
    "ResetCircuitBreaker": lambda client, _: client.gateways.ResetCircuitBreaker(
        gateways.ResetCircuitBreakerRequest()
    ),
    "GetBrokerInfo": lambda client, _: client.broker.GetBrokerInfo(
        broker_service_pb2.GetBrokerInfoRequest()
    ),
    "Check": lambda client, _: health(client).Check(health_pb2.HealthCheckRequest()),
    "List": lambda client, _: health(client).List(
        health_pb2.HealthListRequest()  # type: ignore[attr-defined]  # newer than its types
    ),
    "Watch": lambda client, _: read(health(client).Watch(health_pb2.HealthCheckRequest())),
    "ServerReflectionInfo": reflect,
}


@pytest.mark.requirement("AC-015")
def test_every_rpc_that_is_served_has_a_row() -> None:
    files = (
        session_service_pb2,
        gateway_service_pb2,
        broker_service_pb2,
        health_pb2,
        reflection_pb2,
    )
    served = {
        f"/{service.full_name}/{method.name}"
        for file in files
        for service in file.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }
    assert served == set(RIGHTS)
    assert {path.rpartition("/")[2] for path in RIGHTS} == set(CALLS)


async def outcome(call: Awaitable[Any]) -> str:
    try:
        await call
    except grpc.aio.AioRpcError as error:
        code = error.code().name
        if code not in REFUSED:
            return code
        said = refusal(error)
    else:
        return SERVED
    assert said.reason == said.status.name
    assert {"method", "needed_role"} <= said.metadata.keys()
    return said.reason


@pytest.mark.requirement("AC-015")
async def test_the_table_of_rights_is_what_happens_over_tls(
    simulator: SimulatedGateway, database_url: str, tmp_path: Path
) -> None:
    trial = make(tmp_path)
    shown = {
        "no token": None,
        "wrong token": "gwb_" + "A" * 43,
        "viewer": token_of(trial, Role.VIEWER),
        "trader of another session": give_token(trial, "another"),
        "trader": token_of(trial, Role.TRADER),
        "operator": token_of(trial, Role.OPERATOR),
    }
    lines = ["| rpc | " + " | ".join(CALLERS) + " |", "|---" * (len(CALLERS) + 1) + "|"]
    async with (
        guarded(simulator, database_url, trial) as address,
        AsyncExitStack() as stack,
    ):
        clients = {
            name: await stack.enter_async_context(calling(address, trial, token))
            for name, token in shown.items()
        }
        owner = clients["trader"]
        for path in RIGHTS:
            rpc = path.rpartition("/")[2]
            cells = []
            for name in CALLERS:
                # Each in front of a session of its own, so that none meets what another has left.
                session = await owner.open(request_id=str(uuid.uuid4()))
                cells.append(await outcome(CALLS[rpc](clients[name], session.session_id)))
                if rpc == "DrainGateway":
                    await CALLS["ResumeGateway"](clients["operator"], "")
                await owner.close(session.session_id)
            lines.append(f"| {path.removeprefix('/')} | {' | '.join(cells)} |")
    table = "\n".join(lines) + "\n"
    text = DOCUMENT.read_text()
    before, _, rest = text.partition(BEGIN)
    told, _, after = rest.partition(END)
    if os.environ.get("UPDATE_DOCS"):
        DOCUMENT.write_text(f"{before}{BEGIN}{table}{END}{after}")
    else:
        assert told == table, "docs/access.md is stale: run this test with UPDATE_DOCS=1"
