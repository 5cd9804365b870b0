"""The configured gateways: who holds which id on them, and what operators decided about them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Final
from uuid import UUID

from broker.errors import (
    GatewayError,
    GatewayNotFoundError,
    StoreFencedError,
    StoreUnavailableError,
)
from broker.events.log import RETRY_INTERVAL
from broker.gateway.base import Link, Notice
from broker.gateway.conditions import News, conditions_of
from broker.gateway.endpoint import Endpoint
from broker.gateway.heartbeat import watch_over
from broker.runtime.observer import Observer
from broker.runtime.trace import correlation_id
from broker.session.client_ids import ClientIds, Quarantined
from broker.session.drain import Drain
from broker.store.base import Store

logger = logging.getLogger(__name__)

PROBE_CLIENT_ID: Final = 9999
"""That of the sentinel; never given to a session that did not name it."""

_PAUSE: Final = 1.0
"""Seconds before a sentinel whose link was lost dials again."""


class Gateways:
    """All gateways of this broker.

    Args:
        endpoints: by name.
        store: what must be known after a restart.
        tasks: owns the sentinels.
        now: the time, in UTC.
        new_id: makes a UUID4.
        observer: is told of the sentinels' links.
    """

    def __init__(
        self,
        endpoints: Mapping[str, Endpoint],
        *,
        store: Store,
        tasks: asyncio.TaskGroup,
        now: Callable[[], datetime],
        new_id: Callable[[], UUID],
        observer: Observer,
    ) -> None:
        self.endpoints = endpoints
        self._store = store
        self._tasks = tasks
        self._now = now
        self._new_id = new_id
        self._observer = observer
        self._sentinels: dict[str, asyncio.Task[None]] = {}
        self._stopped = False
        # What is to be written: bounded by the number of client ids.
        self._unwritten: dict[tuple[str, int], Quarantined | None] = {}
        self._work = asyncio.Event()
        self._ids = {
            name: ClientIds(
                name,
                endpoint.settings.client_ids,
                frozenset({PROBE_CLIENT_ID, endpoint.settings.master_client_id or 0}),
                on_quarantine=self._recorder(name),
            )
            for name, endpoint in endpoints.items()
        }

    async def load(self) -> None:
        """Know again what was known before the start.

        Raises:
            StoreUnavailableError: the record cannot be read.
        """
        for name, endpoint in self.endpoints.items():
            settings = endpoint.settings
            self._ids[name].restore(await self._store.list_quarantine(settings.host, settings.port))
            endpoint.set_drain(await self._store.get_drain(name))

    @property
    def unwritten(self) -> int:
        """How many changes of quarantines wait for the database."""
        return len(self._unwritten)

    def endpoint(self, gateway_id: str) -> Endpoint:
        """The gateway of that name.

        Raises:
            GatewayNotFoundError: there is none.
        """
        try:
            return self.endpoints[gateway_id]
        except KeyError:
            raise GatewayNotFoundError(gateway_id, list(self.endpoints)) from None

    def client_ids(self, gateway_id: str) -> ClientIds:
        """The ids of a gateway that exists."""
        return self._ids[gateway_id]

    async def set_drain(self, gateway_id: str, actor: str, reason: str | None) -> Endpoint:
        """Take a gateway out of use, or back into it.

        Args:
            gateway_id: which.
            actor: who decides.
            reason: why it is drained; None resumes it.

        Raises:
            GatewayNotFoundError: there is none of that name.
            StoreUnavailableError: it could not be recorded; nothing was changed.
        """
        endpoint = self.endpoint(gateway_id)
        drain = Drain(actor, reason, self._now()) if reason is not None else None
        await self._store.set_drain(gateway_id, drain)
        logger.warning(
            "gateway_drained" if drain is not None else "gateway_resumed",
            extra={"gateway_id": gateway_id, "actor": actor, "reason": reason or ""},
        )
        endpoint.set_drain(drain)
        return endpoint

    def occupied(self, gateway_id: str, sessions: int) -> None:
        """So many sessions use the gateway now: its sentinel leaves, or comes back."""
        settings = self.endpoints[gateway_id].settings
        if not settings.sentinel:
            return
        if sessions or self._stopped:
            sentinel = self._sentinels.pop(gateway_id, None)
            if sentinel is not None:
                sentinel.cancel()
                self.endpoints[gateway_id].plan_check(None)
        elif gateway_id not in self._sentinels:
            self._sentinels[gateway_id] = self._tasks.create_task(
                self._sentinel(self.endpoints[gateway_id]), name=f"sentinel-{gateway_id}"
            )

    def stop(self) -> None:
        """Let the sentinels end, and start no more."""
        self._stopped = True
        for name, endpoint in self.endpoints.items():
            self.occupied(name, 0)
            endpoint.stop()

    async def run(self) -> None:
        """Write which ids are in quarantine, until cancelled."""
        while True:
            await self._work.wait()
            await self.write()
            if self._unwritten:
                await asyncio.sleep(RETRY_INTERVAL)
            else:
                self._work.clear()

    async def write(self) -> None:
        """Write what is not written yet, as far as the database takes it."""
        for (name, client_id), item in list(self._unwritten.items()):
            settings = self.endpoints[name].settings
            try:
                if item is None:
                    await self._store.lift_quarantine(settings.host, settings.port, client_id)
                else:
                    await self._store.quarantine(settings.host, settings.port, item)
            except StoreFencedError:
                raise
            except StoreUnavailableError:
                return
            if self._unwritten.get((name, client_id)) is item:
                del self._unwritten[name, client_id]

    def _recorder(self, name: str) -> Callable[[int, Quarantined | None], None]:
        def record(client_id: int, item: Quarantined | None) -> None:
            self._unwritten[name, client_id] = item
            self._work.set()

        return record

    async def _sentinel(self, endpoint: Endpoint) -> None:
        """Hold one connection to a gateway that no session uses, so that its health is known."""
        settings = endpoint.settings

        link: Link | None = None
        news = News()

        def noticed(notice: Notice) -> None:
            conditions = conditions_of(notice, self._now())
            if not news.has(notice, conditions, live=link is not None):
                return
            logger.info(
                "notice",
                extra={
                    "gateway_id": settings.gateway_id,
                    "tws_code": notice.code,
                    "text": notice.text,
                },
            )

        # Whatever task made this one: its cause is another.
        self._observer.settled()
        correlation_id.set(str(self._new_id()))
        while True:
            link, news = None, News()
            endpoint.plan_check(0.0)
            try:
                link = await endpoint.connect(
                    PROBE_CLIENT_ID, timeout=settings.timeout, on_notice=noticed, held_back=True
                )
            except GatewayError as error:
                logger.info(
                    "gateway_unreachable",
                    extra={"gateway_id": settings.gateway_id, "error": str(error)},
                )
                # Before the endpoint's own wait is over nobody is let dial.
                pause = max(settings.health_check_interval, endpoint.retry_in or 0.0)
                endpoint.plan_check(pause)
                await endpoint.wait(
                    pause,
                    unanswered_at=None if error.answered else self._now(),
                )
                continue
            logger.info("sentinel_connected", extra={"gateway_id": settings.gateway_id})
            try:
                loss = await watch_over(
                    link,
                    interval=settings.heartbeat_interval,
                    timeout=settings.heartbeat_timeout,
                    answered=lambda probe: self._observer.answered(
                        settings.gateway_id, probe.latency
                    ),
                )
            finally:
                await link.close()
            self._observer.lost(settings.gateway_id, loss)
            correlation_id.set(str(self._new_id()))
            logger.warning(
                "sentinel_lost", extra={"gateway_id": settings.gateway_id, "error": str(loss)}
            )
            await asyncio.sleep(_PAUSE)
