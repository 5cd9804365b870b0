"""A handle on one session."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Mapping
from datetime import datetime
from typing import TypeVar

from ibgateway.client.calls import SessionCalls
from ibgateway.client.connection import Connection
from ibgateway.client.errors import BrokerError, SessionEndedError, SessionNotFoundError
from ibgateway.client.events import SessionEvent
from ibgateway.client.filters import Filter
from ibgateway.client.lifeline import Lifeline
from ibgateway.client.model import SessionInfo, SessionState, Verification
from ibgateway.client.watch import SILENCE, Watch

T = TypeVar("T")


class Session:
    """One session: what it is now, and what can be done with it.

    Made by `Broker.open_session` and `Broker.attach`. It stays current by itself, and renews the
    lease of its session, until it is closed or detached.

    That the session has ended, by whomever, is told in each of these ways: `ended`, `wait_ended`,
    SessionEndedError from whatever needs a session, the end of `watch`, a line in the log
    (``ibgateway.client``, level ERROR), and SessionEndedError in the body of ``async with``, unless
    that is told not to.

    An end is told at once and for good. If it was void, because the broker died before it was on
    record, the session that lives is closed while its Broker is open, unless it is to stay open.
    Only `watch` goes on until the end is on record.

    ``timeout`` and ``correlation_id`` of its methods are as in `SessionCalls`.

    Args:
        connection: to the broker.
        calls: to the broker.
        lifeline: keeps it current.
        created: whether the open has created it, or found it by its request_id.
    """

    def __init__(
        self,
        connection: Connection,
        calls: SessionCalls,
        lifeline: Lifeline,
        *,
        created: bool,
    ) -> None:
        self._connection = connection
        self._calls = calls
        self._lifeline = lifeline
        self._created = created

    def __repr__(self) -> str:
        info = self.info
        return (
            f"<Session {info.session_id} client_id={info.client_id} gateway={info.gateway_id!r} "
            f"{info.state}>"
        )

    @property
    def info(self) -> SessionInfo:
        """The session as it was last seen; a frozen value."""
        return self._lifeline.info

    @property
    def session_id(self) -> str:
        """The id that the broker has given."""
        return self.info.session_id

    @property
    def gateway_id(self) -> str:
        """The gateway."""
        return self.info.gateway_id

    @property
    def client_id(self) -> int:
        """The effective client id, which owns the session's orders."""
        return self.info.client_id

    @property
    def accounts(self) -> tuple[str, ...]:
        """The managed accounts; empty before the first handshake."""
        return self.info.accounts

    @property
    def labels(self) -> Mapping[str, str]:
        """As given when it was opened."""
        return self.info.labels

    @property
    def state(self) -> SessionState:
        """The one state."""
        return self.info.state

    @property
    def generation(self) -> int:
        """Grows by one with each link; subscriptions belong to it."""
        return self.info.generation

    @property
    def created(self) -> bool:
        """Whether the open has created the session; False if its request_id, or its session_id, has
        found it.
        """
        return self._created

    @property
    def ended(self) -> bool:
        """Whether the session has ended."""
        return self._lifeline.is_over

    @property
    def lease_expire_time(self) -> datetime | None:
        """When the session ends unless its lease is renewed; None without a lease."""
        return self.info.lease_expire_time

    @property
    def interruption(self) -> BrokerError | None:
        """Why nothing is known of the session for now, so that `info` is as it was before: the
        broker cannot be reached, or refuses the caller, or the block has ended and the session
        lives. None while it is followed.
        """
        return self._lifeline.interruption

    @property
    def renewal_error(self) -> BrokerError | None:
        """Why the last renewal of the lease failed; None if it did not. It is tried again until it
        succeeds, or the session is known to have ended.
        """
        return self._lifeline.renewal_error

    async def wait_ended(self) -> SessionInfo:
        """Wait until the session has ended, by whomever; returns how.

        Raises:
            BrokerClosedError: the block has ended, or the Broker was closed, and the session lives.
            UnauthenticatedError, PermissionDeniedError, UnexpectedAnswerError: the caller is
                refused, so that no end would be known. The handle tries again by itself.

        Cancellation is safe.
        """
        await self._lifeline.wait(lambda: self.ended)
        return self.info

    async def wait_connected(self, *, timeout: float | None = None) -> SessionInfo:
        """Wait until the session is known to be CONNECTED.

        Args:
            timeout: seconds to wait; None has no limit.

        Raises:
            SessionEndedError: it has ended.
            TimeoutError: it has taken longer.
            BrokerClosedError, UnauthenticatedError, PermissionDeniedError, UnexpectedAnswerError:
                as `wait_ended`.

        Cancellation is safe.
        """
        async with asyncio.timeout(timeout):
            await self._lifeline.wait(
                lambda: (
                    self.ended
                    or (self.state is SessionState.CONNECTED and self.interruption is None)
                )
            )
        self._require()
        return self.info

    async def refresh(
        self, *, timeout: float | None = None, correlation_id: str | None = None
    ) -> SessionInfo:
        """Ask the broker for the session as it is now, also if it has ended.

        Raises:
            SessionEndedError: the broker has no record of it.

        Cancellation is safe.
        """
        return self._learn(
            await self._call(
                self._calls.get_session(
                    self.session_id, timeout=timeout, correlation_id=correlation_id
                )
            )
        )

    async def verify(
        self, *, timeout: float | None = None, correlation_id: str | None = None
    ) -> Verification:
        """Ask the Gateway, over the session's own link, for its time: see `verify_session`.

        Raises:
            SessionEndedError: the session has ended.

        Cancellation ends the wait; the probe is out all the same.
        """
        self._require()
        return await self._call(
            self._calls.verify_session(
                self.session_id, timeout=timeout, correlation_id=correlation_id
            )
        )

    async def renew(
        self,
        *,
        lease_ttl: float | None = None,
        timeout: float | None = None,
        correlation_id: str | None = None,
    ) -> SessionInfo:
        """Let the lease begin anew, or begin; it is renewed by itself from then on.

        Args:
            lease_ttl: seconds that it lasts; None is as before.
            timeout: see the class.
            correlation_id: see the class.

        Raises:
            SessionEndedError: the session has ended.
            InvalidArgumentError: it has no lease and none is asked for.

        Cancellation is safe.
        """
        self._require()
        info = await self._call(
            self._calls.renew_session(
                self.session_id,
                lease_ttl=lease_ttl,
                timeout=timeout,
                correlation_id=correlation_id,
            )
        )
        self._lifeline.renewed(info)
        return self.info

    async def acknowledge_data(
        self, *, generation: int, timeout: float | None = None, correlation_id: str | None = None
    ) -> SessionInfo:
        """Say that whatever was interrupted is subscribed anew: DATA_CONTINUOUS is TRUE again.

        Args:
            generation: that of the session when you subscribed, as the event said that told you to.
            timeout: see the class.
            correlation_id: see the class.

        Raises:
            SessionEndedError: the session has ended.
            SessionNotConnectedError: it has no link now.
            InvalidArgumentError: its link was made anew meanwhile.

        Cancellation is safe.
        """
        self._require()
        return self._learn(
            await self._call(
                self._calls.acknowledge_data(
                    self.session_id,
                    generation=generation,
                    timeout=timeout,
                    correlation_id=correlation_id,
                )
            )
        )

    def events(self, *, timeout: float | None = None) -> AsyncIterator[SessionEvent]:
        """Its recorded history, oldest first, also when it has ended. Cancellation is safe.

        Args:
            timeout: seconds for each page.
        """
        return self._calls.session_events(self.session_id, timeout=timeout)

    def watch(
        self,
        *,
        resume_token: str = "",
        silence: float = SILENCE,
        give_up_after: float | None = None,
        correlation_id: str | None = None,
    ) -> Watch:
        """Follow the session: as it is now, then whatever happens to it, until it has ended.

        Args:
            resume_token: see `Broker.watch`; so for the others.
            silence: seconds without a message after which a stream is given up as dead.
            give_up_after: seconds without any stream after which the reason is raised.
            correlation_id: of its streams.

        See `Watch` for cancellation.
        """
        return Watch(
            self._connection,
            Filter(session_ids=(self.session_id,), include_final=True),
            resume_token=resume_token,
            silence=silence,
            give_up_after=give_up_after,
            correlation_id=correlation_id,
            ended=lambda: self.info if self._lifeline.is_settled else None,
            told=self._lifeline.learn,
        )

    def detach(self) -> None:
        """Leave the session open when the block, or the Broker, ends.

        Its lease, if it has one, is not renewed any more then: it ends the session unless somebody
        attaches to it in time.
        """
        self._lifeline.keep_open = True

    async def close(
        self, *, reason: str = "", timeout: float | None = None, correlation_id: str | None = None
    ) -> SessionInfo:
        """End the session; returns when its link has ended. Closing twice is no error.

        Args:
            reason: for the broker's log.
            timeout: seconds to wait, 30 by default.
            correlation_id: see the class.

        Raises:
            SessionNotFoundError: the broker has no record of it.

        Cancellation ends the wait; once the broker has the request, the session closes all the
        same.
        """
        await self._lifeline.close(reason=reason, timeout=timeout, correlation_id=correlation_id)
        return self.info

    def _require(self) -> None:
        if self.ended:
            raise self._lifeline.ended_error()

    def _learn(self, info: SessionInfo) -> SessionInfo:
        self._lifeline.learn(info)
        return self.info

    async def _call(self, call: Awaitable[T]) -> T:
        """Make a call that finds out if the session is over."""
        try:
            return await call
        except SessionNotFoundError as error:
            self._lifeline.lose()
            raise self._lifeline.ended_error() from error
        except SessionEndedError as error:
            error.session = self.info
            raise
