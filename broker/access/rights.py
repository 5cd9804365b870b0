"""Which rpc asks for which right: the one table."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final

from broker.access.identity import Role


class Right(enum.Enum):
    """What a caller must be allowed to do.

    Attributes:
        role: the least role that has it.
    """

    ANYBODY = ("anybody", Role.VIEWER)
    """Nobody is asked who he is: probes have no secrets."""
    SEE = ("see", Role.VIEWER)
    """See everything: a viewer does, so that somebody can watch over all of it."""
    OPEN = ("open", Role.TRADER)
    """Open sessions in its own name."""
    OWN = ("own", Role.TRADER)
    """Use or end a session: a trader those that it owns, an operator all."""
    OPERATE = ("operate", Role.OPERATOR)
    """Decide about gateways."""

    def __init__(self, _: str, role: Role) -> None:
        self.role = role


_SESSIONS: Final = "/ibgateway.broker.v1.SessionService/"
_GATEWAYS: Final = "/ibgateway.broker.v1.GatewayService/"
_BROKER: Final = "/ibgateway.broker.v1.BrokerService/"
_HEALTH: Final = "/grpc.health.v1.Health/"
_REFLECTION: Final = "/grpc.reflection.v1alpha.ServerReflection/"

RIGHTS: Final[Mapping[str, Right]] = {
    _SESSIONS + "OpenSession": Right.OPEN,
    _SESSIONS + "CloseSession": Right.OWN,
    _SESSIONS + "GetSession": Right.SEE,
    _SESSIONS + "ListSessions": Right.SEE,
    _SESSIONS + "VerifySession": Right.OWN,
    _SESSIONS + "RenewSession": Right.OWN,
    _SESSIONS + "ListSessionEvents": Right.SEE,
    _SESSIONS + "AcknowledgeData": Right.OWN,
    _SESSIONS + "WatchSessions": Right.SEE,
    _GATEWAYS + "ListGateways": Right.SEE,
    _GATEWAYS + "GetGateway": Right.SEE,
    _GATEWAYS + "DrainGateway": Right.OPERATE,
    _GATEWAYS + "ResumeGateway": Right.OPERATE,
    _GATEWAYS + "ResetCircuitBreaker": Right.OPERATE,
    _BROKER + "GetBrokerInfo": Right.SEE,
    _HEALTH + "Check": Right.ANYBODY,
    _HEALTH + "List": Right.ANYBODY,
    _HEALTH + "Watch": Right.ANYBODY,
    _REFLECTION + "ServerReflectionInfo": Right.SEE,
}
"""The right that each rpc asks for, by its path. One that is not here is not served."""
