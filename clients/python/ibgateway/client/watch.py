"""A watch that outlives its streams."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from collections.abc import Awaitable, Callable, Mapping
from types import TracebackType
from typing import Final, Self, TypeAlias, cast

import grpc.aio

from ibgateway.broker.v1 import session_service_pb2 as pb
from ibgateway.client import conversion
from ibgateway.client.connection import Connection
from ibgateway.client.continuity import Continuity
from ibgateway.client.errors import (
    BrokerDrainingError,
    BrokerError,
    BrokerUnreachableError,
    GatewayNotFoundError,
    InvalidArgumentError,
    PermissionDeniedError,
    UnauthenticatedError,
    UnexpectedAnswerError,
)
from ibgateway.client.events import (
    Bookmark,
    Interrupted,
    Reset,
    Resumed,
    SessionEvent,
    Snapshot,
    SnapshotComplete,
    WatchItem,
)
from ibgateway.client.filters import Filter
from ibgateway.client.model import SessionInfo
from ibgateway.client.retry import Backoff

logger = logging.getLogger("ibgateway.client")

SILENCE: Final = 30.0
"""Seconds: three times the interval at which a broker says that nothing has happened."""
_STEADY: Final = 10.0
"""Seconds that a stream must have lived to count as one that works."""
_SETTLED: Final = 0.5
"""Seconds that a stream must have been open to count as resumed, unless it says something."""
_LATE: Final = 0.5
"""Seconds more for a stream that is silent: if this process was stopped, what it has said waits."""
_LONG: Final = 30.0
"""Seconds of a wait that is told though its cause was."""
_LONGEST: Final = 3600.0
"""Seconds that it waits at most; a broker that asks for more errs."""
_LAST_READ: Final = 5.0
"""Seconds for the last read of a stream to end, once it is cancelled."""
_REFUSALS: Final = frozenset(
    {"UNIMPLEMENTED", "UNAUTHENTICATED", "PERMISSION_DENIED", "INVALID_ARGUMENT", "NOT_FOUND"}
)
"""Statuses, not of a broker's own making, that no wait will change."""

_Stream: TypeAlias = "grpc.aio.UnaryStreamCall[pb.WatchSessionsRequest, pb.WatchSessionsResponse]"


class Watch:
    """Tells what happens to sessions, for as long as it is iterated over.

    Made by `Broker.watch` and `Session.watch`. Whenever its stream is lost it tells `Interrupted`,
    resumes where it was, and tells `Resumed`: nothing is lost and nothing comes twice, but for
    events that are not persisted. The sequences of the events are checked to prove it. Reading
    ahead is left to gRPC's flow control: a watch that is not iterated over holds little, and is cut
    by the broker once it lags far behind (it resumes).

    Iterate over it in one task at a time. It ends with its iteration, with `close`, or with the
    ``async with`` block that it may be used as; one that is dropped ends, too.

    Args:
        connection: to the broker.
        wanted: which sessions.
        resume_token: where to continue; empty begins with a snapshot.
        silence: seconds without a message after which a stream is given up, however often the wait
            for it is cancelled.
        give_up_after: seconds of an outage after which its error is raised; None never.
        correlation_id: a UUID4; None makes one.
        ended: gives the one session that is watched once its end is on record; its iteration ends
            then.
        told: takes each session that is told, before it is.
    """

    def __init__(
        self,
        connection: Connection,
        wanted: Filter,
        *,
        resume_token: str = "",
        silence: float = SILENCE,
        give_up_after: float | None = None,
        correlation_id: str | None = None,
        ended: Callable[[], SessionInfo | None] | None = None,
        told: Callable[[SessionInfo], None] | None = None,
    ) -> None:
        self._connection = connection
        self._wanted = wanted
        self._continuity = Continuity(
            states=wanted.states, include_final=wanted.include_final, resume_token=resume_token
        )
        self._silence = silence
        self._give_up_after = give_up_after
        self._backoff = connection.backoff or Backoff()
        self._correlation_id = correlation_id or str(uuid.uuid4())
        self._ended = ended
        self._told = told
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stream: _Stream | None = None
        self._reading: asyncio.Task[object] | None = None
        # The last read of a stream that was given up.
        self._left: asyncio.Task[object] | None = None
        self._pause: asyncio.Timeout | None = None
        self._is_closed = False
        self._is_busy = False
        # Read already, but not told: something else must be told before it.
        self._held: pb.WatchSessionsResponse | None = None
        self._reset: Reset | None = None
        self._told_message: pb.WatchSessionsResponse | None = None
        # Times are by the loop's clock.
        self._opened_at: float | None = None
        self._reading_since = 0.0
        self._late_until: float | None = None
        self._lost: BrokerError | None = None
        self._lost_at = 0.0
        self._retry_at = 0.0
        self._failures = 0

    @property
    def token(self) -> str:
        """Where another watch, also in another process, would continue after the last item that
        was told; empty if it would have to begin anew.
        """
        return self._continuity.token

    @property
    def sessions(self) -> Mapping[str, SessionInfo]:
        """The sessions that match, by id, as of the last item that was told.

        Complete once `is_complete`. Sessions that have ended are left out, unless they were asked
        for. A new dict with each call.
        """
        return self._continuity.sessions

    @property
    def is_complete(self) -> bool:
        """Whether `sessions` are all that match: after `SnapshotComplete`, and never if the watch
        began with a token that could be continued.
        """
        return self._continuity.is_complete

    @property
    def message(self) -> pb.WatchSessionsResponse | None:
        """The last item that was told, as it came, for whoever passes it on as the contract has it;
        None if no broker has sent it: `Interrupted`, `Resumed`, and the `Reset` after half a
        snapshot.
        """
        return self._told_message

    @property
    def interruption(self) -> BrokerError | None:
        """Why there is no stream now; None if there is one."""
        return self._lost

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> WatchItem:
        """The next item.

        Raises:
            WatchGapError: the stream is not complete; the watch has ended.
            InvalidArgumentError: the filter or the token is wrong.
            UnauthenticatedError: what the caller shows is not, or no longer, known. With the token
                of the last item, another one continues.
            BrokerClosedError: the Broker was closed.
            BrokerError: the outage has lasted longer than ``give_up_after``.

        Cancellation is safe: no item is lost, and the stream stays.
        """
        if self._is_busy:
            raise RuntimeError("another task waits for the next item of this watch")
        self._is_busy = True
        try:
            while not self._is_closed:
                item = await self._read()
                if item is not None:
                    if self._told is not None and isinstance(item, Snapshot | SessionEvent):
                        self._told(item.session)
                    if self._is_last(item):
                        await self.close()
                    return item
            raise StopAsyncIteration
        except BrokerError:
            self._is_closed = True
            self._give_up()
            raise
        finally:
            self._is_busy = False

    async def close(self) -> None:
        """End the stream; the iteration ends. Closing twice is no error. Cancellation is safe."""
        self._is_closed = True
        pause, self._pause = self._pause, None
        if pause is not None:
            pause.reschedule(asyncio.get_running_loop().time())
        self._give_up()
        await self._left_behind()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    def __del__(self) -> None:
        # gRPC 1.85 does not end a call that is dropped.
        stream, loop = getattr(self, "_stream", None), getattr(self, "_loop", None)
        if stream is not None and loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(stream.cancel)

    async def _read(self) -> WatchItem | None:
        """One step: an item to tell, or None."""
        self._told_message = None
        try:
            if self._stream is None:
                await self._open()
            message = self._held if self._held is not None else await self._message()
        except BrokerError as error:
            return self._lose(error)
        if self._is_closed:
            return None
        self._held = message
        if self._lost is not None:
            logger.info("a watch has resumed after an interruption")
            self._lost = None
            return Resumed(token=self._continuity.token)
        if self._reset is not None:
            reset, self._reset = self._reset, None
            return reset
        self._held = None
        item = None if message is None else conversion.watch_item(message)
        if item is not None:
            self._continuity.accept(item)
        self._told_message = message
        return item

    async def _open(self) -> None:
        self._loop = asyncio.get_running_loop()
        await self._left_behind()
        wait = self._retry_at - self._loop.time()
        if wait > 0:
            try:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(None) as self._pause:
                        await self._connection.pause(wait)
            finally:
                self._pause = None
        if self._is_closed:
            return
        self._reset = self._continuity.begin() or self._reset
        self._opened_at = None
        self._stream = self._connection.stream(
            self._connection.sessions.WatchSessions,
            pb.WatchSessionsRequest(resume_token=self._continuity.token, **self._wanted.fields()),
            correlation_id=self._correlation_id,
        )

    async def _message(self) -> pb.WatchSessionsResponse | None:
        """The next message of the stream; None if it is open again and quiet, or just opened.

        Raises:
            BrokerError: the stream is lost.

        Cancellation leaves the read under way, for the next call: to cancel it would cancel the
        stream.
        """
        stream, is_open = self._stream, self._opened_at is not None
        if stream is None:
            return None
        loop = asyncio.get_running_loop()
        if self._reading is None:
            self._reading_since, self._late_until = loop.time(), None
            self._reading = asyncio.create_task(
                _outcome(stream.read() if is_open else stream.wait_for_connection()),
                name="ibgateway-watch-read",
            )
        reading = self._reading
        # A broker answers a stream at once; one that cannot serve it says so right after that.
        settling = is_open and self._lost is not None
        limit = self._reading_since + (_SETTLED if settling else self._silence)
        await asyncio.wait({reading}, timeout=max(limit - loop.time(), 0.0))
        if not reading.done() and not settling:
            self._late_until = self._late_until or loop.time() + _LATE
            await asyncio.wait({reading}, timeout=max(self._late_until - loop.time(), 0.0))
        if self._is_closed or (settling and not reading.done()):
            return None
        if not reading.done():
            raise BrokerUnreachableError(
                f"the broker at {self._connection.address} has sent nothing for "
                f"{self._silence:g} s, though it should say at least that nothing happens",
                hint="a stream that is quiet for so long is dead; if the broker's "
                "bookmark_interval is longer, give the watch a longer silence=",
                correlation_id=self._correlation_id,
            )
        self._reading = None
        # gRPC 1.62 shows a stream that its channel has cut as one that has ended well.
        if self._connection.is_closed or reading.cancelled():
            raise self._connection.closed_error()
        outcome = reading.result()
        if isinstance(outcome, grpc.aio.AioRpcError):
            raise self._connection.explain(
                outcome, timeout=None, correlation_id=self._correlation_id
            ) from outcome
        if not is_open:
            self._opened_at = loop.time()
            return await self._message()
        if outcome is grpc.aio.EOF:
            raise BrokerDrainingError(
                f"the broker at {self._connection.address} has ended the stream",
                hint="",
                correlation_id=self._correlation_id,
            )
        return cast("pb.WatchSessionsResponse", outcome)

    def _lose(self, error: BrokerError) -> WatchItem | None:
        """The stream is lost: say so, unless that was said, and decide when to try again.

        It waits for nothing: a cancellation would take with it what is said.
        """
        self._give_up()
        if self._connection.is_closed:
            raise self._connection.closed_error()
        if _is_refusal(error):
            raise error
        now = asyncio.get_running_loop().time()
        if self._opened_at is not None and now - self._opened_at > _STEADY:
            self._failures = 0
        if self._lost is None:
            self._lost_at = now
        if self._give_up_after is not None and now - self._lost_at >= self._give_up_after:
            raise error
        delay = self._backoff.delay(
            self._failures, retry_after=error.retry_after, chance=self._connection.chance()
        )
        delay = min(delay, _LONGEST)
        if self._give_up_after is not None:
            # With the last try it gives up, or not, also if the broker asks for more time.
            delay = min(delay, self._lost_at + self._give_up_after - now)
        self._failures += 1
        self._retry_at = now + delay
        told, self._lost = self._lost, error
        is_known = told is not None and (type(told), told.reason) == (type(error), error.reason)
        if is_known and delay <= _LONG:
            return None
        logger.warning(
            "a watch was interrupted, it resumes by itself, at the earliest in %.1f s: %s",
            delay,
            error,
        )
        return Interrupted(error=error, retry_in=delay, token=self._continuity.token)

    def _give_up(self) -> None:
        """End the stream; its last read ends soon after that."""
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.cancel()
        if self._reading is not None:
            self._left, self._reading = self._reading, None

    async def _left_behind(self) -> None:
        """Wait until nothing is left of a stream that was given up."""
        left = self._left
        if left is not None:
            await asyncio.wait({left}, timeout=_LAST_READ)
            left.cancel()
            self._left = None

    def _is_last(self, item: WatchItem) -> bool:
        """Whether nothing will follow about the one session that is watched."""
        if self._ended is None:
            return False
        match item:
            case SessionEvent():
                return item.persisted and item.session.is_final
            case SnapshotComplete():
                return all(session.is_final for session in self._continuity.sessions.values())
            case Bookmark():
                ended = self._ended()
                return ended is not None and 0 < ended.revision <= item.revision
        return False


async def _outcome(step: Awaitable[object]) -> object:
    """What a step of a stream gives, or its error: as a result, so that nobody must retrieve it."""
    try:
        return await step
    except grpc.aio.AioRpcError as error:
        return error


def _is_refusal(error: BrokerError) -> bool:
    """Whether the same watch would be refused again, for ever."""
    if isinstance(error, UnexpectedAnswerError):
        return error.code in _REFUSALS
    return isinstance(
        error,
        InvalidArgumentError | GatewayNotFoundError | UnauthenticatedError | PermissionDeniedError,
    )
