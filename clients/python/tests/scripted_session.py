"""A scripted broker that has one session."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from ibgateway.broker.v1 import session_pb2
from ibgateway.broker.v1 import session_service_pb2 as pb
from ibgateway.client import (
    Backoff,
)
from scripted_broker import (
    ScriptedBroker,
    complete,
    event,
    session,
    snapshot,
)

QUICK = Backoff(initial=0.02, maximum=0.1)
FIRST = 10
"""The revision at which the session was opened."""


def opened(**fields: Any) -> pb.OpenSessionResponse:
    return pb.OpenSessionResponse(session=session(**fields), created=True)


class Peer:
    """A scripted broker with one session, that a test moves."""

    def __init__(self, scripted: ScriptedBroker) -> None:
        self.scripted = scripted
        self.lease_ttl: float | None = None
        self._now = session()
        self._log: list[Any] = []
        self._moved = asyncio.Event()
        scripted.on("OpenSession", self._open)
        scripted.on("RenewSession", self.renew)
        scripted.on("CloseSession", self._close)
        scripted.on("WatchSessions", self._watch)

    async def _open(self, request: Any, _: Any) -> Any:
        if request.HasField("lease_ttl"):
            self.lease_ttl = request.lease_ttl.seconds + request.lease_ttl.nanos / 1e9
        return opened(lease_ttl=self.lease_ttl)

    async def renew(self, request: Any, _: Any) -> Any:
        if request.HasField("lease_ttl"):
            self.lease_ttl = request.lease_ttl.seconds + request.lease_ttl.nanos / 1e9
        return pb.RenewSessionResponse(session=self._leased())

    def _leased(self) -> session_pb2.Session:
        """The session as it is now."""
        result = session(lease_ttl=self.lease_ttl)
        result.MergeFrom(self._now)
        del result.accounts[1:]
        return result

    async def _close(self, _: Any, __: Any) -> Any:
        if self._now.state != session_pb2.SESSION_STATE_DISCONNECTED:
            self.tell("DISCONNECTED", close_reason="CLOSE_REQUESTED")
        return pb.CloseSessionResponse(session=self._now)

    async def _watch(self, request: Any, context: Any) -> AsyncIterator[Any]:
        await context.send_initial_metadata(())
        if request.resume_token:
            told = int(request.resume_token.removeprefix("t")) - FIRST
        else:
            told = len(self._log)
            yield snapshot(self._leased())
            yield complete(FIRST + told)
        while True:
            for message in self._log[told:]:
                told += 1
                yield message
            await self._moved.wait()

    def tell(self, state: str, *, persisted: bool = True, **fields: Any) -> None:
        """The session moves."""
        sequence = self._now.sequence + 1
        revision = FIRST + len(self._log) + persisted
        fields = {"state": state, "persisted": persisted, "lease_ttl": self.lease_ttl, **fields}
        self._log.append(event(revision, sequence, **fields))
        self._now = self._log[-1].event.session
        self._moved.set()
        self._moved = asyncio.Event()

    def renewals(self) -> int:
        return len(self.scripted.requests("RenewSession"))

    def closes(self) -> list[Any]:
        return self.scripted.requests("CloseSession")
