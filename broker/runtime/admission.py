"""Who may open a session, under which client id, and which open a request belongs to."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from uuid import UUID
from weakref import WeakValueDictionary

from broker.errors import (
    BrokerDrainingError,
    ClientIDInUseError,
    Phase,
    RequestIdReusedError,
    SessionClosedError,
    SessionLimitError,
)
from broker.runtime.manager import SessionManager
from broker.runtime.supervisor import Ports, Supervisor
from broker.session import machine
from broker.session.model import ClientIdPolicy, CloseReason, Session, SessionSpec
from broker.session.open_request import OpenRequest


@dataclass(frozen=True, slots=True)
class Opened:
    """A session that was opened; ``created`` is whether by this request."""

    session: Session
    created: bool


class Admission:
    """Opens sessions.

    Args:
        manager: begins them.
        ports: the world.
        session_limit: how many sessions may be open at once, over all gateways.
    """

    def __init__(self, manager: SessionManager, ports: Ports, *, session_limit: int) -> None:
        self._manager = manager
        self._ports = ports
        self._session_limit = session_limit
        # One caller at a time decides what becomes of a request_id.
        self._turns: WeakValueDictionary[tuple[str, UUID], asyncio.Lock] = WeakValueDictionary()

    async def open(self, request: OpenRequest, *, correlation_id: UUID) -> Opened:
        """Open a session and wait until it is CONNECTED, unless asked to return at once; or find
        the one that an earlier request with the same request_id has opened.

        Args:
            request: what is wanted, already checked field by field.
            correlation_id: stands in the events of the open.

        Raises:
            GatewayError: the session FAILED; or, without a dial, the client id is held here.
            BrokerError: the open was refused, or the session was ended by somebody else.

        Cancellation ends the session (CALLER_GONE), in the background, if nobody else waits for it.
        """
        if request.request_id is None:
            supervisor = await self._admit(request, correlation_id)
            return await self._answer(supervisor, request, created=True)
        turn = self._turns.setdefault((request.owner, request.request_id), asyncio.Lock())
        async with turn:
            found = await self._find(request)
            if isinstance(found, Session):
                return Opened(found, created=False)
            supervisor = found or await self._admit(request, correlation_id)
        return await self._answer(supervisor, request, created=found is None)

    async def validate(self, request: OpenRequest) -> None:
        """Refuse what ``open`` would refuse now; nothing is held afterwards.

        Raises:
            BrokerError: as ``open``, before the dial.
        """
        if request.request_id is None or await self._find(request) is None:
            await self._reserve(request)

    async def _answer(
        self, supervisor: Supervisor, request: OpenRequest, *, created: bool
    ) -> Opened:
        session = await supervisor.opening.answer(at_once=request.return_immediately)
        if not created and supervisor.was_asked_to_end:
            # Its end may not be visible yet: it must not be taken for a session that works.
            session = await self._manager.wait_ended(supervisor)
        elif not created:
            session = await self._manager.catalogue.get(session.spec.session_id)
        if session.state.is_final and not session.generation:
            raise _failure(session)
        return Opened(session, created)

    async def _find(self, request: OpenRequest) -> Supervisor | Session | None:
        """What the request_id stands for: a session that is open here, one that has ended after it
        was CONNECTED, or nothing yet.

        Raises:
            RequestIdReusedError: an open with other parameters.
            StoreUnavailableError: the database does not tell, or does not take the end of an open
                that came to nothing.
        """
        assert request.request_id is not None
        found: Supervisor | Session | None
        found = self._manager.requested(request.owner, request.request_id)
        if found is not None and found.is_ending and not found.session.generation:
            # An open that came to nothing; once that is on record the request_id is free.
            await self._manager.wait_released(found)
            found = None
        if found is None:
            store = self._manager.catalogue.store
            found = await store.find_request(request.owner, request.request_id)
        if found is None:
            return None
        spec = found.spec if isinstance(found, Session) else found.session.spec
        if spec.request_hash != request.fingerprint:
            raise RequestIdReusedError(str(request.request_id), str(spec.session_id))
        return found

    async def _admit(self, request: OpenRequest, correlation_id: UUID) -> Supervisor:
        client_id = await self._reserve(request)
        # From here to the return nothing is awaited: the id that was found free is taken.
        settings = self._manager.gateways.endpoint(request.gateway_id).settings
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
            labels=dict(request.labels),
            request_id=request.request_id,
            request_hash=request.fingerprint if request.request_id is not None else None,
        )
        return self._manager.begin(
            machine.open_session(
                spec,
                client_id,
                lease_ttl=self._manager.granted(request.lease_ttl),
                now=self._ports.now(),
                correlation_id=correlation_id,
            )
        )

    async def _reserve(self, request: OpenRequest) -> int:
        """The client id that the request would get, once every limit allows it."""
        gateways, supervisors = self._manager.gateways, self._manager.supervisors
        while True:
            if self._manager.is_draining:
                raise BrokerDrainingError
            gateways.endpoint(request.gateway_id).require_open()
            if not self._ports.open_unrecorded:
                self._ports.log.require_available()
            ids = gateways.client_ids(request.gateway_id)
            holder = None if request.client_id is None else ids.holders.get(request.client_id)
            if holder is not None and supervisors[holder].is_ending:
                # An id that is being released is worth waiting for, and so is its seat.
                await self._manager.wait_released(supervisors[holder])
                continue
            self._require_room(request.gateway_id)
            if request.client_id is None:
                return ids.from_pool()
            if holder is None:
                return request.client_id
            supervisor = supervisors[holder]
            if request.client_id_policy is ClientIdPolicy.EXACT:
                raise _held(request.client_id, supervisor)
            client_id = ids.after(request.client_id)
            if client_id is None:
                raise _held(request.client_id, supervisor)
            return client_id

    def _require_room(self, gateway_id: str) -> None:
        used = Counter(
            supervisor.session.spec.gateway_id for supervisor in self._manager.supervisors.values()
        )
        limit = self._manager.gateways.endpoint(gateway_id).settings.session_limit
        if used.total() >= self._session_limit:
            raise SessionLimitError("instance", used.total(), self._session_limit)
        if used[gateway_id] >= limit:
            raise SessionLimitError("gateway", used[gateway_id], limit)


def _held(client_id: int, holder: Supervisor) -> ClientIDInUseError:
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


def _failure(session: Session) -> Exception:
    """What an open ends with whose session was never connected."""
    spec = session.spec
    if session.state is machine.FAILED and session.last_failure is not None:
        return session.last_failure.as_error(
            {
                "gateway_id": spec.gateway_id,
                "client_id": str(session.client_id),
                "session_id": str(spec.session_id),
                "phase": session.last_failure.phase.value,
                "tws_code": str(session.last_failure.tws_code),
            }
        )
    if session.close_reason == CloseReason.BROKER_STOPPING:
        return BrokerDrainingError()
    return SessionClosedError(str(spec.session_id), session.close_reason or "")
