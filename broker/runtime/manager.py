"""All sessions of this broker: who may open one, and where each is found."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from broker.errors import (
    BrokerDrainingError,
    ClientIDInUseError,
    GatewayError,
    Phase,
    SessionClosedError,
    SessionLimitError,
    SessionNotConnectedError,
    SessionNotFoundError,
    StoreUnavailableError,
)
from broker.events.hub import Hub
from broker.events.log import EventLog
from broker.gateway.base import Probe
from broker.runtime.gateways import Gateways
from broker.runtime.supervisor import Ports, Supervisor
from broker.session import machine
from broker.session.client_ids import Quarantined
from broker.session.filters import SessionFilter
from broker.session.inputs import BrokerRestarted
from broker.session.model import (
    ClientIdPolicy,
    CloseReason,
    Failure,
    Session,
    SessionNotice,
    SessionSpec,
)
from broker.store.base import PageKey, Store

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class OpenRequest:
    """What a caller wants; None is the gateway's own setting. ``timeout`` is in seconds."""

    gateway_id: str
    owner: str
    client_id: int | None = None
    client_id_policy: ClientIdPolicy = ClientIdPolicy.INCREMENT
    readonly: bool = False
    timeout: float | None = None
    max_attempts: int | None = None
    reconnect_max_attempts: int | None = None
    return_immediately: bool = False
    labels: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a session works: ``probe`` if the Gateway answered, else why not.

    ``age`` is how many seconds ago it answered. ``failure`` is None for a session that
    ended as somebody asked.
    """

    probe: Probe | None
    failure: Failure | None
    age: float = 0.0


class SessionManager:
    """Opens, finds and ends sessions.

    Args:
        gateways: the gateways.
        store: the record, for sessions that are final.
        hub: what is visible.
        ports: what each supervisor is given.
        session_limit: how many sessions may be open at once, over all gateways.
        tasks: owns the supervisors.
        close_timeout: seconds that a caller waits at most for a session to end: a FIN
            close takes 5 s at most, its record another few.
    """

    def __init__(
        self,
        gateways: Gateways,
        *,
        store: Store,
        hub: Hub,
        ports: Ports,
        session_limit: int,
        tasks: asyncio.TaskGroup,
        close_timeout: float = 15.0,
    ) -> None:
        self.gateways = gateways
        self.session_limit = session_limit
        self._store = store
        self._hub = hub
        self._log: EventLog = ports.log
        self._ports = ports
        self._tasks = tasks
        self._close_timeout = close_timeout
        self._draining = False
        self._supervisors: dict[UUID, Supervisor] = {}
        self._running: set[asyncio.Task[None]] = set()
        for name, endpoint in gateways.endpoints.items():
            endpoint.tell = functools.partial(self._tell, name)

    # -- opening -----------------------------------------------------------------

    async def open(self, request: OpenRequest, *, correlation_id: UUID) -> Session:
        """Open a session and wait until it is CONNECTED, unless asked to return at once.

        Args:
            request: what is wanted, already checked field by field.
            correlation_id: stands in the events of the open.

        Returns:
            The session as it is visible.

        Raises:
            GatewayError: the session FAILED; or, without a dial, the client id is held here.
            BrokerError: the open was refused, or the session was ended by somebody else.

        Cancellation ends the session (CALLER_GONE), in the background.
        """
        supervisor = await self._admit(request, correlation_id)
        try:
            reached = supervisor.opened if request.return_immediately else supervisor.settled
            session = await asyncio.shield(reached)
        except asyncio.CancelledError:
            supervisor.request_end(CloseReason.CALLER_GONE, request.owner)
            raise
        self._require_success(session)
        return session

    async def validate(self, request: OpenRequest) -> None:
        """Refuse what ``open`` would refuse now; nothing is held afterwards.

        Raises:
            BrokerError: as ``open``, before the dial.
        """
        await self._reserve(request)

    async def _admit(self, request: OpenRequest, correlation_id: UUID) -> Supervisor:
        client_id = await self._reserve(request)
        # From here to the return nothing is awaited: the id that was found free is taken.
        endpoint = self.gateways.endpoint(request.gateway_id)
        settings = endpoint.settings
        spec = SessionSpec(
            session_id=self._ports.new_id(),
            gateway_id=request.gateway_id,
            host=settings.host,
            port=settings.port,
            owner=request.owner,
            requested_client_id=request.client_id,
            client_id_policy=request.client_id_policy,
            readonly=request.readonly or settings.readonly,
            timeout=request.timeout if request.timeout is not None else settings.timeout,
            max_attempts=(
                request.max_attempts if request.max_attempts is not None else settings.max_attempts
            ),
            reconnect_max_attempts=request.reconnect_max_attempts,
            return_immediately=request.return_immediately,
            labels=dict(request.labels or {}),
        )
        opening = machine.open_session(
            spec, client_id, now=self._ports.now(), correlation_id=correlation_id
        )
        ids = self.gateways.client_ids(request.gateway_id)
        supervisor = Supervisor(opening, endpoint, ids, self._ports)
        ids.take(client_id, spec.session_id)
        self._supervisors[spec.session_id] = supervisor
        self._count(request.gateway_id)
        task = self._tasks.create_task(
            self._supervise(supervisor), name=f"session-{spec.session_id}"
        )
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return supervisor

    async def _reserve(self, request: OpenRequest) -> int:
        """The client id that the request would get, once every limit allows it."""
        while True:
            if self._draining:
                raise BrokerDrainingError
            self.gateways.endpoint(request.gateway_id).require_open()
            self._log.require_available()
            ids = self.gateways.client_ids(request.gateway_id)
            holder = None if request.client_id is None else ids.holders.get(request.client_id)
            if holder is not None and self._supervisors[holder].is_ending:
                # An id that is being released is worth waiting for, and so is its seat.
                await self._wait_ended(self._supervisors[holder])
                continue
            self._require_room(request.gateway_id)
            if request.client_id is None:
                return ids.from_pool()
            if holder is None:
                return request.client_id
            supervisor = self._supervisors[holder]
            if request.client_id_policy is ClientIdPolicy.EXACT:
                raise self._held(request.client_id, supervisor)
            client_id = ids.after(request.client_id)
            if client_id is None:
                raise self._held(request.client_id, supervisor)
            return client_id

    def _require_room(self, gateway_id: str) -> None:
        used = Counter(
            supervisor.session.spec.gateway_id for supervisor in self._supervisors.values()
        )
        limit = self.gateways.endpoint(gateway_id).settings.session_limit
        if used.total() >= self.session_limit:
            raise SessionLimitError("instance", used.total(), self.session_limit)
        if used[gateway_id] >= limit:
            raise SessionLimitError("gateway", used[gateway_id], limit)

    def _held(self, client_id: int, holder: Supervisor) -> ClientIDInUseError:
        spec = holder.session.spec
        return ClientIDInUseError(
            f"client id {client_id} of gateway {spec.gateway_id!r} is held by session "
            f"{spec.session_id} of {spec.owner!r}",
            phase=Phase.ADMISSION,
            hint="close that session, or ask for another id",
            metadata={
                "gateway_id": spec.gateway_id,
                "client_id": str(client_id),
                "session_id": str(spec.session_id),
                "owner": spec.owner,
            },
        )

    def _require_success(self, session: Session) -> None:
        spec = session.spec
        match session.state:
            case machine.FAILED if session.last_failure is not None:
                raise session.last_failure.as_error(
                    {
                        "gateway_id": spec.gateway_id,
                        "client_id": str(session.client_id),
                        "session_id": str(spec.session_id),
                        "phase": session.last_failure.phase.value,
                        "tws_code": str(session.last_failure.tws_code),
                    }
                )
            case machine.DISCONNECTED if session.close_reason == CloseReason.BROKER_STOPPING:
                raise BrokerDrainingError
            case machine.DISCONNECTED:
                raise SessionClosedError(str(spec.session_id), session.close_reason or "")

    # -- finding -----------------------------------------------------------------

    async def get(self, session_id: UUID) -> Session:
        """The session as it is visible, final ones included.

        Raises:
            SessionNotFoundError: there is no record of it.
            StoreUnavailableError: it is not open, and the database does not answer.
        """
        session = self._hub.sessions.get(session_id)
        if session is None:
            session = await self._store.get_connection(session_id)
        if session is None:
            raise SessionNotFoundError(str(session_id))
        return session

    async def list_sessions(
        self, wanted: SessionFilter, *, include_final: bool, after: PageKey | None, limit: int
    ) -> Sequence[Session]:
        """At most ``limit`` sessions after a key, by (create_time, session_id).

        Raises:
            StoreUnavailableError: final ones are wanted, and the database does not answer.
        """
        if include_final:
            return await self._store.list_connections(wanted, after=after, limit=limit)
        sessions = sorted(
            (session for session in self._hub.sessions.values() if wanted.matches(session)),
            key=lambda session: (session.create_time, session.spec.session_id),
        )
        if after is not None:
            sessions = [
                session
                for session in sessions
                if (session.create_time, session.spec.session_id)
                > (after.create_time, after.session_id)
            ]
        return sessions[:limit]

    def heartbeat_latency(self, session_id: UUID) -> float | None:
        """Seconds, of the last answered probe of a session that is open."""
        supervisor = self._supervisors.get(session_id)
        return supervisor.heartbeat_latency if supervisor is not None else None

    def client_ids(self, gateway_id: str) -> Mapping[int, Session]:
        """The ids held on a gateway, each with the session that holds it."""
        return {
            client_id: self._supervisors[session_id].session
            for client_id, session_id in self.gateways.client_ids(gateway_id).holders.items()
        }

    # -- using and ending --------------------------------------------------------

    async def verify(self, session_id: UUID) -> Verdict:
        """Ask the Gateway, over the session's own link, whether the session works.

        Raises:
            SessionNotFoundError: there is no record of it.
            StoreUnavailableError: it is not open, and the database does not answer.

        Cancellation is safe.
        """
        supervisor = self._supervisors.get(session_id)
        if supervisor is None:
            return Verdict(None, _why(await self.get(session_id)))
        try:
            probe = await supervisor.probe()
        except GatewayError as error:
            if supervisor.end_requested:
                return Verdict(None, None)
            return Verdict(None, Failure.of(error, time=self._ports.now(), attempt=0))
        if probe is None:
            return Verdict(None, None if supervisor.end_requested else _why(supervisor.session))
        return Verdict(probe, None, asyncio.get_running_loop().time() - probe.answered_at)

    async def close(
        self, session_id: UUID, *, actor: str, comment: str, correlation_id: UUID
    ) -> Session:
        """End a session; one that is final already is returned as it is.

        Args:
            session_id: which.
            actor: who wants it, for the record.
            comment: why, for the log.
            correlation_id: stands in the log and in the events of the close.

        Raises:
            SessionNotFoundError: there is no record of it.
            StoreUnavailableError: the link has ended, but the record of it is not written yet.

        Cancellation is safe: the session ends all the same.
        """
        supervisor = self._supervisors.get(session_id)
        if supervisor is None:
            return await self.get(session_id)
        logger.info(
            "close_requested",
            extra={
                "session_id": str(session_id),
                "correlation_id": str(correlation_id),
                "actor": actor,
                "comment": comment,
            },
        )
        supervisor.request_end(CloseReason.CLOSE_REQUESTED, actor, correlation_id)
        return await self._wait_ended(supervisor)

    async def acknowledge(self, session_id: UUID, generation: int, *, actor: str) -> Session:
        """The owner has subscribed anew to what was interrupted.

        Raises:
            SessionNotFoundError: there is no record of it.
            SessionNotConnectedError: it has no link now.
            InvalidArgumentError: the generation is not the session's.
            StoreUnavailableError: it is not open, and the database does not answer.

        Cancellation is safe.
        """
        supervisor = self._supervisors.get(session_id)
        if supervisor is None:
            session = await self.get(session_id)
            raise SessionNotConnectedError(str(session_id), session.state.value)
        return await supervisor.acknowledge(generation, actor)

    async def end_sessions(self, gateway_id: str, reason: CloseReason, actor: str) -> None:
        """End the sessions of a gateway, and return when they have ended."""
        supervisors = self._on(gateway_id)
        for supervisor in supervisors:
            supervisor.request_end(reason, actor)
        for supervisor in supervisors:
            await self._wait_ended(supervisor)

    async def recover(self) -> int:
        """Finalise what a broker that died has left in the record; returns how many sessions.

        Raises:
            StoreUnavailableError: the record cannot be read.
        """
        left = await self._store.list_active_connections()
        for session in left:
            step = machine.step(
                session,
                BrokerRestarted(),
                now=self._ports.now(),
                correlation_id=self._ports.new_id(),
            )
            await self._log.submit(step.events)
            if session.spec.gateway_id in self.gateways.endpoints:
                # Its socket died with the broker, but the Gateway may not know.
                self.gateways.client_ids(session.spec.gateway_id).quarantine(
                    Quarantined(session.client_id, CloseReason.BROKER_RESTARTED, self._ports.now())
                )
        for gateway_id in self.gateways.endpoints:
            self._count(gateway_id)
        return len(left)

    def refuse_new(self) -> None:
        """Take no new session from now on."""
        self._draining = True
        self.gateways.stop()

    async def end_all(self) -> None:
        """End every session and return when all have ended, or after the close timeout."""
        for supervisor in self._supervisors.values():
            supervisor.request_end(CloseReason.BROKER_STOPPING, "broker")
        ended = [supervisor.ended for supervisor in self._supervisors.values()]
        if ended:
            await asyncio.wait(ended, timeout=self._close_timeout)

    def abandon(self) -> None:
        """Wait no longer for sessions whose end the database does not take: the next broker
        finds them in the record. Their links have ended, or end with this.
        """
        for task in self._running:
            task.cancel()

    async def _wait_ended(self, supervisor: Supervisor) -> Session:
        try:
            async with asyncio.timeout(self._close_timeout):
                return await asyncio.shield(supervisor.ended)
        except TimeoutError:
            raise StoreUnavailableError(
                f"session {supervisor.session.spec.session_id} has no link any more, but the "
                "database has not taken the record of its end yet"
            ) from None

    async def _supervise(self, supervisor: Supervisor) -> None:
        try:
            await supervisor.run()
        finally:
            spec = supervisor.session.spec
            del self._supervisors[spec.session_id]
            self._count(spec.gateway_id)

    def _on(self, gateway_id: str) -> list[Supervisor]:
        return [
            supervisor
            for supervisor in self._supervisors.values()
            if supervisor.session.spec.gateway_id == gateway_id
        ]

    def _count(self, gateway_id: str) -> None:
        self.gateways.occupied(gateway_id, len(self._on(gateway_id)))

    def _tell(self, gateway_id: str, notice: SessionNotice) -> None:
        for supervisor in self._on(gateway_id):
            supervisor.tell(notice)


def _why(session: Session) -> Failure | None:
    """Why a session does not work; None for one that was ended as somebody asked."""
    return None if session.close_reason is not None else session.last_failure
