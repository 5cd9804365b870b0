"""Watchers that come and go, lag behind, and resume: at random but by a seed."""

from __future__ import annotations

import asyncio
import contextlib
import random
import uuid
from collections import Counter
from collections.abc import Callable
from typing import Any

import grpc.aio
from ibgateway.broker.v1 import session_pb2
from ibgateway.broker.v1 import session_service_pb2 as pb

from broker.events.token import ResumeToken
from tests.robustness.calls import connected, reason
from tests.robustness.history import OK, History, Received, Start, Stream
from tests.robustness.traffic import OWNERS, TEAMS, Book

STATES = (
    session_pb2.SESSION_STATE_CONNECTED,
    session_pb2.SESSION_STATE_RECONNECTING,
    session_pb2.SESSION_STATE_DISCONNECTED,
)
SILENT = "SILENT"
"""The end of a stream that we no longer believed in."""
_SILENCE = 20.0


class Watcher:
    """One watcher's life: stream after stream, until it has seen the end of the log.

    Args:
        number: which one; odd ones lag now and then.
        address: the broker's.
        history: where all is recorded.
        book: what sessions there are.
        seed: of the dice.
        steady: it follows everything, and only ever resumes where it left off.
        pace: how long its streams and pauses are, against the usual.

    Attributes:
        done: how often it did what.
    """

    def __init__(
        self,
        number: int,
        address: str,
        history: History,
        book: Book,
        seed: object,
        *,
        steady: bool = False,
        pace: float = 1.0,
    ) -> None:
        self.name = f"watcher {number}"
        self._target: int | None = None
        self._finishing = asyncio.Event()
        self._pace = pace
        self.done: Counter[str] = Counter()
        self._lags = number % 2 == 1 and not steady
        self._steady = steady
        self._address = address
        self._history = history
        self._book = book
        self._dice = random.Random(f"{seed} {self.name}")
        self._streams: list[Stream] = []
        self._resumed: tuple[Stream, int] | None = None
        """The stream and the index of its message after which nothing was missed yet."""

    def finish(self, target: int) -> None:
        """Let it end as soon as it has reached a revision."""
        self._target = target
        self._finishing.set()

    async def run(self) -> None:
        """Watch until the target is reached."""
        address, lags = self._address, self._lags
        async with connected(address, small_window=lags) as (sessions, channel):
            while True:
                await channel.channel_ready()
                if await self._watch(sessions):
                    return
                await asyncio.sleep(self._dice.uniform(0.02, 0.2))

    async def _watch(self, sessions: Any) -> bool:
        """One stream, from the request to its end; returns whether it has reached the target."""
        loop = asyncio.get_running_loop()
        stream = self._begin(loop.time())
        if self._target is None and not self._steady:
            lasts = self._dice.choice((0.3, 2.0, 5.0, 20.0)) * self._dice.random() * self._pace
        else:
            lasts = 3600.0
        self._history.streams.append(stream)
        call = sessions.WatchSessions(stream.request)
        reached = False
        try:
            reached = await self._read(stream, call, loop.time() + lasts)
        except grpc.aio.AioRpcError as error:
            stream.end, metadata = reason(error)
            stream.lag = int(metadata.get("lag", "0"))
        finally:
            stream.ended = loop.time()
            call.cancel()
        self.done[f"end {stream.end}"] += 1
        self._streams.append(stream)
        self._resumed = self._last_place(stream) or self._resumed
        return reached

    async def _read(self, stream: Stream, call: Any, end: float) -> bool:
        loop = asyncio.get_running_loop()
        pause_at = loop.time() + self._dice.uniform(0.2, 3.0) if self._lags else end
        while True:
            try:
                async with asyncio.timeout(_SILENCE):
                    message = await call.read()
            except TimeoutError:
                stream.end = SILENT
                return False
            if message is grpc.aio.EOF:
                stream.end = OK
                return False
            received = Received.of(loop.time(), message)
            stream.received.append(received)
            self.done[received.kind] += 1
            if received.kind == "reset":
                self.done[f"because {message.reset.reason}"] += 1
            if received.event is not None and not received.event.persisted:
                self.done["provisional"] += 1
            if self._reached(received):
                return True
            now = loop.time()
            if now >= end and self._target is None:
                return False
            if now >= pause_at and self._target is None:
                await self._pause()
                stream.pauses.append((now, loop.time()))
                pause_at = loop.time() + self._dice.uniform(0.2, 3.0) * self._pace

    async def _pause(self) -> None:
        """Do not read for a while."""
        seconds = self._dice.choice((0.3, 1.0, 4.0)) * self._dice.random() * self._pace
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._finishing.wait()

    def _reached(self, received: Received) -> bool:
        return (
            self._target is not None
            and received.complete
            and received.message.revision >= self._target
        )

    @staticmethod
    def _last_place(stream: Stream) -> tuple[Stream, int] | None:
        for index in range(len(stream.received) - 1, -1, -1):
            if stream.received[index].complete:
                return stream, index
        return None

    # -- how a stream begins -----------------------------------------------------------

    def _begin(self, now: float) -> Stream:
        request = self._filter()
        stream = Stream(
            f"{self.name}, stream {len(self._streams)}", request, Start.SNAPSHOT, began=now
        )
        ways: tuple[tuple[Callable[[Stream], None], int], ...] = (
            (self._without_token, 3),
            (self._with_last, 8),
            (self._with_older, 3),
            (self._with_incomplete, 1),
            (self._with_foreign, 1),
            (self._with_ahead, 1),
        )
        if self._target is not None or self._steady:
            way: Callable[[Stream], None] = self._with_last
        else:
            (way,) = self._dice.choices([way for way, _ in ways], [weight for _, weight in ways])
        way(stream)
        self.done[f"start {stream.start.name}"] += 1
        return stream

    def _filter(self) -> pb.WatchSessionsRequest:
        dice = self._dice
        last = self._streams[-1].request if self._streams else None
        request = pb.WatchSessionsRequest()
        if self._steady:
            return request
        if last is not None and dice.random() < 0.6:
            request.CopyFrom(last)
            request.resume_token = ""
            return request
        request.include_final = dice.random() < 0.3
        if dice.random() < 0.25:
            request.owner = dice.choice(OWNERS)
        if dice.random() < 0.2:
            request.labels["team"] = dice.choice(TEAMS)
        if dice.random() < 0.25:
            request.states.extend(dice.sample(STATES, dice.randrange(1, 3)))
        if dice.random() < 0.15 and self._book.sessions:
            request.session_ids.extend(
                dice.sample(self._book.sessions, min(3, len(self._book.sessions)))
            )
        if dice.random() < 0.1:
            request.gateway_id = dice.choice(("default", "another"))
        return request

    def _without_token(self, stream: Stream) -> None:
        del stream

    def _with_last(self, stream: Stream) -> None:
        """Where this watcher left off, whatever it asked for then."""
        if self._resumed is not None:
            self._resume(stream, *self._resumed)

    def _with_older(self, stream: Stream) -> None:
        """Any token that it ever had."""
        known = [one for one in self._streams if any(item.complete for item in one.received)]
        if known:
            one = self._dice.choice(known)
            indices = [index for index, item in enumerate(one.received) if item.complete]
            self._resume(stream, one, self._dice.choice(indices))

    def _with_incomplete(self, stream: Stream) -> None:
        tokens = [
            item.message.resume_token
            for one in self._streams[-5:]
            for item in one.received
            if not item.complete
        ]
        if tokens:
            stream.start = Start.INCOMPLETE
            stream.request.resume_token = self._dice.choice(tokens)

    def _with_foreign(self, stream: Stream) -> None:
        store_id = uuid.UUID(int=self._dice.getrandbits(128), version=4)
        stream.start = Start.FOREIGN
        stream.request.resume_token = ResumeToken(store_id, self._dice.randrange(100)).encode()

    def _with_ahead(self, stream: Stream) -> None:
        if self._resumed is None:
            return
        one, index = self._resumed
        token = ResumeToken.decode(one.received[index].message.resume_token)
        ahead = ResumeToken(token.store_id, token.revision + 1_000_000)
        stream.start = Start.AHEAD
        stream.request.resume_token = ahead.encode()

    @staticmethod
    def _resume(stream: Stream, one: Stream, index: int) -> None:
        message = one.received[index].message
        stream.start, stream.position = Start.CONTINUE, message.revision
        stream.known = one.told(index)
        stream.request.resume_token = message.resume_token
