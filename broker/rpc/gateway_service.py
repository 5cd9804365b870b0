"""GatewayService: decode, call, encode."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from ibgateway.broker.v1 import gateway_pb2, gateway_service_pb2_grpc
from ibgateway.broker.v1 import gateway_service_pb2 as pb

from broker.rpc import convert, requests
from broker.rpc.caller import Context, owner
from broker.runtime.manager import SessionManager
from broker.session.model import CloseReason


@dataclass(frozen=True, slots=True)
class GatewayService(gateway_service_pb2_grpc.GatewayServiceServicer):
    """Tells of the configured gateways, and lets operators decide about them."""

    manager: SessionManager
    now: Callable[[], datetime]

    async def ListGateways(
        self, request: pb.ListGatewaysRequest, context: Context
    ) -> pb.ListGatewaysResponse:
        """See the proto."""
        names = sorted(self.manager.gateways.endpoints)
        return pb.ListGatewaysResponse(gateways=[self._encode(name) for name in names])

    async def GetGateway(
        self, request: pb.GetGatewayRequest, context: Context
    ) -> pb.GetGatewayResponse:
        """See the proto."""
        gateway_id = requests.gateway_id(request.gateway_id)
        return pb.GetGatewayResponse(gateway=self._encode(gateway_id))

    async def DrainGateway(
        self, request: pb.DrainGatewayRequest, context: Context
    ) -> pb.DrainGatewayResponse:
        """See the proto."""
        gateway_id = requests.drain_request(request)
        actor = owner(context)
        await self.manager.gateways.set_drain(gateway_id, actor, request.reason)
        if request.close_sessions:
            await self.manager.end_sessions(gateway_id, CloseReason.GATEWAY_DRAINED, actor)
        return pb.DrainGatewayResponse(gateway=self._encode(gateway_id))

    async def ResumeGateway(
        self, request: pb.ResumeGatewayRequest, context: Context
    ) -> pb.ResumeGatewayResponse:
        """See the proto."""
        gateway_id = requests.gateway_id(request.gateway_id)
        await self.manager.gateways.set_drain(gateway_id, owner(context), None)
        return pb.ResumeGatewayResponse(gateway=self._encode(gateway_id))

    async def ResetCircuitBreaker(
        self, request: pb.ResetCircuitBreakerRequest, context: Context
    ) -> pb.ResetCircuitBreakerResponse:
        """See the proto."""
        gateway_id = requests.gateway_id(request.gateway_id)
        self.manager.gateways.endpoint(gateway_id).try_now()
        return pb.ResetCircuitBreakerResponse(gateway=self._encode(gateway_id))

    def _encode(self, gateway_id: str) -> gateway_pb2.Gateway:
        gateways = self.manager.gateways
        return convert.gateway(
            gateways.endpoint(gateway_id),
            self.manager.client_ids(gateway_id),
            gateways.client_ids(gateway_id).quarantined,
            self.now(),
        )
