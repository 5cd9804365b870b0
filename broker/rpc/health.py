"""The standard health service, kept up to date.

- ``""``: the process serves. It stays SERVING while a Gateway is down, else an
  orchestrator would restart a healthy broker.
- ``ibgateway.broker.v1.SessionService``: sessions can be opened as far as the broker is
  concerned: the database takes the record and nothing drains.
- ``gateways/<id>``: the last attempt to reach that Gateway was answered.
- ``access``: what the access file and the certificates say is in force.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

import grpc
from grpc_health.v1 import health, health_pb2
from ibgateway.broker.v1 import session_service_pb2

from broker.access.doorkeeper import Doorkeeper
from broker.events.log import EventLog
from broker.rpc.caller import Context
from broker.runtime.manager import SessionManager

UPDATE_INTERVAL: Final = 0.25
"""Seconds between two looks; setting an unchanged status costs nothing."""

SERVING: Final = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING: Final = health_pb2.HealthCheckResponse.NOT_SERVING
SESSION_SERVICE: Final = session_service_pb2.DESCRIPTOR.services_by_name["SessionService"].full_name


class _Servicer(health.aio.HealthServicer):
    """Everybody may ask for what he can name; nobody is told the names of the gateways."""

    async def List(self, request: Any, context: Context) -> Any:
        """Refused; the library's own answer is an error and a traceback in the log."""
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "ask Check, by the name of a service")


class HealthReporter:
    """Tells the health service what the broker knows."""

    def __init__(
        self,
        manager: SessionManager,
        log: EventLog,
        holds_lock: Callable[[], bool],
        doorkeeper: Doorkeeper,
    ) -> None:
        self.servicer = _Servicer()
        self._manager = manager
        self._log = log
        self._holds_lock = holds_lock
        self._doorkeeper = doorkeeper

    async def run(self) -> None:
        """Keep every status current until cancelled."""
        told: dict[str, int] = {}
        while True:
            for service, status in self._statuses().items():
                if told.get(service) != status:
                    await self.servicer.set(service, status)
                    told[service] = status
            await asyncio.sleep(UPDATE_INTERVAL)

    async def drain(self) -> None:
        """Every service is NOT_SERVING from now on, for good."""
        await self.servicer.enter_graceful_shutdown()

    def _statuses(self) -> dict[str, int]:
        statuses: dict[str, int] = {
            "": SERVING,
            SESSION_SERVICE: (
                SERVING if self._log.available and self._holds_lock() else NOT_SERVING
            ),
        }
        statuses["access"] = NOT_SERVING if self._doorkeeper.problem else SERVING
        for gateway_id, endpoint in self._manager.gateways.endpoints.items():
            statuses[f"gateways/{gateway_id}"] = SERVING if endpoint.reachable else NOT_SERVING
        return statuses
