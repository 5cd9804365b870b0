"""The composition root: everything is built here, in order, and taken down in order.

The stop, once and in this order: refuse new sessions; tell watchers; close the links and leave
the sessions to the next broker, which watchers still see; write what is left of the log; end the
streams; stop HTTP and gRPC; wait for the last handler; give the database up.
``tests/integration/test_stop.py`` holds us to it.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import importlib.metadata
import logging
import os
import random
import socket
import time
import uuid
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from broker.access.doorkeeper import Doorkeeper
from broker.access.identity import Role
from broker.config import Settings, is_loopback
from broker.errors import StoreFencedError, StoreUnavailableError
from broker.events.archive import Archive
from broker.events.catalogue import Catalogue
from broker.events.hub import Hub
from broker.events.log import RETRY_INTERVAL, EventLog
from broker.events.watch import Watches
from broker.gateway.base import Probe
from broker.gateway.endpoint import Endpoint
from broker.gateway.ib import IBConnector
from broker.http.console import PULSE, Console
from broker.http.guard import Authenticate, Guard
from broker.http.health import Readiness
from broker.http.server import Exposition, HttpServer
from broker.rpc import convert
from broker.rpc.audit import Audit
from broker.rpc.auth import Gate
from broker.rpc.broker_service import BrokerService
from broker.rpc.gateway_service import GatewayService
from broker.rpc.health import HealthReporter
from broker.rpc.server import Server
from broker.rpc.session_service import SessionService
from broker.runtime.admission import Admission
from broker.runtime.gateways import Gateways
from broker.runtime.housekeeping import Housekeeper, Retention
from broker.runtime.manager import SessionManager
from broker.runtime.observer import Observer
from broker.runtime.supervisor import Ports
from broker.session.model import Session
from broker.store.embedded import EmbeddedPostgres, EmbeddedSettings
from broker.store.postgres import StoreSettings, schema_is_behind
from broker.store.record import PostgresStore
from broker.telemetry.metrics import Metrics
from broker.telemetry.observers import telemetry
from broker.telemetry.readings import Readings

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
        metrics: what it counts; None if that is switched off.
        http_address: where health and the console are, likewise; empty without HTTP.
        metrics_address: where metrics are, likewise; empty without any.
    """

    grpc_address: str
    embedded: bool
    taken_up: int
    metrics: Metrics | None = None
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
    version, instance = importlib.metadata.version("gateway-broker"), uuid.uuid4()
    async with AsyncExitStack() as stack:
        stack.enter_context(_first_cause())
        doorkeeper = Doorkeeper(
            access_file=settings.access_file,
            tls=settings.tls_files,
            client_role=Role[settings.tls_client_role.upper()],
            now=now,
        )
        told = await stack.enter_async_context(
            telemetry(settings, version=version, instance=instance, now=now)
        )
        store = await _store(settings, stack, told.observer)
        left = await store.list_active_connections()
        hub = await _hub(settings, store, left, told.observer)
        log = EventLog(
            store,
            hub,
            grace=settings.store_grace,
            written=told.observer.written if told.traces is not None else None,
        )
        async with asyncio.TaskGroup() as tasks:
            writer = tasks.create_task(log.run(), name="event-log")
            gateways = Gateways(
                _endpoints(settings, told.observer),
                store=store,
                tasks=tasks,
                now=now,
                new_id=uuid.uuid4,
                observer=told.observer,
            )
            await gateways.load()
            ports = Ports(
                log=log,
                now=now,
                random=random.random,
                new_id=uuid.uuid4,
                open_unrecorded=settings.open_unrecorded,
                observer=told.observer,
            )
            manager = SessionManager(
                gateways,
                catalogue=Catalogue(hub, store),
                ports=ports,
                lease_limit=settings.lease_limit,
                tasks=tasks,
            )
            readings = Readings(manager, hub, log, lambda: store.holds_lock, now)
            manager.take_up(left)
            housekeeper = Housekeeper(store, hub, _retention(settings))
            health = HealthReporter(manager, log, lambda: store.holds_lock, doorkeeper)
            server = Server(
                settings.grpc_listen,
                watcher_limit=settings.watcher_limit,
                doorkeeper=doorkeeper,
                gate=Gate(doorkeeper, manager.owner, Audit(time.monotonic)),
                sessions=SessionService(
                    Admission(manager, ports, session_limit=settings.session_limit),
                    manager,
                    Watches(hub, store, idle=settings.bookmark_interval),
                    now,
                    stop_grace=settings.stop_grace,
                ),
                gateways=GatewayService(manager, now),
                broker=BrokerService(
                    version=version,
                    instance=instance,
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
                    doorkeeper=doorkeeper,
                ),
                health=health,
                observer=told,
            )
            # What ends when the stop begins, and what its last step still needs.
            early = (
                tasks.create_task(told.run(readings, left), name="loop-lag"),
                tasks.create_task(health.run(), name="health"),
                tasks.create_task(housekeeper.run(), name="housekeeping"),
            )
            late = (
                tasks.create_task(gateways.run(), name="quarantine"),
                tasks.create_task(_guard(store), name="database-lock"),
                tasks.create_task(doorkeeper.run(), name="access-files"),
                writer,
            )
            # Nobody is to see a session CONNECTED whose link died with the broker before this one.
            await log.flush(settings.store_timeout)
            http = await _http(
                settings,
                stack,
                server,
                watches=Watches(hub, store, idle=PULSE),
                readiness=Readiness(manager, log, lambda: store.holds_lock),
                authenticate=doorkeeper.authenticate if settings.access_file else None,
                exposition=told.metrics.exposition if told.metrics is not None else None,
            )
            await server.start()
            manager.begin_leases()
            try:
                yield Running(
                    server.address,
                    settings.database_url is None,
                    len(left),
                    told.metrics,
                    http.address,
                    http.metrics_address,
                )
            finally:
                manager.refuse_new()
                for task in early:
                    task.cancel()
                await health.drain()
                hub.announce_draining()
                await manager.leave_all()
                await log.flush(settings.store_timeout)
                await gateways.write()
                manager.abandon()
                hub.end()
                await http.stop()
                await server.stop(settings.stop_grace)
                for task in late:
                    task.cancel()


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


async def _hub(
    settings: Settings, store: PostgresStore, sessions: Sequence[Session], observer: Observer
) -> Hub:
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
        seen=observer.seen,
    )


def _endpoints(settings: Settings, observer: Observer) -> dict[str, Endpoint]:
    return {
        name: Endpoint(
            gateway.settings(name),
            IBConnector(),
            now=now,
            random=random.random,
            on_dialled=observer.dialled,
            on_probed=functools.partial(_answered, observer, name),
        )
        for name, gateway in settings.gateways.items()
    }


def _answered(observer: Observer, gateway_id: str, probe: Probe) -> None:
    observer.answered(gateway_id, probe.latency)


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
        local=is_loopback(settings.http_listen),
        authenticate=authenticate,
        insecure=settings.insecure_no_auth,
    )
    server = HttpServer(
        listen=settings.http_listen,
        metrics_listen=settings.metrics_listen,
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
        metrics_guard=Guard(local=is_loopback(settings.metrics_listen), insecure=True),
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


async def _store(settings: Settings, stack: AsyncExitStack, observer: Observer) -> PostgresStore:
    dsn = await _database(settings, stack)
    holder = f"{socket.gethostname()} pid {os.getpid()}"
    store = await PostgresStore.open(
        StoreSettings(dsn=dsn, timeout=settings.store_timeout), holder, observer.stored
    )
    stack.push_async_callback(store.close)
    return store


async def _database(settings: Settings, stack: AsyncExitStack) -> str:
    if settings.database_url is not None:
        if settings.auto_migrate:
            await _migrate(settings, settings.database_url)
        return settings.database_url
    embedded = await stack.enter_async_context(
        EmbeddedPostgres(EmbeddedSettings(data_dir=settings.data_dir))
    )
    await _migrate(settings, embedded.dsn)
    logger.warning(
        "embedded_database",
        extra={
            "data_dir": str(settings.data_dir),
            "hint": "no DATABASE_URL: the record is kept in the broker's own PostgreSQL; "
            "gateway-broker db url shows how to look into it",
        },
    )
    return embedded.dsn


async def _migrate(settings: Settings, dsn: str) -> None:
    if await schema_is_behind(StoreSettings(dsn=dsn, timeout=settings.store_timeout)):
        # Alembic takes longer to import than most starts have left to do.
        from broker.store.migration import upgrade  # noqa: PLC0415

        await upgrade(dsn)


async def _guard(store: PostgresStore) -> None:
    """Take the database's lock again whenever its connection is lost; StoreFencedError if
    another broker was quicker. Sessions keep their links meanwhile: the Gateway's own error
    326 keeps a newcomer from doubling them.
    """
    while True:
        await store.wait_lock_lost()
        logger.error("database_lock_lost")
        while True:
            try:
                await store.reacquire()
            except StoreFencedError:
                raise
            except StoreUnavailableError:
                await asyncio.sleep(RETRY_INTERVAL)
            else:
                logger.warning("database_lock_regained")
                break
