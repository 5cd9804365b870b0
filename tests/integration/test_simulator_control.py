"""The control service of the simulated Gateway, called as another program would."""

from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from ibgateway.simulator.v1 import simulator_service_pb2 as pb
from ibgateway.simulator.v1 import simulator_service_pb2_grpc as pb_grpc

from broker.simulator.control import ControlServer
from broker.simulator.faults import Fault
from broker.simulator.gateway import SimulatedGateway, SimulatorSettings
from broker.simulator.journal import End
from broker.simulator.raw_client import RawClient


class Setup:
    """A simulator and a stub that reaches its control service."""

    def __init__(
        self, sim: SimulatedGateway, control: ControlServer, channel: grpc.aio.Channel
    ) -> None:
        self.sim = sim
        self.control = control
        self.channel = channel
        # The stubs' types are those of the synchronous ones.
        self.stub: Any = pb_grpc.SimulatorServiceStub(channel)


@pytest.fixture
async def setup() -> AsyncIterator[Setup]:
    """Everything on ports that the operating system chose."""
    async with (
        SimulatedGateway(SimulatorSettings(farm_notices=())) as sim,
        ControlServer(sim) as control,
        grpc.aio.insecure_channel(f"{control.host}:{control.port}") as channel,
    ):
        yield Setup(sim, control, channel)


async def _refused(call: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), caught.value.details() or ""


async def test_the_simulator_describes_itself_and_all_its_faults(setup: Setup) -> None:
    answer = await setup.stub.GetSimulator(pb.GetSimulatorRequest(), timeout=2)
    assert (answer.host, answer.port) == (setup.sim.host, setup.sim.port)
    assert (answer.listening, answer.muted, answer.server_version) == (True, False, 178)
    assert list(answer.accounts) == ["DU1234567"]
    assert {fault.name: fault.description for fault in answer.faults} == {
        f.label: f.value for f in Fault
    }


async def test_clients_and_counts_are_listed(setup: Setup) -> None:
    async with (
        RawClient(setup.sim.host, setup.sim.port) as client,
        RawClient(setup.sim.host, setup.sim.port) as other,
    ):
        await client.ready(7)
        await other.hello()
        clients = (await setup.stub.ListClients(pb.ListClientsRequest(), timeout=2)).clients
        assert [(c.number, c.HasField("client_id"), c.client_id, c.ready) for c in clients] == [
            (1, True, 7, True),
            (2, False, 0, False),
        ]
        counts = (await setup.stub.GetSimulator(pb.GetSimulatorRequest(), timeout=2)).statistics
        assert (counts.accepts, counts.max_claims_per_client_id) == (2, 1)


async def test_a_fault_is_armed_shown_and_cleared(setup: Setup) -> None:
    armed = await setup.stub.ArmFault(
        pb.ArmFaultRequest(fault="CLOSE_AFTER_ACCEPT", times=1), timeout=2
    )
    armed = await setup.stub.ArmFault(pb.ArmFaultRequest(fault="reset-after-accept"), timeout=2)
    assert [(item.name, item.HasField("remaining"), item.remaining) for item in armed.armed] == [
        ("close-after-accept", True, 1),
        ("reset-after-accept", False, 0),
    ]
    for expected in (End.FIN, End.RESET, End.RESET):
        async with RawClient(setup.sim.host, setup.sim.port) as client:
            assert (await client.end())[1] is expected
    await setup.stub.ClearFaults(pb.ClearFaultsRequest(), timeout=2)
    assert not (await setup.stub.GetSimulator(pb.GetSimulatorRequest(), timeout=2)).armed
    async with RawClient(setup.sim.host, setup.sim.port) as client:
        await client.ready(7)


@pytest.mark.parametrize(("reset", "end"), [(False, End.FIN), (True, End.RESET)])
async def test_clients_are_dropped_all_or_one(setup: Setup, reset: bool, end: End) -> None:
    async with (
        RawClient(setup.sim.host, setup.sim.port) as one,
        RawClient(setup.sim.host, setup.sim.port) as two,
    ):
        await one.ready(1)
        await two.ready(2)
        request = pb.DropClientsRequest(reset=reset, client_id=2)
        assert (await setup.stub.DropClients(request, timeout=2)).dropped == 1
        assert (await two.end())[1] is end
        assert [client.client_id for client in setup.sim.clients] == [1]
        assert (
            await setup.stub.DropClients(pb.DropClientsRequest(reset=reset), timeout=2)
        ).dropped == 1
        assert (await one.end())[1] is end
        assert (await setup.stub.DropClients(pb.DropClientsRequest(), timeout=2)).dropped == 0


async def test_a_notice_reaches_ready_clients(setup: Setup) -> None:
    async with RawClient(setup.sim.host, setup.sim.port) as client:
        await client.ready(7)
        request = pb.SendNoticeRequest(code=321, text="read-only", request_id=2147483647)
        assert (await setup.stub.SendNotice(request, timeout=2)).sent == 1
        assert (await client.until(4))[2:5] == ["2147483647", "321", "read-only"]
        await setup.stub.SendNotice(pb.SendNoticeRequest(code=1100, text="lost"), timeout=2)
        assert (await client.until(4))[2:5] == ["-1", "1100", "lost"]


async def test_the_simulator_can_be_muted_and_its_listener_closed(setup: Setup) -> None:
    await setup.stub.SetMute(pb.SetMuteRequest(muted=True), timeout=2)
    async with RawClient(setup.sim.host, setup.sim.port) as client:
        await client.send(b"API\0\0\0\0\x09v157..178")
        assert await client.silence(0.05)
    await setup.stub.SetMute(pb.SetMuteRequest(muted=False), timeout=2)
    await setup.stub.SetListening(pb.SetListeningRequest(listening=False), timeout=2)
    with pytest.raises(ConnectionRefusedError):
        await RawClient(setup.sim.host, setup.sim.port).__aenter__()
    await setup.stub.SetListening(pb.SetListeningRequest(listening=True), timeout=2)
    async with RawClient(setup.sim.host, setup.sim.port) as client:
        await client.ready(7)


@pytest.mark.parametrize(
    ("rpc", "request_", "says"),
    [
        ("ArmFault", pb.ArmFaultRequest(), "known are silent-after-accept"),
        (
            "ArmFault",
            pb.ArmFaultRequest(fault="no-such-fault"),
            "no fault is named 'no-such-fault'",
        ),
        ("ArmFault", pb.ArmFaultRequest(fault="http", times=0), "1 to 1000000"),
        ("ArmFault", pb.ArmFaultRequest(fault="http", times=-5), "1 to 1000000"),
        ("SendNotice", pb.SendNoticeRequest(text="x"), "code is 0"),
        ("SendNotice", pb.SendNoticeRequest(code=-1, text="x"), "code is -1"),
        ("SendNotice", pb.SendNoticeRequest(code=1100), "text has 0 characters"),
        (
            "SendNotice",
            pb.SendNoticeRequest(code=1100, text="x" * 4097),
            "text has 4097 characters",
        ),
        ("SendNotice", pb.SendNoticeRequest(code=1100, text="x", client_id=-1), "client_id is -1"),
        ("DropClients", pb.DropClientsRequest(client_id=-2), "client_id is -2"),
    ],
)
async def test_bad_arguments_are_refused_in_clear_words(
    setup: Setup, rpc: str, request_: Any, says: str
) -> None:
    code, details = await _refused(getattr(setup.stub, rpc)(request_, timeout=2))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert says in details


async def test_a_fault_that_could_never_act_is_refused(setup: Setup) -> None:
    await setup.stub.ArmFault(pb.ArmFaultRequest(fault="http"), timeout=2)
    code, details = await _refused(
        setup.stub.ArmFault(pb.ArmFaultRequest(fault="garbage"), timeout=2)
    )
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    assert "http stays armed" in details


async def test_reflection_names_the_service(setup: Setup) -> None:
    channel: Any = setup.channel
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
    call = stub.ServerReflectionInfo(
        iter([reflection_pb2.ServerReflectionRequest(list_services="")]), timeout=2
    )
    async for answer in call:
        assert "ibgateway.simulator.v1.SimulatorService" in [
            s.name for s in answer.list_services_response.service
        ]


async def test_two_control_services_cannot_share_a_port(setup: Setup) -> None:
    with pytest.raises(OSError, match="cannot listen"):
        await ControlServer(setup.sim, port=setup.control.port).__aenter__()
