"""Callers that open, repeat, renew and close, at random but by a seed."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any

from google.protobuf.duration_pb2 import Duration
from ibgateway.broker.v1 import session_service_pb2 as pb

from tests.robustness.calls import Caller, connected
from tests.robustness.history import OK, Call, History
from tests.robustness.timeline import FINAL

OWNERS = ("alice", "bob")
TEAMS = ("red", "blue")
CLIENT_IDS = tuple(range(1, 11))
FEW = 4
"""Sessions below which more are opened than closed."""
POLICIES = (pb.CLIENT_ID_POLICY_EXACT, pb.CLIENT_ID_POLICY_INCREMENT)


def seconds(value: float) -> Duration:
    """A duration as the API takes it."""
    duration = Duration()
    duration.FromNanoseconds(int(value * 1e9))
    return duration


class Book:
    """What all callers know: sessions, those that they believe to be open, and what they may ask
    for again.
    """

    def __init__(self) -> None:
        self.sessions: list[str] = []
        self.open: set[str] = set()
        self.repeatable: dict[str, list[pb.OpenSessionRequest]] = {owner: [] for owner in OWNERS}

    def note(self, call: Call) -> None:
        """Remember what an answer tells of a session."""
        if call.end == OK and "session" in call.response.DESCRIPTOR.fields_by_name:
            session = call.response.session
            if session.session_id and session.session_id not in self.sessions:
                self.sessions.append(session.session_id)
            if session.state in FINAL or session.close_reason:
                self.open.discard(session.session_id)
            elif session.session_id:
                self.open.add(session.session_id)
        elif call.end in {"SESSION_CLOSED", "SESSION_NOT_FOUND"} and call.method != "OpenSession":
            self.open.discard(call.request.session_id)


class Traffic:
    """One caller's doings.

    Args:
        number: which one; it has an owner by it, and dice of its own.
        address: the broker's.
        history: where all is recorded.
        book: what all callers know.
        seed: of the dice.
        favourites: what it does most of the time, by name.
    """

    def __init__(
        self,
        number: int,
        address: str,
        history: History,
        book: Book,
        seed: object,
        favourites: Sequence[str] = (),
    ) -> None:
        self._favourites = favourites
        self.done: Counter[str] = Counter()
        self._name = f"caller {number}"
        self._owner = OWNERS[number % len(OWNERS)]
        self._address = address
        self._history = history
        self._book = book
        self._dice = random.Random(f"{seed} {self._name}")
        self._callers: list[Caller] = []
        self._doings: Sequence[tuple[Callable[[], Awaitable[None]], int]] = (
            (self._open, 6),
            (self._open_leased, 1),
            (self._open_twice, 2),
            (self._open_impatiently, 2),
            (self._repeat, 3),
            (self._validate, 1),
            (self._close, 7),
            (self._renew, 3),
            (self._acknowledge, 2),
            (self._verify, 1),
            (self._look, 2),
        )

    async def run(self, end: asyncio.Event) -> None:
        """Call until the end."""
        doings = [doing for doing, _ in self._doings]
        weights = [weight for _, weight in self._doings]
        async with AsyncExitStack() as stack:
            for which in ("a", "b"):
                sessions, _ = await stack.enter_async_context(connected(self._address))
                name = f"{self._name}{which}"
                self._callers.append(Caller(name, self._owner, sessions, self._history))
            while not end.is_set():
                (doing,) = self._dice.choices(doings, weights)
                if self._favourites and self._dice.random() < 0.7:
                    doing = getattr(self, f"_{self._dice.choice(self._favourites)}")
                elif len(self._book.open) < FEW and self._dice.random() < 0.7:
                    doing = self._open_for_long
                self.done[doing.__name__.strip("_")] += 1
                await doing()
                await asyncio.sleep(self._dice.uniform(0.01, 0.25))

    def _request(self, *, repeatable: bool | None = None) -> pb.OpenSessionRequest:
        dice = self._dice
        request = pb.OpenSessionRequest(
            client_id_policy=dice.choice(POLICIES),
            readonly=dice.random() < 0.2,
            timeout=seconds(dice.uniform(0.5, 2.0)),
            max_attempts=dice.randrange(1, 5),
            labels={"team": dice.choice(TEAMS)},
            return_immediately=dice.random() < 0.3,
        )
        if dice.random() < 0.7:
            request.client_id = dice.choice(CLIENT_IDS)
        if dice.random() < 0.2:
            request.reconnect_max_attempts = dice.randrange(4)
        if dice.random() < 0.3:
            request.lease_ttl.CopyFrom(seconds(dice.uniform(1.0, 4.0)))
        if repeatable if repeatable is not None else dice.random() < 0.5:
            request.request_id = str(uuid.UUID(int=dice.getrandbits(128), version=4))
            self._book.repeatable[self._owner].append(request)
        return request

    def _session(self) -> str:
        """One of the latest sessions, whoever opened it; sometimes none at all."""
        if not self._book.sessions or self._dice.random() < 0.02:
            return str(uuid.UUID(int=self._dice.getrandbits(128), version=4))
        return self._dice.choice(self._book.sessions[-12:])

    async def _call(self, method: str, request: Any, timeout: float = 5.0, which: int = 0) -> Call:
        call = await self._callers[which].call(method, request, timeout)
        self._book.note(call)
        if call.end in {"UNAVAILABLE", "STORE_UNAVAILABLE"}:
            await asyncio.sleep(self._dice.uniform(0.05, 0.4))
        return call

    async def _open(self) -> None:
        await self._call("OpenSession", self._request(), self._dice.uniform(1.0, 6.0))

    async def _open_for_long(self) -> None:
        """So that there is something to tell: one that lives until it is closed."""
        request = pb.OpenSessionRequest(
            return_immediately=self._dice.random() < 0.5, labels={"team": self._dice.choice(TEAMS)}
        )
        await self._call("OpenSession", request)

    async def _open_leased(self) -> None:
        request = pb.OpenSessionRequest(lease_ttl=seconds(1.0))
        await self._call("OpenSession", request)

    async def _open_twice(self) -> None:
        """The same open over two connections at once; one caller may be impatient."""
        request = self._request(repeatable=True)
        patience = (5.0, self._dice.choice((5.0, 0.05)))
        async with asyncio.TaskGroup() as tasks:
            for which in range(2):
                call = self._call("OpenSession", request, patience[which], which)
                tasks.create_task(call, name=f"{self._name} twin {which}")

    async def _open_impatiently(self) -> None:
        await self._call("OpenSession", self._request(), self._dice.uniform(0.0, 0.15))

    async def _repeat(self) -> None:
        """An open that was answered, or was not, perhaps by a broker that is dead."""
        known = self._book.repeatable[self._owner]
        if not known:
            return
        request = pb.OpenSessionRequest()
        request.CopyFrom(self._dice.choice(known[-6:]))
        if self._dice.random() < 0.1:
            request.readonly = not request.readonly  # REQUEST_ID_REUSED, or an open of its own
        await self._call("OpenSession", request)

    async def _validate(self) -> None:
        request = self._request(repeatable=False)
        request.validate_only = True
        await self._call("OpenSession", request)

    async def _close(self) -> None:
        patience = self._dice.choice((5.0, 5.0, 0.02))
        request = pb.CloseSessionRequest(session_id=self._session(), reason="by the dice")
        await self._call("CloseSession", request, patience)

    async def _renew(self) -> None:
        request = pb.RenewSessionRequest(session_id=self._session())
        if self._dice.random() < 0.5:
            request.lease_ttl.CopyFrom(seconds(self._dice.uniform(1.0, 4.0)))
        await self._call("RenewSession", request)

    async def _acknowledge(self) -> None:
        session_id = self._session()
        found = await self._call("GetSession", pb.GetSessionRequest(session_id=session_id))
        if found.end == OK and found.response.session.generation:
            request = pb.AcknowledgeDataRequest(
                session_id=session_id, generation=found.response.session.generation
            )
            await self._call("AcknowledgeData", request)

    async def _verify(self) -> None:
        await self._call("VerifySession", pb.VerifySessionRequest(session_id=self._session()))

    async def _look(self) -> None:
        request = pb.ListSessionsRequest(include_final=self._dice.random() < 0.3)
        await self._call("ListSessions", request)
        events = pb.ListSessionEventsRequest(session_id=self._session())
        await self._call("ListSessionEvents", events)
