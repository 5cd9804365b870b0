"""The configured gateways, and what operators decide about them."""

from __future__ import annotations

from typing import Final

from ibgateway.broker.v1 import gateway_service_pb2 as pb
from ibgateway.client import conversion
from ibgateway.client.calls import TIMEOUT
from ibgateway.client.connection import Connection
from ibgateway.client.model import Gateway

DRAIN_TIMEOUT: Final = 120.0
"""Seconds for all sessions of a gateway to end."""


class Gateways:
    """Finds gateways, takes them out of use and puts them into use again; see `Broker.gateways`.

    ``timeout`` and ``correlation_id`` are as in `SessionCalls`. ``gateway_id`` names a gateway;
    empty is ``"default"``. What an operator decides is not repeated when the broker does not
    answer: somebody else may have decided otherwise meanwhile.

    Args:
        connection: to the broker.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def list(
        self, *, timeout: float | None = None, correlation_id: str | None = None
    ) -> tuple[Gateway, ...]:
        """All of them, by name. Cancellation is safe."""
        response = await self._connection.call(
            self._connection.gateways.ListGateways,
            pb.ListGatewaysRequest(),
            timeout=timeout or TIMEOUT,
            idempotent=True,
            correlation_id=correlation_id,
        )
        return tuple(map(conversion.gateway, response.gateways))

    async def get(
        self,
        gateway_id: str = "",
        *,
        timeout: float | None = None,
        correlation_id: str | None = None,
    ) -> Gateway:
        """One of them.

        Raises:
            GatewayNotFoundError: none has this name; the error's metadata has those that there are.

        Cancellation is safe.
        """
        response = await self._connection.call(
            self._connection.gateways.GetGateway,
            pb.GetGatewayRequest(gateway_id=gateway_id),
            timeout=timeout or TIMEOUT,
            idempotent=True,
            correlation_id=correlation_id,
        )
        return conversion.gateway(response.gateway)

    async def drain(
        self,
        gateway_id: str = "",
        *,
        reason: str = "",
        close_sessions: bool = False,
        timeout: float | None = None,
        correlation_id: str | None = None,
    ) -> Gateway:
        """Take a gateway out of use, also over a restart of the broker.

        Opens are refused, sessions that are CONNECTED stay, and one that loses its link waits.
        Draining again changes the reason.

        Args:
            gateway_id: the gateway.
            reason: for the record and for those who are refused, at most 256 characters.
            close_sessions: end all of its sessions, and wait for their ends.
            timeout: seconds; by default 10, with ``close_sessions`` 120.
            correlation_id: see the class.

        Raises:
            GatewayNotFoundError: none has this name.
            StoreUnavailableError: nothing was changed.

        Cancellation ends the wait; once the broker has the request, it is carried out.
        """
        response = await self._connection.call(
            self._connection.gateways.DrainGateway,
            pb.DrainGatewayRequest(
                gateway_id=gateway_id, reason=reason, close_sessions=close_sessions
            ),
            timeout=timeout or (DRAIN_TIMEOUT if close_sessions else TIMEOUT),
            idempotent=False,
            correlation_id=correlation_id,
        )
        return conversion.gateway(response.gateway)

    async def resume(
        self,
        gateway_id: str = "",
        *,
        timeout: float | None = None,
        correlation_id: str | None = None,
    ) -> Gateway:
        """Put a gateway into use again; sessions that wait dial at once. No error if it is in use.

        Raises:
            GatewayNotFoundError: none has this name.
            StoreUnavailableError: nothing was changed.

        Cancellation ends the wait; once the broker has the request, it is carried out.
        """
        response = await self._connection.call(
            self._connection.gateways.ResumeGateway,
            pb.ResumeGatewayRequest(gateway_id=gateway_id),
            timeout=timeout or TIMEOUT,
            idempotent=False,
            correlation_id=correlation_id,
        )
        return conversion.gateway(response.gateway)

    async def reset_breaker(
        self,
        gateway_id: str = "",
        *,
        timeout: float | None = None,
        correlation_id: str | None = None,
    ) -> Gateway:
        """Close a gateway's circuit, and let whoever waits for it try at once.

        Raises:
            GatewayNotFoundError: none has this name.

        Cancellation ends the wait; once the broker has the request, it is carried out.
        """
        response = await self._connection.call(
            self._connection.gateways.ResetCircuitBreaker,
            pb.ResetCircuitBreakerRequest(gateway_id=gateway_id),
            timeout=timeout or TIMEOUT,
            idempotent=False,
            correlation_id=correlation_id,
        )
        return conversion.gateway(response.gateway)
