"""The control service: scripts a running SimulatedGateway over gRPC, from any language.

Decodes, calls the simulator, encodes. Contract: ibgateway/simulator/v1/simulator_service.proto.
"""

# ruff: noqa: N802 - the names of the rpcs are the contract's

from types import TracebackType
from typing import Any, NoReturn, Self

import grpc
import grpc.aio
from google.protobuf.duration_pb2 import Duration
from grpc_reflection.v1alpha import reflection
from ibgateway.simulator.v1 import simulator_service_pb2 as pb
from ibgateway.simulator.v1 import simulator_service_pb2_grpc as pb_grpc

from broker.simulator.faults import Fault, FaultBlockedError
from broker.simulator.gateway import SimulatedGateway
from broker.simulator.protocol import NO_ID
from broker.simulator.restart import Restart
from broker.simulator.scripts import Script, ScriptRunningError, ScriptState
from broker.simulator.settings import SimulatorSettings
from broker.simulator.storm import Storm

_Context = grpc.aio.ServicerContext[Any, Any]
_MAX_TEXT = 4096
_STATES = {
    ScriptState.RUNNING: pb.SCRIPT_STATE_RUNNING,
    ScriptState.FINISHED: pb.SCRIPT_STATE_FINISHED,
    ScriptState.STOPPED: pb.SCRIPT_STATE_STOPPED,
    ScriptState.FAILED: pb.SCRIPT_STATE_FAILED,
}
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
            muted_client_ids=sorted(simulator.muted_client_ids),
            upstream_lost=simulator.upstream_lost,
            startup_notices=[
                pb.Notice(code=code, text=text) for code, text in simulator.startup_notices
            ],
            scripts=[_script(script) for script in simulator.scripts],
            settings=_settings(simulator.settings),
            statistics=pb.Statistics(
                accepts=counts.accepts,
                max_handshakes=counts.max_handshakes,
                refused_seats=counts.refused_seats,
                refused_client_ids=counts.refused_client_ids,
                protocol_errors=counts.protocol_errors,
                early_requests=counts.early_requests,
                rejected_by_rate=counts.rejected_by_rate,
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

    async def Configure(
        self, request: pb.ConfigureRequest, context: _Context
    ) -> pb.ConfigureResponse:
        changes: dict[str, Any] = {
            field.name: _seconds(value) if isinstance(value, Duration) else value
            for field, value in request.ListFields()
        }
        for name in ("rate_limit", "read_only_id"):
            if changes.get(name) == 0:
                changes[name] = None
        try:
            settings = self._simulator.configure(**changes)
        except ValueError as error:
            await _invalid(context, str(error))
        return pb.ConfigureResponse(settings=_settings(settings))

    async def DropClients(
        self, request: pb.DropClientsRequest, context: _Context
    ) -> pb.DropClientsResponse:
        client_id = await _client_id(request, context)
        dropped = self._simulator.drop(
            reset=request.reset, client_id=client_id, mid_message=request.mid_message
        )
        return pb.DropClientsResponse(dropped=dropped)

    async def ResetPort(
        self, request: pb.ResetPortRequest, context: _Context
    ) -> pb.ResetPortResponse:
        try:
            return pb.ResetPortResponse(told=self._simulator.reset_port(request.new_port))
        except ValueError as error:
            await _invalid(context, str(error))

    async def SendNotice(
        self, request: pb.SendNoticeRequest, context: _Context
    ) -> pb.SendNoticeResponse:
        client_id = await _client_id(request, context)
        if request.code < 1:
            await _invalid(
                context, f"code is {request.code}; the Gateway's codes are above 0, such as 1100"
            )
        if len(request.text) > _MAX_TEXT:
            await _invalid(
                context, f"text has {len(request.text)} characters, not at most {_MAX_TEXT}"
            )
        request_id = request.request_id if request.HasField("request_id") else NO_ID
        try:
            sent = self._simulator.notify(
                request.code, request.text or None, client_id=client_id, request_id=request_id
            )
        except ValueError as error:
            await _invalid(context, str(error))
        return pb.SendNoticeResponse(sent=sent)

    async def StartStorm(
        self, request: pb.StartStormRequest, context: _Context
    ) -> pb.StartStormResponse:
        client_id = await _client_id(request, context)
        try:
            storm = Storm(
                codes=tuple(request.codes),
                count=request.count if request.HasField("count") else 1,
                interval=_seconds(request.interval) if request.HasField("interval") else 1.0,
                client_id=client_id,
                request_id=request.request_id if request.HasField("request_id") else NO_ID,
            )
            script = self._simulator.start_storm(storm)
        except ScriptRunningError as error:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(error))
        except ValueError as error:
            await _invalid(context, str(error))
        return pb.StartStormResponse(script=_script(script))

    async def StartRestart(
        self, request: pb.StartRestartRequest, context: _Context
    ) -> pb.StartRestartResponse:
        fields: dict[str, Any] = {
            field.name: _seconds(value) if isinstance(value, Duration) else value
            for field, value in request.ListFields()
            if field.name != "fin"
        }
        try:
            if request.first_fault:
                fields["first_fault"] = Fault.from_label(request.first_fault)
            script = self._simulator.start_restart(Restart(reset=not request.fin, **fields))
        except ScriptRunningError as error:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(error))
        except ValueError as error:
            await _invalid(context, str(error))
        return pb.StartRestartResponse(script=_script(script))

    async def StopScript(
        self, request: pb.StopScriptRequest, context: _Context
    ) -> pb.StopScriptResponse:
        if request.name == "storm":
            return pb.StopScriptResponse(stopped=await self._simulator.stop_storm())
        if request.name != "restart":
            await _invalid(context, f"name is {request.name!r}, neither 'restart' nor 'storm'")
        try:
            return pb.StopScriptResponse(stopped=await self._simulator.stop_restart())
        except OSError as error:
            await self._port_taken(context, error)

    async def HoldClientId(
        self, request: pb.HoldClientIdRequest, context: _Context
    ) -> pb.HoldClientIdResponse:
        try:
            self._simulator.ghost(request.client_id, _seconds(request.duration))
        except ValueError as error:
            await _invalid(context, str(error))
        return pb.HoldClientIdResponse()

    async def SetMute(self, request: pb.SetMuteRequest, context: _Context) -> pb.SetMuteResponse:
        client_id = await _client_id(request, context)
        try:
            self._simulator.mute(request.muted, client_id=client_id)
        except ValueError as error:
            await _invalid(context, str(error))
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
            await self._port_taken(context, error)
        return pb.SetListeningResponse()

    async def _port_taken(self, context: _Context, error: OSError) -> NoReturn:
        text = f"port {self._simulator.port} was taken: {error}"
        await context.abort(grpc.StatusCode.UNAVAILABLE, text)


_ForSome = pb.DropClientsRequest | pb.SendNoticeRequest | pb.StartStormRequest | pb.SetMuteRequest


async def _client_id(request: _ForSome, context: _Context) -> int | None:
    if not request.HasField("client_id"):
        return None
    if request.client_id < 0:
        await _invalid(context, f"client_id is {request.client_id}; ids are 0 or above")
    return request.client_id


def _armed(simulator: SimulatedGateway) -> list[pb.ArmedFault]:
    return [
        pb.ArmedFault(name=item.fault.label, remaining=item.remaining) for item in simulator.armed
    ]


def _script(script: Script) -> pb.Script:
    return pb.Script(
        name=script.name, state=_STATES[script.state], step=script.step, failure=script.failure
    )


def _settings(settings: SimulatorSettings) -> pb.Settings:
    return pb.Settings(
        rate_limit=settings.rate_limit or 0,
        rate_violations=settings.rate_violations,
        read_only=settings.read_only,
        read_only_id=settings.read_only_id or 0,
        hold_after_fin=_duration(settings.hold_after_fin),
        hold_after_reset=_duration(settings.hold_after_reset),
        hold_after_loss=_duration(settings.hold_after_loss),
    )


def _duration(seconds: float) -> Duration:
    return Duration(seconds=int(seconds), nanos=int(seconds % 1 * 1e9))


def _seconds(duration: Duration) -> float:
    return duration.seconds + duration.nanos / 1e9


async def _invalid(context: _Context, text: str) -> NoReturn:
    await context.abort(grpc.StatusCode.INVALID_ARGUMENT, text)
