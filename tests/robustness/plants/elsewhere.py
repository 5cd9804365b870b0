"""Bugs elsewhere than in what watchers are told: in the record, in answers, at the Gateway."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

import asyncpg
from ibgateway.broker.v1 import session_service_pb2 as pb

from broker.errors import GatewayError
from broker.events.hub import Hub
from broker.gateway.endpoint import Endpoint
from broker.rpc.session_service import SessionService
from broker.runtime.admission import Admission
from broker.runtime.lease import Lease
from broker.runtime.manager import SessionManager
from broker.session import machine
from broker.session.model import CloseReason, Session, SessionEvent
from broker.session.open_request import OpenRequest
from broker.store.record import PostgresStore
from tests.robustness.plants.plant import plant, put

# -- what is recorded ------------------------------------------------------------------


def _after_append(statement: str, chosen: Callable[[SessionEvent], bool]) -> None:
    """Let somebody else write into the database behind the broker's back."""
    append = PostgresStore.append

    async def changed(self: PostgresStore, events: Sequence[SessionEvent]) -> Sequence[int]:
        revisions = await append(self, events)
        wanted = [event.session_id for event in events if chosen(event)]
        if wanted:
            connection = await asyncpg.connect(os.environ["DATABASE_URL"])
            await connection.execute(statement, wanted[:1])
            await connection.close()
        return revisions

    put(PostgresStore, "append", changed)


@plant("dense", favourites=("close", "open_for_long"))
def a_revision_is_lost() -> None:
    """A counter that is moved, and then not used."""
    _after_append(
        "UPDATE broker_store SET revision = revision + 1 WHERE cardinality($1::uuid[]) > 0",
        lambda event: event.session.state.is_final,
    )


@plant("folded", favourites=("close", "open_for_long"))
def a_row_drifts() -> None:
    """A row that is written by another path than its events."""
    _after_append(
        "UPDATE gateway_connections SET error_count = error_count + 1 "
        "WHERE session_id = ANY ($1::uuid[])",
        lambda event: event.session.state.is_final,
    )


@plant("legal", card="drop_links")
def a_handshake_is_not_counted() -> None:
    """The generation stays when a link is made anew."""
    step = machine.step

    def changed(session: Session, item: Any, **kwargs: Any) -> machine.Step:
        done = step(session, item, **kwargs)
        if not (session.generation and done.session.generation > session.generation):
            return done
        same = session.generation
        return machine.Step(
            replace(done.session, generation=same),
            tuple(
                replace(event, session=replace(event.session, generation=same))
                for event in done.events
            ),
        )

    machine.step = changed


# -- what callers are told -------------------------------------------------------------


@plant("fresh", favourites=("acknowledge", "verify"))
def a_lookup_is_behind() -> None:
    """A cache that is filled one event too late."""
    publish, find = Hub.publish, Hub.find
    behind: dict[UUID, Session] = {}

    def changed(self: Hub, events: Sequence[SessionEvent]) -> None:
        behind.update(self._kept)
        publish(self, events)

    def found(self: Hub, session_id: UUID) -> Session | None:
        now = find(self, session_id)
        return behind.get(session_id, now) if now is not None else None

    put(Hub, "publish", changed)
    put(Hub, "find", found)


@plant("truthful", favourites=("open_for_long",))
def an_open_is_answered_with_what_is_not() -> None:
    """The session as it was asked for, not as it has become."""
    answer = SessionService.OpenSession

    async def changed(self: SessionService, request: Any, context: Any) -> pb.OpenSessionResponse:
        response = await answer(self, request, context)
        if response.HasField("session"):
            response.session.generation = 0
            response.session.client_id = request.client_id
        return response

    put(SessionService, "OpenSession", changed)


@plant(
    "opened",
    card="kill_broker_while_the_database_is_away",
    favourites=("open_for_long", "open_for_long", "open"),
)
def an_open_does_not_wait_for_the_record() -> None:
    """Answered with what only memory knows."""
    os.environ["GATEWAY_BROKER_OPEN_UNRECORDED"] = "true"


@plant("closed", favourites=("close", "open_for_long"))
def a_close_is_answered_and_forgotten() -> None:
    """Closed in the answer only."""
    close = SessionManager.close

    async def changed(self: SessionManager, session_id: UUID, **kwargs: Any) -> Session:
        if session_id not in self.supervisors:
            return await close(self, session_id, **kwargs)
        session = await self.catalogue.get(session_id)
        return replace(
            session,
            state=machine.DISCONNECTED,
            close_reason=CloseReason.CLOSE_REQUESTED,
            disconnect_time=session.state_time,
        )

    put(SessionManager, "close", changed)


@plant("once", favourites=("open_twice", "repeat"))
def a_request_id_is_ignored() -> None:
    """Each repeat opens a session of its own."""
    admit = Admission.open

    async def changed(self: Admission, request: OpenRequest, **kwargs: Any) -> Any:
        return await admit(self, replace(request, request_id=None), **kwargs)

    put(Admission, "open", changed)


@plant("leased", favourites=("open_leased",))
def a_lease_is_half_as_long() -> None:
    """It runs out in the middle."""
    begin = Lease.begin

    def changed(self: Lease, ttl: float | None) -> None:
        begin(self, None if ttl is None else ttl / 2)

    put(Lease, "begin", changed)


@plant("answered", favourites=("look",))
def a_call_fails_for_no_reason() -> None:
    """An exception that nobody expected."""

    async def changed(self: SessionService, request: Any, context: Any) -> None:
        raise RuntimeError("planted")

    put(SessionService, "ListSessionEvents", changed)


# -- the Gateway, and the end ----------------------------------------------------------


@plant("exclusive", card="drop_links")
def a_link_is_dialled_twice() -> None:
    """A dial that does not wait until the socket before it has ended."""
    dial = Endpoint._dial

    async def changed(self: Endpoint, client_id: int, *args: Any) -> Any:
        link = await dial(self, client_id, *args)
        with contextlib.suppress(GatewayError):
            await dial(self, client_id, *args)
        return link

    put(Endpoint, "_dial", changed)


@plant("settled", card="kill_broker")
def a_session_is_not_taken_up() -> None:
    """The last one is forgotten when the broker starts."""
    take_up = SessionManager.take_up

    def changed(self: SessionManager, sessions: Sequence[Session]) -> None:
        take_up(self, sessions[:-1])

    put(SessionManager, "take_up", changed)


@plant("upright")
def the_stop_fails() -> None:
    """An exception on the way out."""

    async def changed(self: SessionManager) -> None:
        raise RuntimeError("planted")

    put(SessionManager, "leave_all", changed)
