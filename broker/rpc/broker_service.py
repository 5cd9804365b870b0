"""BrokerService: decode, call, encode."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from ibgateway.broker.v1 import broker_service_pb2 as pb
from ibgateway.broker.v1 import broker_service_pb2_grpc

from broker.access.doorkeeper import Doorkeeper
from broker.events.hub import Hub
from broker.rpc import convert
from broker.rpc.caller import Context, proven

CAPABILITIES: Final = (
    "access.roles",
    "client-id.exact",
    "client-id.increment",
    "session.events",
    "session.lease",
    "session.request-id",
    "session.survives-restart",
    "session.verify",
    "watch.bookmark",
    "watch.provisional",
    "watch.resume",
    "watch.snapshot",
)
"""What this broker can do; a name is added when it works, and never taken away."""


@dataclass(frozen=True, slots=True)
class BrokerService(broker_service_pb2_grpc.BrokerServiceServicer):
    """Tells of the broker itself."""

    version: str
    instance: UUID
    store_id: UUID
    epoch: int
    start_time: datetime
    hub: Hub
    limits: pb.BrokerLimits
    doorkeeper: Doorkeeper

    async def GetBrokerInfo(
        self, request: pb.GetBrokerInfoRequest, context: Context
    ) -> pb.GetBrokerInfoResponse:
        """See the proto."""
        return pb.GetBrokerInfoResponse(
            version=self.version,
            instance=str(self.instance),
            store_id=str(self.store_id),
            start_time=convert.timestamp(self.start_time),
            capabilities=CAPABILITIES,
            limits=self.limits,
            epoch=self.epoch,
            revision=self.hub.revision,
            oldest_revision=self.hub.oldest,
            access=convert.access(proven.get(), self.doorkeeper.problem),
        )
