"""Keeps a handle current, and the lease of its session alive, in two tasks of their own."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any, Final

from ibgateway.client.calls import SessionCalls
from ibgateway.client.errors import (
    BrokerClosedError,
    BrokerError,
    InvalidArgumentError,
    SessionEndedError,
    SessionNotFoundError,
    WatchGapError,
)
from ibgateway.client.events import Interrupted, SessionEvent, Snapshot, SnapshotComplete
from ibgateway.client.model import SessionInfo
from ibgateway.client.retry import Backoff

logger = logging.getLogger("ibgateway.client")

_RENEWALS: Final = 3
"""Renewals within the time of one lease."""
_BACKOFF: Final = Backoff(initial=0.5, maximum=5.0)
_REFUSED: Final = Backoff(initial=0.5, maximum=30.0)
"""Only a human can change a refusal."""


class Lifeline:
    """What is known of a session, and who hears when it ends.

    Two tasks, until `stop` or the session's end: one follows the session, one renews its lease at a
    third of the time that was granted. Neither gives up while it is unknown whether the session
    lives: a broker that restarts takes its sessions up, and their leases begin anew; a caller that
    is refused may be let in again.

    An end is told at once, and stays told. The session is followed until its end is on record: if
    the broker dies before that, the next one takes the session up, and nobody would know of it.

    Args:
        calls: to the broker.
        info: the session as the broker has just answered.
        keep_open: whether `leave` leaves it open.
        chance: gives random numbers, 0 to 1.

    Attributes:
        keep_open: whether `leave` leaves it open.
        on_end: called once, when somebody else has ended the session.
        on_finish: called once nothing is left to be done.
        interruption: why nothing is known of the session now; None if it is followed.
        renewal_error: why the last renewal failed; None if it did not.
    """

    def __init__(
        self,
        calls: SessionCalls,
        info: SessionInfo,
        *,
        keep_open: bool,
        chance: Callable[[], float],
    ) -> None:
        self._calls = calls
        self._chance = chance
        self._info = info
        self._tasks: list[asyncio.Task[None]] = []
        self._changed = asyncio.Event()
        self._lease_changed = asyncio.Event()
        self._renewed_at = 0.0
        self._is_gone = False
        # Its end cannot be void any more.
        self._is_on_record = False
        # The broker has it, though its end was told.
        self._lives_on = False
        self._is_stopped = False
        # Events that were not persisted are void when the broker dies.
        self._may_fall_back = False
        self._is_closing = False
        # Why who waits would wait for nothing.
        self._refusal: BrokerError | None = None
        self.keep_open = keep_open
        self.on_end: Callable[[], None] | None = None
        self.on_finish: Callable[[], None] | None = None
        self.interruption: BrokerError | None = None
        self.renewal_error: BrokerError | None = None

    @property
    def info(self) -> SessionInfo:
        """The session as it was last seen."""
        return self._info

    @property
    def is_over(self) -> bool:
        """Whether the session has ended, or the broker has no record of it."""
        return self._is_gone or self._info.is_final

    @property
    def is_settled(self) -> bool:
        """Whether nothing will follow about the session: it has ended, and that is on record."""
        return self.is_over and self._is_on_record

    @property
    def is_over_by_others(self) -> bool:
        """Whether somebody else has ended it."""
        is_ours = self._is_gone or self._info.close_reason == "CLOSE_REQUESTED"
        return self.is_over and not (self._is_closing and is_ours)

    @property
    def _is_for_others(self) -> bool:
        """Whether it is to stay open, and was not closed here all the same."""
        return self.keep_open and not (self._is_closing and self.is_over)

    def ended_error(self) -> SessionEndedError:
        """Why nothing can be done with the session any more."""
        info = self._info
        hint = None
        if info.is_final and info.last_failure is not None and not info.close_reason:
            message = f"session {info.session_id} has FAILED: {info.last_failure.message}"
            hint = info.last_failure.hint
        elif info.is_final:
            message = f"session {info.session_id} has ended: {info.close_reason or info.state}"
        else:
            message = f"session {info.session_id} has ended: the broker has no record of it"
        if info.close_reason == "LEASE_EXPIRED":
            hint = (
                "its lease was not renewed in time: was this process, or its event loop, blocked?"
            )
        error = SessionEndedError(
            message,
            metadata={"session_id": info.session_id, "close_reason": info.close_reason},
            hint=hint,
        )
        error.session = info
        return error

    def start(self) -> None:
        """Begin, just after the broker's answer; needs a running loop."""
        self._renewed_at = asyncio.get_running_loop().time()
        self._spawn(self._renew(), "renew")
        self._spawn(self._follow(), "follow")

    async def stop(self) -> None:
        """End both tasks; whoever waits is told. Stopping twice is no error.

        Cancellation leaves no task behind.
        """
        self._is_stopped = True
        if not self.is_over:
            self.interruption = self._stopped_error()
        for task in self._tasks:
            task.cancel()
        self._pulse()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def close(
        self, *, reason: str, timeout: float | None, correlation_id: str | None = None
    ) -> None:
        """End the session; see `Session.close`."""
        # What others have ended stays theirs.
        self._is_closing = self._is_closing or not self.is_over
        try:
            info = await self._calls.close_session(
                self._info.session_id,
                reason=reason,
                timeout=timeout,
                correlation_id=correlation_id,
            )
        except SessionNotFoundError:
            self.lose()
            raise
        except BaseException:
            # Nobody knows whether it closes: whatever ends it from now on is news.
            self._is_closing = self._is_closing and self.is_over
            raise
        self.learn(info)
        self._lives_on = False

    async def leave(self, *, timeout: float) -> None:
        """What the end of a block does: close the session unless it is to stay open.

        One whose end is not on record is followed on, until `stop`.

        Args:
            timeout: seconds that this may take.

        Raises:
            BrokerError: it could not be closed.

        Cancellation ends the wait.
        """
        lives = self._lives_on or not self.is_over
        try:
            if lives and not self._is_stopped and not self._is_for_others:
                await self.close(reason="its block has ended", timeout=timeout)
        except SessionNotFoundError:
            pass
        finally:
            if self._is_for_others or not self.is_over or self._is_on_record:
                await self.stop()

    def learn(self, info: SessionInfo) -> None:
        """Take what a call has answered or a watch has told, unless something newer is known."""
        if info.sequence >= self._info.sequence:
            self._set(info)

    def renewed(self, info: SessionInfo) -> None:
        """The lease begins anew, as the broker has just answered."""
        self.learn(info)
        self._info = replace(
            self._info, lease_ttl=info.lease_ttl, lease_expire_time=info.lease_expire_time
        )
        self._renewed_at = asyncio.get_running_loop().time()
        self._lease_changed.set()

    def lose(self) -> None:
        """The broker has no record of the session."""
        self._is_on_record = True
        self._lives_on = False
        if not self.is_over:
            self._is_gone = True
            self._tell_end()

    async def wait(self, check: Callable[[], bool]) -> None:
        """Wait until something is so.

        Raises:
            BrokerClosedError: the session is followed no longer.
            BrokerError: the caller is refused, so that nothing will be known.

        Cancellation is safe.
        """
        while not check():
            if self._is_stopped:
                raise self._stopped_error()
            if self._refusal is not None:
                raise self._refusal.with_traceback(None)
            await self._changed.wait()

    def _stopped_error(self) -> BrokerClosedError:
        return BrokerClosedError(
            f"session {self._info.session_id} is followed no longer: its block has ended, "
            "or its Broker was closed"
        )

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.create_task(work, name=f"ibgateway-{name}-{self._info.session_id}")
        task.add_done_callback(self._has_ended)
        self._tasks.append(task)

    def _has_ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            # A bug of ours.
            logger.error("%s has ended by itself", task.get_name(), exc_info=task.exception())
        is_finished = (self.is_over or self._is_stopped) and all(
            map(asyncio.Task.done, self._tasks)
        )
        if is_finished and self.on_finish is not None:
            self.on_finish()

    def _set(self, info: SessionInfo) -> None:
        was_over = self.is_over
        if was_over and (self._is_on_record or not info.is_final):
            # Nobody could take back that it was told.
            return
        if info.lease_expire_time is None and info.lease_ttl is not None and not info.is_final:
            # Events do not say it: renewals are none.
            info = replace(info, lease_expire_time=self._info.lease_expire_time)
        if info.lease_ttl != self._info.lease_ttl:
            self._lease_changed.set()
        self._info = info
        self._pulse()
        if self.is_over and not was_over:
            self._tell_end()

    def _tell_end(self) -> None:
        self._pulse()
        self._lease_changed.set()
        if not self.is_over_by_others:
            return
        logger.error("%s", self.ended_error())
        on_end, self.on_end = self.on_end, None
        if on_end is not None:
            on_end()

    def _pulse(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _follow(self) -> None:
        """Follow the session until its end is on record."""
        failures = 0
        while not self.is_settled:
            try:
                await self._watch()
            except BrokerClosedError:
                return
            except BrokerError as error:
                failures += 1
                self._may_fall_back = True
                self.interruption = error
                if isinstance(error, WatchGapError):
                    logger.error("%s", error)
                else:
                    self._refuse(error)
                self._pulse()
                await self._pause(failures, _BACKOFF if self._refusal is None else _REFUSED)

    async def _watch(self) -> None:
        session_id = self._info.session_id
        async with self._calls.watch(session_ids=[session_id], include_final=True) as watch:
            async for item in watch:
                self.interruption = watch.interruption
                if self._refusal is not None:
                    self._refusal = None
                    logger.info("session %s is followed again", session_id)
                match item:
                    case Snapshot():
                        await self._told(item.session, is_on_record=True)
                    case SessionEvent():
                        await self._told(item.session, is_on_record=item.persisted)
                    case SnapshotComplete() if session_id not in watch.sessions:
                        self.lose()
                    case Interrupted():
                        self._may_fall_back = True
                self._pulse()
                if self.is_settled:
                    return

    def _refuse(self, error: BrokerError) -> None:
        if self._refusal is None:
            logger.error(
                "session %s is not followed, since its caller is refused; trying again: %s",
                self._info.session_id,
                error,
            )
        self._refusal = error

    async def _told(self, info: SessionInfo, *, is_on_record: bool) -> None:
        is_end = info.is_final and is_on_record
        if is_end or info.sequence >= self._info.sequence or self._may_fall_back:
            self._may_fall_back = False
            self._set(info)
            self._is_on_record = self._is_on_record or is_end
            if self.is_over and not info.is_final and not self._is_for_others:
                await self._close_again()

    async def _close_again(self) -> None:
        """Close the session if it lives though it was told that it has ended: nobody uses it any
        more, and it holds its client id. An event from before its end that comes late says nothing,
        so that the broker is asked.
        """
        session_id, failures = self._info.session_id, 0
        while not self.is_settled:
            try:
                info = await self._calls.get_session(session_id)
                if not info.is_final:
                    self._lives_on = True
                    logger.warning(
                        "session %s lives, but was told to have ended; it is closed", session_id
                    )
                    info = await self._calls.close_session(
                        session_id, reason="its program was told that it has ended"
                    )
            except SessionNotFoundError:
                self.lose()
            except BrokerClosedError:
                return
            except BrokerError as error:
                if not failures:
                    logger.error(
                        "session %s, which was told to have ended, could not be closed; trying "
                        "again: %s",
                        session_id,
                        error,
                    )
                failures += 1
                await self._pause(failures)
            else:
                self._lives_on = False
                self.learn(info)
                return

    async def _renew(self) -> None:
        """Renew the lease, whenever there is one, until the session has ended."""
        failures = 0
        while not self.is_over:
            if not failures and not await self._is_due():
                continue
            try:
                info = await self._calls.renew_session(
                    self._info.session_id, timeout=_patience(self._info.lease_ttl)
                )
            except BrokerClosedError:
                return
            except InvalidArgumentError:
                # Somebody has taken its lease away.
                self._info = replace(self._info, lease_ttl=None, lease_expire_time=None)
                failures = 0
            except (SessionEndedError, SessionNotFoundError):
                # It has ended, or is about to.
                await self._look()
                failures += 1
                await self._pause(failures)
            except BrokerError as error:
                self._warn(error)
                failures += 1
                await self._pause(failures)
            else:
                if self.renewal_error is not None:
                    logger.info("session %s: its lease is renewed again", self._info.session_id)
                self.renewal_error, failures = None, 0
                self.renewed(info)

    async def _is_due(self) -> bool:
        """Wait until the lease is to be renewed; False if something has changed before that."""
        self._lease_changed.clear()
        ttl = self._info.lease_ttl
        due = None if ttl is None else self._renewed_at + ttl / _RENEWALS
        try:
            async with asyncio.timeout_at(due):
                await self._lease_changed.wait()
        except TimeoutError:
            return True
        return False

    async def _look(self) -> None:
        """See whether the session is over."""
        try:
            self.learn(await self._calls.get_session(self._info.session_id))
        except SessionNotFoundError:
            self.lose()
        except BrokerError as error:
            self._warn(error)

    async def _pause(self, failures: int, backoff: Backoff = _BACKOFF) -> None:
        if self.is_settled:
            return
        delay = backoff.delay(failures - 1, retry_after=None, chance=self._chance())
        ttl = self._info.lease_ttl
        await asyncio.sleep(delay if ttl is None else min(delay, ttl / _RENEWALS))

    def _warn(self, error: BrokerError) -> None:
        if self.renewal_error is None:
            logger.warning(
                "session %s: its lease, which runs out at %s, could not be renewed; trying "
                "again: %s",
                self._info.session_id,
                self._info.lease_expire_time,
                error,
            )
        self.renewal_error = error


def _patience(ttl: float | None) -> float:
    """Seconds for one renewal: a part of the lease, so that there is time for another."""
    return 10.0 if ttl is None else min(10.0, max(0.5, ttl / _RENEWALS))
