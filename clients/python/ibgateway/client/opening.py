"""What `Broker.open_session` and `Broker.attach` give: to be entered, or awaited."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Generator
from types import TracebackType
from typing import Any

from ibgateway.client.errors import BrokerError
from ibgateway.client.lifeline import Lifeline
from ibgateway.client.session import Session

logger = logging.getLogger("ibgateway.client")


class SessionOpening:
    """A session that is opened when this is entered, or awaited.

    ``async with`` opens it, and closes it at the end of the block, also after an exception or a
    cancellation, within ``close_timeout``. If somebody else ends the session meanwhile (an
    operator, a lease that ran out, a Gateway that is given up), the block is told as
    ``asyncio.timeout()`` would tell it: what it awaits is cancelled, and the block raises
    SessionEndedError. With ``raise_on_end=False`` it is not: see `Session` for what else tells.

    ``await`` opens it and leaves the rest to the caller: `Session.close`, else the end of the
    Broker, closes it; nothing is raised when it ends.

    Args:
        open_: opens it.
        validate: checks the request.
        raise_on_end: whether the body is told by an exception.
        close_timeout: seconds that closing may take at the end of the block.
    """

    def __init__(
        self,
        open_: Callable[[], Awaitable[tuple[Session, Lifeline]]],
        *,
        validate: Callable[[], Awaitable[None]],
        raise_on_end: bool,
        close_timeout: float,
    ) -> None:
        self._open = open_
        self._validate = validate
        self._raise_on_end = raise_on_end
        self._close_timeout = close_timeout
        self._entered: tuple[Lifeline, asyncio.Timeout] | None = None

    def __await__(self) -> Generator[Any, None, Session]:
        session, _ = yield from self._open().__await__()
        return session

    async def validate(self) -> None:
        """Only check the request, limits included; nothing is opened.

        Raises:
            InvalidArgumentError: a field is wrong.
            BrokerError: whatever would refuse it before a dial.

        Cancellation is safe.
        """
        await self._validate()

    async def __aenter__(self) -> Session:
        if self._entered is not None:
            raise RuntimeError("this session was opened already; call open_session() for another")
        session, lifeline = await self._open()
        scope = asyncio.timeout(None)
        await scope.__aenter__()
        self._entered = (lifeline, scope)
        if self._raise_on_end:
            loop = asyncio.get_running_loop()
            lifeline.on_end = lambda: scope.reschedule(loop.time())
        return session

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._entered is None:
            raise RuntimeError("this session was not opened")
        lifeline, scope = self._entered
        lifeline.on_end = None
        interrupted = False
        try:
            await scope.__aexit__(kind, error, traceback)
        except TimeoutError:
            interrupted = True
        try:
            await lifeline.leave(timeout=self._close_timeout)
        except BrokerError as failure:
            if error is None:
                raise
            said = f"session {lifeline.info.session_id} could not be closed: {failure}"
            error.add_note(said)
            logger.warning("%s", said)
        if self._raise_on_end and lifeline.is_over_by_others and (interrupted or error is None):
            raise lifeline.ended_error() from None
