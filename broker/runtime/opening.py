"""What becomes of an open, and who waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from broker.errors import BrokerError
from broker.session.model import Session


class Opening:
    """The answers to those who open one session: several may, by the same request_id.

    Args:
        repeatable: whether a caller that missed its answer can ask for it again.
        on_wait: called each time that somebody begins to wait.
        on_answer: called each time that somebody has the answer, or had it before.
        on_abandoned: called when the last who waited has gone before anybody had it.

    Attributes:
        recorded: the session once its opening is on record.
        settled: the session once it is no longer CONNECTING.
    """

    def __init__(
        self,
        *,
        repeatable: bool,
        on_wait: Callable[[], None],
        on_answer: Callable[[], None],
        on_abandoned: Callable[[], None],
    ) -> None:
        loop = asyncio.get_running_loop()
        self.recorded: asyncio.Future[Session] = loop.create_future()
        self.settled: asyncio.Future[Session] = loop.create_future()
        self._repeatable = repeatable
        self._on_wait = on_wait
        self._on_answer = on_answer
        self._on_abandoned = on_abandoned
        self._answered = False
        self._waiting = 0

    async def answer(self, *, at_once: bool) -> Session:
        """The session, once it is no longer CONNECTING; or at once, as soon as it is recorded.

        Raises:
            BrokerError: there will be no answer.

        Cancellation means that the caller has gone.
        """
        self._waiting += 1
        self._on_wait()
        try:
            session = await asyncio.shield(self.recorded if at_once else self.settled)
        except asyncio.CancelledError:
            if self._waiting == 1:
                self._all_gone()
            raise
        finally:
            self._waiting -= 1
        self.answered()
        return session

    def answered(self) -> None:
        """Somebody has the answer, or had it from the broker before this one: from now on no caller
        who goes away ends the session.
        """
        self._answered = True
        self._on_answer()

    def _all_gone(self) -> None:
        if self._answered or (self._repeatable and self.settled.done()):
            self.answered()
        else:
            self._on_abandoned()

    def fail(self, error: Callable[[], BrokerError]) -> None:
        """Whoever still waits gets an error."""
        for future in (self.recorded, self.settled):
            if not future.done():
                future.set_exception(error())
                future.exception()  # whoever waited may be gone
