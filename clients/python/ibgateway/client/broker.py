"""The way in: a connection to a broker, and everything that it offers."""

from __future__ import annotations

import asyncio
import functools
import logging
import uuid
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Final, Self

import grpc
from google.protobuf.wrappers_pb2 import Int32Value, StringValue

from ibgateway.broker.v1 import broker_service_pb2
from ibgateway.broker.v1 import session_service_pb2 as pb
from ibgateway.client import conversion
from ibgateway.client.calls import TIMEOUT, SessionCalls
from ibgateway.client.connection import TOKEN_KEY, Connection, Option, is_local
from ibgateway.client.errors import BrokerError, UnexpectedAnswerError
from ibgateway.client.gateways import Gateways
from ibgateway.client.lifeline import Lifeline
from ibgateway.client.model import BrokerInfo, ClientIdPolicy, Health, SessionInfo
from ibgateway.client.opening import SessionOpening
from ibgateway.client.retry import Backoff
from ibgateway.client.session import Session

logger = logging.getLogger("ibgateway.client")

OPEN_TIMEOUT: Final = 300.0
"""Seconds to open a session: longer than the broker's own attempts take by default."""
LEASE_TTL: Final = 60.0
"""Seconds that a session outlives a program that has died."""
LEAVE_TIMEOUT: Final = 15.0
"""Seconds that closing may take at the end of a block."""
_HEALTH: Final = {0: Health.UNKNOWN, 1: Health.SERVING, 2: Health.NOT_SERVING}
_PATIENCE: Final = Backoff()


def connect(
    address: str = "127.0.0.1:50051",
    *,
    owner: str | None = None,
    credentials: grpc.ChannelCredentials | None = None,
    token: str | None = None,
    metadata: Sequence[tuple[str, str]] = (),
    backoff: Backoff | None = _PATIENCE,
    options: Sequence[Option] = (),
) -> Broker:
    """A broker that is reached over the network; use it in an ``async with`` block.

    Nothing is sent before the first call. A call that finds no broker, or one that cannot serve
    it now and says when to ask again (CIRCUIT_OPEN, GATEWAY_DRAINING, BROKER_DRAINING,
    STORE_UNAVAILABLE), is repeated within its timeout, with a line in the log
    (``ibgateway.client``, level WARNING). Not repeated is what a broker has answered otherwise,
    and what is not safe to repeat when nobody has answered.

    Args:
        address: HOST:PORT.
        owner: the name under which sessions are opened, ASCII, at most 128 characters; None leaves
            it to the broker: "local", or whom the token or the certificate names. A broker that
            asks for one of these refuses any other name.
        credentials: for TLS, from ``grpc.ssl_channel_credentials(ca, key, certificate)``; None is
            plain text. Key and certificate are for a broker that asks for a certificate.
        token: shown with each call. It is sent over TLS, or to this machine, and never elsewhere.
        metadata: further (key, value) pairs for each call, such as an authorization.
        backoff: waits between repeated calls, and before a watch resumes; None repeats no call.
        options: further channel options of gRPC; they win over those of this library.

    Raises:
        ValueError: the address, the owner or the token can be no such thing; or the token would
            be sent for everybody to read.
    """
    if "://" in address:
        raise ValueError(f"address must be HOST:PORT, such as '127.0.0.1:50051', not {address!r}")
    if owner is not None and not (owner and owner.isascii() and owner.isprintable()):
        raise ValueError(f"owner must be a name in printable ASCII, not {owner!r}")
    if token is not None:
        if not (token and token.isascii() and token.isprintable() and " " not in token):
            # It is not shown: errors end in logs.
            raise ValueError("token must be printable ASCII without blanks: strip the file's end")
        metadata = (*metadata, (TOKEN_KEY, f"Bearer {token}"))
    if credentials is None and not is_local(address):
        for key, _ in metadata:
            if key.lower() == TOKEN_KEY:
                raise ValueError(
                    f"a token must not be sent to {address} in plain text; give credentials for "
                    "TLS, such as grpc.ssl_channel_credentials(ca)"
                )
    if token is not None and credentials is None:
        # A proxy of the environment is on no way to this machine.
        options = (("grpc.enable_http_proxy", 0), *options)
    return Broker(
        Connection(
            address,
            owner=owner,
            credentials=credentials,
            metadata=metadata,
            backoff=backoff,
            options=options,
        )
    )


class Broker(SessionCalls):
    """Opens sessions, and everything of `SessionCalls`; made by `connect`.

    Used by the tasks of one event loop.

    Args:
        connection: to the broker.
    """

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self._gateways = Gateways(connection)
        self._lifelines: set[Lifeline] = set()
        self._is_closing = False

    def __repr__(self) -> str:
        return f"<Broker {self.address}{' closed' if self._connection.is_closed else ''}>"

    @property
    def address(self) -> str:
        """HOST:PORT."""
        return self._connection.address

    @property
    def gateways(self) -> Gateways:
        """The configured gateways, and what operators decide about them."""
        return self._gateways

    def open_session(
        self,
        *,
        gateway_id: str = "",
        client_id: int | None = None,
        client_id_policy: ClientIdPolicy | None = None,
        readonly: bool = False,
        attempt_timeout: float | None = None,
        max_attempts: int | None = None,
        reconnect_max_attempts: int | None = None,
        request_id: str | None = None,
        lease_ttl: float | None = LEASE_TTL,
        labels: Mapping[str, str] | None = None,
        return_immediately: bool = False,
        keep_open: bool = False,
        raise_on_end: bool = True,
        close_timeout: float = LEAVE_TIMEOUT,
        timeout: float = OPEN_TIMEOUT,
        correlation_id: str | None = None,
    ) -> SessionOpening:
        """Open a session: ``async with broker.open_session(...) as session``, or ``await``.

        Args:
            gateway_id: the configured gateway; empty is ``"default"``.
            client_id: 1 to 9999, the owner of the session's orders; None takes a free one.
            client_id_policy: whether another id may be taken if that one is in use. None is EXACT
                with a ``client_id``, and INCREMENT without.
            readonly: ask for a session without order entry.
            attempt_timeout: seconds that one dial may take; None is the gateway's, 30 by default.
            max_attempts: how often to dial before giving up; None is the gateway's, 7 by default.
            reconnect_max_attempts: how often to dial for a link that was lost; None is without end.
            request_id: a UUID4; whoever sends it again, with the same owner and parameters, gets
                the same session. None makes one, so that the open can be repeated safely when its
                answer is lost. Empty sends none.
            lease_ttl: seconds after which the session ends unless it is renewed, which is done by
                itself at a third of what the broker grants; None lives until it is closed.
            labels: for you, at most 32.
            return_immediately: do not wait until it is CONNECTED; failures are told by `watch`.
            keep_open: leave it open when the block ends; see `Session.detach`.
            raise_on_end: raise SessionEndedError in the block when somebody else ends the session.
            close_timeout: seconds that closing may take at the end of the block.
            timeout: seconds to wait for the session to be CONNECTED.
            correlation_id: see the class.

        Raises (when entered or awaited):
            GatewayError: one of the six codes: the Gateway could not be connected to.
            SessionEndedError: it was ended while it was opened, or before ``request_id`` was
                repeated.
            SessionLimitError, ClientIdsExhaustedError, GatewayNotFoundError, RequestIdReusedError,
            InvalidArgumentError: nothing was dialled.
            CircuitBreakerOpenError, GatewayDrainingError, BrokerDrainingError,
            StoreUnavailableError, BrokerUnreachableError: it was so until the timeout.

        Cancellation while it is opened ends the session. An answer that is on its way in just that
        instant leaves a session behind that ends with its lease.
        """
        policy = client_id_policy or (
            ClientIdPolicy.INCREMENT if client_id is None else ClientIdPolicy.EXACT
        )

        def request() -> pb.OpenSessionRequest:
            return pb.OpenSessionRequest(
                gateway_id=gateway_id,
                client_id=client_id,
                client_id_policy=f"CLIENT_ID_POLICY_{policy}",
                readonly=readonly,
                timeout=conversion.duration(attempt_timeout),
                max_attempts=max_attempts,
                reconnect_max_attempts=reconnect_max_attempts,
                request_id=str(uuid.uuid4()) if request_id is None else request_id,
                lease_ttl=conversion.duration(lease_ttl),
                labels=labels,
                return_immediately=return_immediately,
            )

        async def send(wanted: pb.OpenSessionRequest) -> pb.OpenSessionResponse:
            return await self._connection.call(
                self._connection.sessions.OpenSession,
                wanted,
                timeout=timeout,
                idempotent=bool(wanted.request_id) or wanted.validate_only,
                correlation_id=correlation_id,
            )

        async def open_() -> tuple[Session, Lifeline]:
            self._require_open()
            response = await send(request())
            info = conversion.session(response.session)
            return self._hold(info, created=response.created, keep_open=keep_open)

        async def validate() -> None:
            wanted = request()
            wanted.validate_only = True
            await send(wanted)

        return SessionOpening(
            open_,
            validate=validate,
            raise_on_end=raise_on_end,
            close_timeout=close_timeout,
        )

    def attach(
        self,
        session_id: str,
        *,
        lease_ttl: float | None = None,
        keep_open: bool = True,
        raise_on_end: bool = True,
        close_timeout: float = LEAVE_TIMEOUT,
        timeout: float | None = None,
        correlation_id: str | None = None,
    ) -> SessionOpening:
        """Take up a session that exists: ``async with broker.attach(...) as session``, or
        ``await``.

        Its lease, if it has one, begins anew, and is renewed from now on by this handle.

        Args:
            session_id: the session.
            lease_ttl: seconds of its lease from now on; None leaves it as it is.
            keep_open: leave it open when the block ends. Who has not opened it does not close it,
                unless this is False.
            raise_on_end: raise SessionEndedError in the block when somebody else ends the session.
            close_timeout: seconds that closing may take at the end of the block.
            timeout: see the class.
            correlation_id: see the class.

        Raises (when entered or awaited):
            SessionNotFoundError: there is no record of it.
            SessionEndedError: it has ended.

        Cancellation is safe.
        """

        async def find() -> SessionInfo:
            info = await self.get_session(
                session_id, timeout=timeout, correlation_id=correlation_id
            )
            if info.is_final or (lease_ttl is None and info.lease_ttl is None):
                return info
            return await self.renew_session(
                session_id, lease_ttl=lease_ttl, timeout=timeout, correlation_id=correlation_id
            )

        async def open_() -> tuple[Session, Lifeline]:
            self._require_open()
            return self._hold(await find(), created=False, keep_open=keep_open)

        async def validate() -> None:
            await self.get_session(session_id, timeout=timeout, correlation_id=correlation_id)

        return SessionOpening(
            open_,
            validate=validate,
            raise_on_end=raise_on_end,
            close_timeout=close_timeout,
        )

    async def info(
        self, *, timeout: float | None = None, correlation_id: str | None = None
    ) -> BrokerInfo:
        """What this broker is and can do. Cancellation is safe."""
        response = await self._connection.call(
            self._connection.broker.GetBrokerInfo,
            broker_service_pb2.GetBrokerInfoRequest(),
            timeout=timeout or TIMEOUT,
            idempotent=True,
            correlation_id=correlation_id,
        )
        return conversion.broker_info(response)

    async def check_health(self, service: str = "", *, timeout: float | None = None) -> Health:
        """What the standard health service says. It is not repeated: what matters is how it is now.

        Args:
            service: empty asks for the process, ``"ibgateway.broker.v1.SessionService"`` whether
                sessions can be opened as far as the broker is concerned, ``"gateways/<id>"``
                whether that Gateway was reached last.
            timeout: see the class.

        Cancellation is safe.
        """
        # The messages of grpc.health.v1 have one field each, as these have.
        check: grpc.aio.UnaryUnaryMultiCallable[StringValue, Int32Value] = (
            self._connection.channel.unary_unary(
                "/grpc.health.v1.Health/Check",
                request_serializer=StringValue.SerializeToString,
                response_deserializer=Int32Value.FromString,
            )
        )
        try:
            response = await self._connection.call(
                check,
                StringValue(value=service),
                timeout=timeout or TIMEOUT,
                idempotent=False,
                correlation_id=None,
            )
        except UnexpectedAnswerError as error:
            if error.code != "NOT_FOUND":
                raise
            return Health.SERVICE_UNKNOWN
        return _HEALTH.get(response.value, Health.UNKNOWN)

    async def close(self) -> None:
        """Close the sessions that were opened by ``await`` and not detached, then the connection.

        No other can be opened from now on. Calls that are under way then, and watches, end with
        BrokerClosedError. A session that cannot be closed is told in the log. Closing twice is no
        error.

        Cancellation leaves nothing behind but sessions that end with their leases.
        """
        self._is_closing = True
        try:
            # Also those whose opens are answered meanwhile.
            while self._lifelines:
                lifelines = list(self._lifelines)
                async with asyncio.TaskGroup() as group:
                    for lifeline in lifelines:
                        group.create_task(
                            _leave(lifeline), name=f"ibgateway-leave-{lifeline.info.session_id}"
                        )
                self._lifelines.difference_update(lifelines)
        finally:
            await self._connection.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    def _require_open(self) -> None:
        if self._is_closing:
            raise self._connection.closed_error()

    def _hold(
        self, info: SessionInfo, *, created: bool, keep_open: bool
    ) -> tuple[Session, Lifeline]:
        """A handle on a session, kept current from now on."""
        lifeline = Lifeline(self, info, keep_open=keep_open, chance=self._connection.chance)
        if info.is_final:
            raise lifeline.ended_error()
        if self._connection.is_closed:
            raise self._connection.closed_error()
        lifeline.on_finish = functools.partial(self._lifelines.discard, lifeline)
        lifeline.start()
        self._lifelines.add(lifeline)
        return Session(self._connection, self, lifeline, created=created), lifeline


async def _leave(lifeline: Lifeline) -> None:
    try:
        await lifeline.leave(timeout=LEAVE_TIMEOUT)
    except BrokerError as error:
        logger.error("session %s could not be closed: %s", lifeline.info.session_id, error)
    finally:
        await lifeline.stop()
