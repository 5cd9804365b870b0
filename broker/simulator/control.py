"""The control service: scripts a running SimulatedGateway over gRPC, from any language.

Decodes, calls the simulator, encodes. Contract: ibgateway/simulator/v1/simulator_service.proto.
"""

# ruff: noqa: N802 - the names of the rpcs are the contract's

from types import TracebackType
from typing import Any, NoReturn, Self

import grpc
import grpc.aio
from grpc_reflection.v1alpha import reflection
from ibgateway.simulator.v1 import simulator_service_pb2 as pb
from ibgateway.simulator.v1 import simulator_service_pb2_grpc as pb_grpc

from broker.simulator.faults import Fault, FaultBlockedError
from broker.simulator.gateway import SimulatedGateway
from broker.simulator.protocol import NO_ID

_Context = grpc.aio.ServicerContext[Any, Any]
_MAX_TEXT = 4096
_STOP_GRACE = 0.5
"""Seconds that calls in progress get when the service stops; none of them waits for anything."""


class ControlServer:
    """Use as `async with ControlServer(simulator, host, port)`, inside the simulator's own context.

    Port 0 lets the operating system choose; entering raises OSError if the address cannot be
    listened on.
    """

    def __init__(self, simulator: SimulatedGateway, host: str = "127.0.0.1", port: int = 0) -> None:
        self._simulator = simulator
        self.host = host
        self.port = port
        self._server: grpc.aio.Server | None = None

    async def __aenter__(self) -> Self:
        # Without this option two simulators could share a port, and half of the calls would reach
        # the other one.
        server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
        pb_grpc.add_SimulatorServiceServicer_to_server(_Servicer(self._simulator), server)
        name = pb.DESCRIPTOR.services_by_name["SimulatorService"].full_name
        reflection.enable_server_reflection((name, reflection.SERVICE_NAME), server)
        host = f"[{self.host}]" if ":" in self.host else self.host
        try:
            self.port = server.add_insecure_port(f"{host}:{self.port}")
            await server.start()
        except RuntimeError as error:
            await server.stop(None)
            raise OSError(f"cannot listen on {host}:{self.port}: {error}") from error
        self._server = server
        return self

    async def __aexit__(
        self,
        _type: type[BaseException] | None,
        _value: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        if self._server is not None:
            await self._server.stop(_STOP_GRACE)


class _Servicer(pb_grpc.SimulatorServiceServicer):
    """The rpcs; each runs on the simulator's event loop, so none needs a lock."""

    def __init__(self, simulator: SimulatedGateway) -> None:
        self._simulator = simulator

    async def GetSimulator(
        self, _request: pb.GetSimulatorRequest, _context: _Context
    ) -> pb.GetSimulatorResponse:
        simulator = self._simulator
        counts = simulator.statistics
        return pb.GetSimulatorResponse(
            host=simulator.host,
            port=simulator.port,
            listening=simulator.listening,
            muted=simulator.muted,
            server_version=simulator.settings.server_version,
            accounts=simulator.settings.accounts,
            faults=[pb.Fault(name=fault.label, description=fault.value) for fault in Fault],
            armed=_armed(simulator),
            held_client_ids=sorted(simulator.held_client_ids),
            statistics=pb.Statistics(
                accepts=counts.accepts,
                max_handshakes=counts.max_handshakes,
                refused_seats=counts.refused_seats,
                refused_client_ids=counts.refused_client_ids,
                protocol_errors=counts.protocol_errors,
                early_requests=counts.early_requests,
                unknown_requests=sum(counts.unknown_requests.values()),
                max_claims_per_client_id=max(counts.max_claims.values(), default=0),
            ),
        )

    async def ListClients(
        self, _request: pb.ListClientsRequest, _context: _Context
    ) -> pb.ListClientsResponse:
        return pb.ListClientsResponse(
            clients=[
                pb.Client(
                    number=client.record.number,
                    peer=client.record.peer,
                    client_id=client.client_id,
                    ready=client.ready,
                    fault=client.record.fault or "",
                )
                for client in self._simulator.clients
            ]
        )

    async def ArmFault(self, request: pb.ArmFaultRequest, context: _Context) -> pb.ArmFaultResponse:
        times = request.times if request.HasField("times") else None
        try:
            self._simulator.arm(Fault.from_label(request.fault), times)
        except FaultBlockedError as error:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(error))
        except ValueError as error:
            await _invalid(context, str(error))
        return pb.ArmFaultResponse(armed=_armed(self._simulator))

    async def ClearFaults(
        self, _request: pb.ClearFaultsRequest, _context: _Context
    ) -> pb.ClearFaultsResponse:
        self._simulator.clear()
        return pb.ClearFaultsResponse()

    async def DropClients(
        self, request: pb.DropClientsRequest, context: _Context
    ) -> pb.DropClientsResponse:
        client_id = await _client_id(request, context)
        return pb.DropClientsResponse(
            dropped=self._simulator.drop(reset=request.reset, client_id=client_id)
        )

    async def SendNotice(
        self, request: pb.SendNoticeRequest, context: _Context
    ) -> pb.SendNoticeResponse:
        client_id = await _client_id(request, context)
        if request.code < 1:
            await _invalid(
                context, f"code is {request.code}; the Gateway's codes are above 0, such as 1100"
            )
        if not 1 <= len(request.text) <= _MAX_TEXT:
            await _invalid(
                context, f"text has {len(request.text)} characters, not 1 to {_MAX_TEXT}"
            )
        request_id = request.request_id if request.HasField("request_id") else NO_ID
        sent = self._simulator.notify(
            request.code, request.text, client_id=client_id, request_id=request_id
        )
        return pb.SendNoticeResponse(sent=sent)

    async def SetMute(self, request: pb.SetMuteRequest, _context: _Context) -> pb.SetMuteResponse:
        self._simulator.mute(request.muted)
        return pb.SetMuteResponse()

    async def SetListening(
        self, request: pb.SetListeningRequest, context: _Context
    ) -> pb.SetListeningResponse:
        if not request.listening:
            await self._simulator.stop_listening()
            return pb.SetListeningResponse()
        try:
            await self._simulator.start_listening()
        except OSError as error:
            await context.abort(
                grpc.StatusCode.UNAVAILABLE, f"port {self._simulator.port} was taken: {error}"
            )
        return pb.SetListeningResponse()


async def _client_id(
    request: pb.DropClientsRequest | pb.SendNoticeRequest, context: _Context
) -> int | None:
    if not request.HasField("client_id"):
        return None
    if request.client_id < 0:
        await _invalid(context, f"client_id is {request.client_id}; ids are 0 or above")
    return request.client_id


def _armed(simulator: SimulatedGateway) -> list[pb.ArmedFault]:
    return [
        pb.ArmedFault(name=item.fault.label, remaining=item.remaining) for item in simulator.armed
    ]


async def _invalid(context: _Context, text: str) -> NoReturn:
    await context.abort(grpc.StatusCode.INVALID_ARGUMENT, text)
