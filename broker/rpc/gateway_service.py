"""GatewayService: decode, call, encode."""

from __future__ import annotations

from dataclasses import dataclass

from ibgateway.broker.v1 import gateway_pb2, gateway_service_pb2_grpc
from ibgateway.broker.v1 import gateway_service_pb2 as pb

from broker.rpc import convert, requests
from broker.rpc.caller import Context
from broker.runtime.manager import SessionManager


@dataclass(frozen=True, slots=True)
class GatewayService(gateway_service_pb2_grpc.GatewayServiceServicer):
    """Tells of the configured gateways."""

    manager: SessionManager

    async def ListGateways(
        self, request: pb.ListGatewaysRequest, context: Context
    ) -> pb.ListGatewaysResponse:
        """See the proto."""
        return pb.ListGatewaysResponse(
            gateways=[self._encode(gateway_id) for gateway_id in sorted(self.manager.endpoints)]
        )

    async def GetGateway(
        self, request: pb.GetGatewayRequest, context: Context
    ) -> pb.GetGatewayResponse:
        """See the proto."""
        gateway_id = requests.gateway_id(request.gateway_id)
        return pb.GetGatewayResponse(gateway=self._encode(gateway_id))

    def _encode(self, gateway_id: str) -> gateway_pb2.Gateway:
        endpoint = self.manager.endpoint(gateway_id)
        return convert.gateway(endpoint, self.manager.client_ids(gateway_id))
