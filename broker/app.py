"""The composition root: everything is built here, in order, and taken down in order.

The stop, once and in this order: refuse new sessions; tell watchers; close the links and leave
the sessions to the next broker, which watchers still see; write what is left of the log; end the
streams; stop HTTP and gRPC; wait for the last handler; give the database up.
``tests/integration/test_stop.py`` holds us to it.
"""

from __future__ import annotations

import asyncio
import gc
import importlib.metadata
import logging
import os
import random
import socket
import uuid
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from broker.config import Settings, is_loopback
from broker.errors import StoreFencedError, StoreUnavailableError
from broker.events.archive import Archive
from broker.events.catalogue import Catalogue
from broker.events.hub import Hub
from broker.events.log import RETRY_INTERVAL, EventLog
from broker.events.watch import Watches
from broker.gateway.endpoint import Endpoint
from broker.gateway.ib import IBConnector
from broker.http.console import PULSE, Console
from broker.http.guard import Authenticate, Guard
from broker.http.health import Readiness
from broker.http.server import Exposition, HttpServer
from broker.rpc import convert
from broker.rpc.broker_service import BrokerService
from broker.rpc.gateway_service import GatewayService
from broker.rpc.health import HealthReporter
from broker.rpc.server import Server
from broker.rpc.session_service import SessionService
from broker.runtime.admission import Admission
from broker.runtime.gateways import Gateways
from broker.runtime.housekeeping import Housekeeper, Retention
from broker.runtime.manager import SessionManager
from broker.runtime.supervisor import Ports
from broker.session.model import Session
from broker.store.embedded import EmbeddedPostgres, EmbeddedSettings
from broker.store.migration import upgrade
from broker.store.postgres import StoreSettings
from broker.store.record import PostgresStore

logger = logging.getLogger(__name__)

DAY: Final = 86_400.0
_PAGE: Final = 5000
"""How many events of the log one statement reads when a broker starts: it has a deadline."""


@dataclass(frozen=True, slots=True)
class Running:
    """A broker that serves.

    Args:
        grpc_address: where, HOST:PORT with the real port.
        embedded: whether the database is the broker's own.
        taken_up: how many sessions a broker before this one had left.
        http_address: where health and the console are, likewise; empty without HTTP.
        metrics_address: where metrics are, likewise; empty without any.
    """

    grpc_address: str
    embedded: bool
    taken_up: int
    http_address: str = ""
    metrics_address: str = ""


def now() -> datetime:
    """The wall clock, in UTC."""
    return datetime.now(UTC)


@asynccontextmanager
async def broker(settings: Settings) -> AsyncIterator[Running]:
    """Run a broker for as long as the body runs.

    Raises:
        StartupError: it cannot start; whatever was begun has been undone.

    If a task that the broker cannot do without dies, the body is cancelled and the
    cause is raised from here.
    """
    # The collector makes the tail of a fan-out: full collections are worth a third of it.
    gc.set_threshold(50_000, 20, 100)
    start_time = now()
    async with AsyncExitStack() as stack:
        stack.enter_context(_first_cause())
        dsn = await _database(settings, stack)
        holder = f"{socket.gethostname()} pid {os.getpid()}"
        store = await PostgresStore.open(
            StoreSettings(dsn=dsn, timeout=settings.store_timeout), holder
        )
        stack.push_async_callback(store.close)
        left = await store.list_active_connections()
        hub = await _hub(settings, store, left)
        log = EventLog(store, hub, grace=settings.store_grace)
        async with asyncio.TaskGroup() as tasks:
            writer = tasks.create_task(log.run(), name="event-log")
            gateways = Gateways(
                {
                    name: Endpoint(
                        gateway.settings(name), IBConnector(), now=now, random=random.random
                    )
                    for name, gateway in settings.gateways.items()
                },
                store=store,
                tasks=tasks,
                now=now,
            )
            await gateways.load()
            ports = Ports(
                log=log,
                now=now,
                random=random.random,
                new_id=uuid.uuid4,
                open_unrecorded=settings.open_unrecorded,
            )
            manager = SessionManager(
                gateways,
                catalogue=Catalogue(hub, store),
                ports=ports,
                lease_limit=settings.lease_limit,
                tasks=tasks,
            )
            manager.take_up(left)
            keeper = tasks.create_task(gateways.run(), name="quarantine")
            housekeeper = Housekeeper(store, hub, _retention(settings))
            cleaner = tasks.create_task(housekeeper.run(), name="housekeeping")
            health = HealthReporter(manager, log, lambda: store.holds_lock)
            server = Server(
                settings.grpc_listen,
                watcher_limit=settings.watcher_limit,
                sessions=SessionService(
                    Admission(manager, ports, session_limit=settings.session_limit),
                    manager,
                    Watches(hub, store, idle=settings.bookmark_interval),
                    now,
                    stop_grace=settings.stop_grace,
                ),
                gateways=GatewayService(manager, now),
                broker=BrokerService(
                    version=importlib.metadata.version("gateway-broker"),
                    instance=uuid.uuid4(),
                    store_id=store.store_id,
                    epoch=store.epoch,
                    start_time=start_time,
                    hub=hub,
                    limits=convert.limits(
                        sessions=settings.session_limit,
                        watchers=settings.watcher_limit,
                        watch_lag=settings.watch_lag,
                        lease_ttl=settings.lease_limit,
                        retention_age=settings.retention_days * DAY,
                        retention_events=settings.retention_events,
                    ),
                ),
                health=health,
            )
            reporter = tasks.create_task(health.run(), name="health")
            guard = tasks.create_task(_guard(store), name="database-lock")
            # Nobody is to see a session CONNECTED whose link died with the broker before this one.
            await log.flush(settings.store_timeout)
            http = await _http(
                settings,
                stack,
                server,
                watches=Watches(hub, store, idle=PULSE),
                readiness=Readiness(manager, log, lambda: store.holds_lock),
                # Neither tokens nor metrics exist yet.
                authenticate=None,
                exposition=None,
            )
            await server.start()
            manager.begin_leases()
            try:
                yield Running(
                    server.address,
                    settings.database_url is None,
                    len(left),
                    http.address,
                    http.metrics_address,
                )
            finally:
                manager.refuse_new()
                reporter.cancel()
                cleaner.cancel()
                await health.drain()
                hub.announce_draining()
                await manager.leave_all()
                await log.flush(settings.store_timeout)
                await gateways.write()
                manager.abandon()
                hub.end()
                await http.stop()
                await server.stop(settings.stop_grace)
                guard.cancel()
                keeper.cancel()
                writer.cancel()


@contextmanager
def _first_cause() -> Iterator[None]:
    """What ended a task group is the first error in it; the others are its consequences."""
    try:
        yield
    except BaseExceptionGroup as group:
        cause: BaseException = group
        while isinstance(cause, BaseExceptionGroup):
            cause = cause.exceptions[0]
        raise cause from group


async def _hub(settings: Settings, store: PostgresStore, sessions: Sequence[Session]) -> Hub:
    """What is visible at the start: watchers that come back find the newest events in memory."""
    memory = settings.watch_memory
    newest = await store.revision()
    pages = [
        await store.read_log(after, limit=_PAGE)
        for after in range(max(newest - memory, 0), max(newest, 1), _PAGE)
    ]
    oldest = pages[-1].oldest
    return Hub(
        Archive(store),
        memory=memory,
        lag=settings.watch_lag,
        revision=newest,
        oldest=oldest,
        sessions=sessions,
        recent=[event for page in pages for event in page.events if event.revision >= oldest],
    )


async def _http(
    settings: Settings,
    stack: AsyncExitStack,
    api: Server,
    *,
    watches: Watches,
    readiness: Readiness,
    authenticate: Authenticate | None,
    exposition: Exposition | None,
) -> HttpServer:
    guard = Guard(
        local=is_loopback(settings.http_listen.rpartition(":")[0]),
        authenticate=authenticate,
        insecure=settings.insecure_no_auth,
    )
    server = HttpServer(
        listen=settings.http_listen,
        metrics_listen=f"{settings.metrics_host}:{settings.prometheus_port}",
        readiness=readiness,
        console=Console(
            sessions=api.sessions,
            gateways=api.gateways,
            broker=api.broker,
            watches=watches,
            readiness=readiness,
            guard=guard,
            limit=settings.console_limit,
        ),
        guard=guard,
        metrics_guard=Guard(local=is_loopback(settings.metrics_host), insecure=True),
        exposition=exposition,
    )
    stack.push_async_callback(server.stop)
    await server.start()
    return server


def _retention(settings: Settings) -> Retention:
    return Retention(
        max_age=settings.retention_days * DAY,
        max_events=settings.retention_events,
        interval=settings.retention_interval,
    )


async def _database(settings: Settings, stack: AsyncExitStack) -> str:
    if settings.database_url is not None:
        if settings.auto_migrate:
            await upgrade(settings.database_url)
        return settings.database_url
    embedded = await stack.enter_async_context(
        EmbeddedPostgres(EmbeddedSettings(data_dir=settings.data_dir))
    )
    await upgrade(embedded.dsn)
    logger.warning(
        "no DATABASE_URL: the record is kept in the broker's own PostgreSQL",
        extra={"data_dir": str(settings.data_dir), "look_inside": "gateway-broker db url"},
    )
    return embedded.dsn


async def _guard(store: PostgresStore) -> None:
    """Take the database's lock again whenever its connection is lost; StoreFencedError if
    another broker was quicker. Sessions keep their links meanwhile: the Gateway's own error
    326 keeps a newcomer from doubling them.
    """
    while True:
        await store.wait_lock_lost()
        logger.error("the connection that holds the database's lock is lost")
        while True:
            try:
                await store.reacquire()
            except StoreFencedError:
                raise
            except StoreUnavailableError:
                await asyncio.sleep(RETRY_INTERVAL)
            else:
                break
