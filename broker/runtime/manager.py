"""All sessions of this broker: how each is begun or taken up, used and ended."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar
from uuid import UUID

from broker.errors import (
    BrokerDrainingError,
    GatewayError,
    SessionClosedError,
    SessionNotConnectedError,
    StoreUnavailableError,
)
from broker.events.catalogue import Catalogue
from broker.gateway.base import Probe
from broker.gateway.fault_table import Symptom
from broker.gateway.faults import Target, failure
from broker.runtime.gateways import Gateways
from broker.runtime.supervisor import Ports, Supervisor, Vitals
from broker.session import machine
from broker.session.inputs import BrokerRestarted, EndRequested, LinkEnded
from broker.session.model import CloseReason, Failure, Session, SessionNotice

logger = logging.getLogger(__name__)

T = TypeVar("T")

_NO_VITALS: Final = Vitals()


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
    """Begins, takes up, uses and ends sessions.

    Args:
        gateways: the gateways.
        catalogue: where sessions are looked up.
        ports: what each supervisor is given.
        lease_limit: how many seconds a lease may last at most.
        tasks: owns the supervisors.
        close_timeout: seconds that a caller waits at most for a session to end: a FIN
            close takes 5 s at most.

    Attributes:
        is_draining: whether the broker stops, and takes no new session.
    """

    def __init__(
        self,
        gateways: Gateways,
        *,
        catalogue: Catalogue,
        ports: Ports,
        lease_limit: float,
        tasks: asyncio.TaskGroup,
        close_timeout: float = 15.0,
    ) -> None:
        self.gateways = gateways
        self.catalogue = catalogue
        self.is_draining = False
        self._ports = ports
        self._lease_limit = lease_limit
        self._tasks = tasks
        self._close_timeout = close_timeout
        self._supervisors: dict[UUID, Supervisor] = {}
        self._requests: dict[tuple[str, UUID], Supervisor] = {}
        self._running: set[asyncio.Task[None]] = set()
        for name, endpoint in gateways.endpoints.items():
            endpoint.tell = functools.partial(self._tell, name)

    def begin(self, step: machine.Step, *, taken_up: bool = False) -> Supervisor:
        """Supervise a session from a step on; it holds its client id and its seat at once.

        Raises:
            StoreUnavailableError: too much waits for the database already; nothing has begun.
        """
        session = step.session
        spec = session.spec
        ids = self.gateways.client_ids(spec.gateway_id)
        endpoint = self.gateways.endpoint(spec.gateway_id)
        supervisor = Supervisor(step, endpoint, ids, self._ports, taken_up=taken_up)
        ids.take(session.client_id, spec.session_id)
        self._supervisors[spec.session_id] = supervisor
        if spec.request_id is not None:
            self._requests[spec.owner, spec.request_id] = supervisor
        self._count(spec.gateway_id)
        task = self._tasks.create_task(
            self._supervise(supervisor), name=f"session-{spec.session_id}"
        )
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return supervisor

    # -- what is known of each ---------------------------------------------------

    @property
    def supervisors(self) -> Mapping[UUID, Supervisor]:
        """Those of all sessions that hold a seat."""
        return self._supervisors

    def requested(self, owner: str, request_id: UUID) -> Supervisor | None:
        """The supervisor of the session that was opened with this request_id."""
        return self._requests.get((owner, request_id))

    def granted(self, lease_ttl: float | None) -> float | None:
        """Seconds that a lease lasts for which so many are asked."""
        return None if lease_ttl is None else min(lease_ttl, self._lease_limit)

    def vitals(self, session_id: UUID) -> Vitals:
        """What is known of a session beside its record; nothing of one that has ended."""
        supervisor = self._supervisors.get(session_id)
        return supervisor.vitals if supervisor is not None else _NO_VITALS

    async def owner(self, session_id: UUID) -> str:
        """Whose a session is, which never changes.

        Raises:
            SessionNotFoundError: there is no record of it.
            StoreUnavailableError: it is not open, and the database does not answer.
        """
        supervisor = self._supervisors.get(session_id)
        if supervisor is not None:
            return supervisor.session.spec.owner
        return (await self.catalogue.get(session_id)).spec.owner

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
            return Verdict(None, _why(await self.catalogue.get(session_id)))
        try:
            probe = await supervisor.probe()
        except GatewayError as error:
            if supervisor.was_asked_to_end:
                return Verdict(None, None)
            return Verdict(None, Failure.of(error, time=self._ports.now(), attempt=0))
        if probe is None:
            return Verdict(None, None if supervisor.was_asked_to_end else _why(supervisor.session))
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
            BrokerDrainingError: the broker stops, and leaves the session to the next one.
            StoreUnavailableError: it is not open, and the database does not answer.

        Cancellation is safe: the session ends all the same.
        """
        supervisor = self._supervisors.get(session_id)
        if supervisor is None:
            return await self._get_final(session_id)
        logger.info(
            "close_requested",
            extra={
                "session_id": str(session_id),
                "gateway_id": supervisor.session.spec.gateway_id,
                "correlation_id": str(correlation_id),
                "actor": actor,
                "comment": comment,
            },
        )
        supervisor.request_end(CloseReason.CLOSE_REQUESTED, actor, correlation_id)
        return await self.wait_ended(supervisor)

    async def renew(self, session_id: UUID, lease_ttl: float | None, *, actor: str) -> Session:
        """Let a session's lease begin anew.

        Args:
            session_id: which.
            lease_ttl: seconds that it lasts from now on, at most what is allowed; None as before.
            actor: who wants it.

        Raises:
            SessionNotFoundError: there is no record of it.
            SessionClosedError: it has ended, or is about to.
            BrokerDrainingError: the broker stops; no lease runs out meanwhile.
            InvalidArgumentError: it has no lease, and none is asked for.
            StoreUnavailableError: it is not open, and the database does not answer.

        Cancellation is safe.
        """
        supervisor = self._supervisors.get(session_id)
        if supervisor is None:
            session = await self._get_final(session_id)
            reason = session.close_reason or session.state.value
            raise SessionClosedError(str(session_id), reason)
        await supervisor.renew(self.granted(lease_ttl), actor)
        return await self.catalogue.get(session_id)

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
            session = await self.catalogue.get(session_id)
            raise SessionNotConnectedError(str(session_id), session.state.value)
        await supervisor.acknowledge(generation, actor)
        return await self.catalogue.get(session_id)

    async def end_sessions(self, gateway_id: str, reason: CloseReason, actor: str) -> None:
        """End the sessions of a gateway, and return when they have ended."""
        supervisors = self._on(gateway_id)
        for supervisor in supervisors:
            supervisor.request_end(reason, actor)
        for supervisor in supervisors:
            await self.wait_ended(supervisor)

    # -- from one broker to the next ---------------------------------------------

    def take_up(self, sessions: Sequence[Session]) -> None:
        """Go on with the sessions of the broker before this one: those that are not final.

        A session whose gateway is no longer configured, or is elsewhere now, ends.
        """
        for session in sessions:
            spec = session.spec
            endpoint = self.gateways.endpoints.get(spec.gateway_id)
            address = (endpoint.settings.host, endpoint.settings.port) if endpoint else None
            if address != (spec.host, spec.port):
                self._remove(session)
                continue
            target = Target(spec.host, spec.port, session.client_id)
            error = failure(Symptom.BROKER_RESTARTED, target)
            step = machine.step(
                session,
                BrokerRestarted(Failure.of(error, time=self._ports.now(), attempt=0)),
                now=self._ports.now(),
                correlation_id=self._ports.new_id(),
            )
            if step.session.state.is_final:
                self._ports.log.submit(step.events)
            else:
                self.begin(step, taken_up=True)
        for gateway_id in self.gateways.endpoints:
            self._count(gateway_id)

    def begin_leases(self) -> None:
        """Let the leases of all sessions that were taken up begin: none ran out meanwhile."""
        for supervisor in self._supervisors.values():
            supervisor.begin_lease()

    def refuse_new(self) -> None:
        """Take no new session from now on."""
        self.is_draining = True
        self.gateways.stop()

    async def leave_all(self) -> None:
        """Close every link and leave the sessions to the next broker; those that only a caller
        wanted who waits for them now, and those that were asked to end, end.

        Returns when nothing is left to do, or after the close timeout.
        """
        supervisors = list(self._supervisors.values())
        for supervisor in supervisors:
            supervisor.request_stop()
        if supervisors:
            await asyncio.wait(
                [supervisor.ended for supervisor in supervisors], timeout=self._close_timeout
            )

    def abandon(self) -> None:
        """Wait no longer for sessions whose last events the database does not take: the next broker
        finds them in the record as they were before. Their links have ended, or end with this.
        """
        for task in self._running:
            task.cancel()

    def _remove(self, session: Session) -> None:
        correlation_id = self._ports.new_id()
        logger.warning(
            "gateway_removed",
            extra={
                "session_id": str(session.spec.session_id),
                "gateway_id": session.spec.gateway_id,
                "correlation_id": str(correlation_id),
                "address": f"{session.spec.host}:{session.spec.port}",
            },
        )
        for item in (EndRequested(CloseReason.GATEWAY_REMOVED, "broker"), LinkEnded()):
            if isinstance(item, EndRequested) and session.is_closing:
                continue
            step = machine.step(session, item, now=self._ports.now(), correlation_id=correlation_id)
            self._ports.log.submit(step.events)
            session = step.session

    async def _supervise(self, supervisor: Supervisor) -> None:
        try:
            await supervisor.run()
        finally:
            spec = supervisor.session.spec
            del self._supervisors[spec.session_id]
            if spec.request_id is not None:
                del self._requests[spec.owner, spec.request_id]
            self._count(spec.gateway_id)

    async def _get_final(self, session_id: UUID) -> Session:
        """A session that nobody works on here: it has ended, or is left to the next broker."""
        session = await self.catalogue.get(session_id)
        if not session.state.is_final:
            raise BrokerDrainingError
        return session

    async def wait_ended(self, supervisor: Supervisor) -> Session:
        """Until a session that is about to end is final in everybody's sight.

        Raises:
            BrokerDrainingError: the broker stops, and leaves it to the next one.
            StoreUnavailableError: that takes too long.
        """
        return await self._wait(supervisor.ended, supervisor, "has not ended yet")

    async def wait_released(self, supervisor: Supervisor) -> None:
        """Until what a session holds that is about to end is free for others.

        Raises:
            StoreUnavailableError: that takes too long.
        """
        await self._wait(
            supervisor.released,
            supervisor,
            "has ended, but the database has not taken the record of it yet",
        )

    async def _wait(self, future: asyncio.Future[T], supervisor: Supervisor, otherwise: str) -> T:
        try:
            async with asyncio.timeout(self._close_timeout):
                return await asyncio.shield(future)
        except TimeoutError:
            raise StoreUnavailableError(
                f"session {supervisor.session.spec.session_id} {otherwise}"
            ) from None

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
