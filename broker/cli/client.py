"""The broker as commands call it: one call after another, over the connection of the Python client.

The answers are the messages of the contract, not the values of `ibgateway.client`: what is
printed as JSON is what the broker said, also what a newer one says and this program does not know.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar

from ibgateway.broker.v1 import (
    broker_service_pb2,
    gateway_pb2,
    gateway_service_pb2,
    session_event_pb2,
    session_pb2,
)
from ibgateway.broker.v1 import session_service_pb2 as pb
from ibgateway.client.broker import OPEN_TIMEOUT
from ibgateway.client.broker import Broker as PythonClient
from ibgateway.client.calls import CLOSE_TIMEOUT, TIMEOUT, VERIFY_TIMEOUT
from ibgateway.client.connection import TOKEN_KEY, Connection
from ibgateway.client.conversion import duration
from ibgateway.client.errors import BrokerError
from ibgateway.client.events import Interrupted, Reset, Resumed
from ibgateway.client.filters import Filter
from ibgateway.client.gateways import DRAIN_TIMEOUT
from ibgateway.client.watch import Watch

from broker.cli import output
from broker.cli.caller import Caller, caller

if TYPE_CHECKING:
    import grpc.aio

__all__ = ["OPEN_TIMEOUT", "TIMEOUT", "Broker", "BrokerError", "Filter", "Told", "calling"]

T = TypeVar("T")
TRequest = TypeVar("TRequest")
TResponse = TypeVar("TResponse")

Told: TypeAlias = pb.WatchSessionsResponse | Interrupted | Resumed
"""What a watch tells: what the broker sends, and that there is none for a while."""

_PAGE: Final = 500
_SILENT: Final = logging.NullHandler()


class Broker:
    """A broker, and the loop that its calls run on. Every method raises BrokerError.

    A KeyboardInterrupt during a call cancels it, and the broker is told so.

    Args:
        connection: to the broker; it repeats no call.
        runner: the loop.
        patience: seconds for an answer that does not wait for a Gateway.
    """

    def __init__(self, connection: Connection, runner: asyncio.Runner, patience: float) -> None:
        self._connection = connection
        self._runner = runner
        self._patience = patience

    @property
    def address(self) -> str:
        """Where it is."""
        return self._connection.address

    def open(
        self,
        *,
        deadline: float,
        timeout: float | None,
        lease: float | None,
        client_id: int | None,
        exact: bool,
        **fields: Any,
    ) -> pb.OpenSessionResponse:
        """Open a session; an interruption meanwhile gives it up.

        Args:
            deadline: seconds to wait for it to be CONNECTED.
            timeout: seconds for one attempt; None is the gateway's own.
            lease: seconds that it lives unless it is renewed; None is until it is closed.
            client_id: None takes one from the pool.
            exact: never another id.
            fields: further fields of the request.
        """
        request = pb.OpenSessionRequest(
            client_id=client_id,
            client_id_policy=pb.CLIENT_ID_POLICY_EXACT if exact else pb.CLIENT_ID_POLICY_INCREMENT,
            timeout=duration(timeout),
            lease_ttl=duration(lease),
            **fields,
        )
        return self._call(
            lambda: self._connection.sessions.OpenSession,
            request,
            deadline=deadline,
            waiting=f"for gateway {request.gateway_id or 'default'!r} to accept the session",
        )

    def close(self, session_id: str, reason: str) -> session_pb2.Session:
        """End a session; returns when its link has ended."""
        return self._call(
            lambda: self._connection.sessions.CloseSession,
            pb.CloseSessionRequest(session_id=session_id, reason=reason),
            deadline=CLOSE_TIMEOUT,
            waiting="for the link to end",
        ).session

    def get(self, session_id: str) -> session_pb2.Session:
        """One session."""
        return self._call(
            lambda: self._connection.sessions.GetSession,
            pb.GetSessionRequest(session_id=session_id),
        ).session

    def page(self, wanted: Filter, size: int, token: str) -> pb.ListSessionsResponse:
        """Some of the sessions that match: the first ones, or those that follow a page."""
        return self._call(
            lambda: self._connection.sessions.ListSessions,
            pb.ListSessionsRequest(page_size=size, page_token=token, **wanted.fields()),
        )

    def sessions(
        self, wanted: Filter, *, limit: int | None = None, token: str = ""
    ) -> pb.ListSessionsResponse:
        """The sessions that match, fetched page by page.

        Args:
            wanted: which.
            limit: how many at most; None is all.
            token: where to begin, the next_page_token of an answer that was limited.
        """
        found = pb.ListSessionsResponse()
        while limit is None or len(found.sessions) < limit:
            room = _PAGE if limit is None else min(_PAGE, limit - len(found.sessions))
            page = self.page(wanted, room, token)
            found.sessions.extend(page.sessions)
            token = found.next_page_token = page.next_page_token
            if not token:
                break
        return found

    def verify(self, session_id: str) -> pb.VerifySessionResponse:
        """Probe a session's link."""
        return self._call(
            lambda: self._connection.sessions.VerifySession,
            pb.VerifySessionRequest(session_id=session_id),
            deadline=VERIFY_TIMEOUT,
            waiting="for the Gateway to answer",
        )

    def renew(self, session_id: str, lease: float | None) -> session_pb2.Session:
        """Let a session's lease begin anew, for so many seconds; None as before."""
        return self._call(
            lambda: self._connection.sessions.RenewSession,
            pb.RenewSessionRequest(session_id=session_id, lease_ttl=duration(lease)),
        ).session

    def events(self, session_id: str) -> Iterator[session_event_pb2.SessionEvent]:
        """All recorded events of a session, fetched page by page."""
        token = ""  # nosec B105 # a place in a list
        while True:
            page = self._call(
                lambda: self._connection.sessions.ListSessionEvents,
                pb.ListSessionEventsRequest(
                    session_id=session_id, page_size=_PAGE, page_token=token
                ),
            )
            yield from page.events
            token = page.next_page_token
            if not token:
                return

    def acknowledge(self, session_id: str, generation: int | None) -> session_pb2.Session:
        """Say that what was interrupted is subscribed anew.

        Args:
            session_id: the session.
            generation: that of the link; None is the session's as it is now.
        """
        if generation is None:
            # One that never had a link is refused for that, not for the number.
            generation = max(self.get(session_id).generation, 1)
        return self._call(
            lambda: self._connection.sessions.AcknowledgeData,
            pb.AcknowledgeDataRequest(session_id=session_id, generation=generation),
        ).session

    def watch(
        self, wanted: Filter, *, token: str = "", tick: float | None = None
    ) -> Iterator[Told | None]:
        """Follow sessions until interrupted.

        A stream that is lost is opened again where it was, for as long as it takes; that is told.
        Only one that never came raises.

        Args:
            wanted: which.
            token: the resume_token of the last message that was handled; empty begins anew.
            tick: seconds without a message after which None is told; None waits for one.
        """

        async def item(watch: Watch, limit: float | None) -> Told | None:
            try:
                async with asyncio.timeout(limit):
                    found = await anext(watch)
            except TimeoutError:
                return None
            match found:
                case Interrupted() | Resumed():
                    return found
                case Reset() if watch.message is None:
                    return pb.WatchSessionsResponse(reset=pb.Reset(reason=found.reason))
            return watch.message

        # Its stream ends with the connection: an interruption may come where nobody is left to ask
        # this generator to end it.
        watch = Watch(self._connection, wanted, resume_token=token)
        began = False
        while True:
            if began:
                told = self._runner.run(item(watch, tick))
            else:
                told = self._run(lambda: item(watch, None), self._waiting)
            if isinstance(told, Interrupted) and not began:
                raise told.error
            began = began or told is not None
            yield told

    def gateways(self) -> gateway_service_pb2.ListGatewaysResponse:
        """All gateways."""
        return self._call(
            lambda: self._connection.gateways.ListGateways,
            gateway_service_pb2.ListGatewaysRequest(),
        )

    def gateway(self, gateway_id: str) -> gateway_pb2.Gateway:
        """One gateway."""
        return self._call(
            lambda: self._connection.gateways.GetGateway,
            gateway_service_pb2.GetGatewayRequest(gateway_id=gateway_id),
        ).gateway

    def drain(self, gateway_id: str, reason: str, *, close_sessions: bool) -> gateway_pb2.Gateway:
        """Take a gateway out of use; returns when its sessions have ended, if they are to."""
        return self._call(
            lambda: self._connection.gateways.DrainGateway,
            gateway_service_pb2.DrainGatewayRequest(
                gateway_id=gateway_id, reason=reason, close_sessions=close_sessions
            ),
            deadline=DRAIN_TIMEOUT if close_sessions else None,
            waiting=f"for the sessions of gateway {gateway_id!r} to end",
        ).gateway

    def resume(self, gateway_id: str) -> gateway_pb2.Gateway:
        """Put a gateway into use again."""
        return self._call(
            lambda: self._connection.gateways.ResumeGateway,
            gateway_service_pb2.ResumeGatewayRequest(gateway_id=gateway_id),
        ).gateway

    def reset_breaker(self, gateway_id: str) -> gateway_pb2.Gateway:
        """Close a gateway's circuit, and let whoever waits for it try at once."""
        return self._call(
            lambda: self._connection.gateways.ResetCircuitBreaker,
            gateway_service_pb2.ResetCircuitBreakerRequest(gateway_id=gateway_id),
        ).gateway

    def info(self) -> broker_service_pb2.GetBrokerInfoResponse:
        """What this broker is."""
        return self._call(
            lambda: self._connection.broker.GetBrokerInfo,
            broker_service_pb2.GetBrokerInfoRequest(),
        )

    def health(self, service: str) -> str:
        """What the health service says: SERVING, NOT_SERVING, UNKNOWN or SERVICE_UNKNOWN."""
        return self._run(
            lambda: PythonClient(self._connection).check_health(service, timeout=self._patience),
            self._waiting,
        ).value

    @property
    def _waiting(self) -> str:
        return f"for the broker at {self.address}"

    def _call(
        self,
        method: Callable[[], grpc.aio.UnaryUnaryMultiCallable[TRequest, TResponse]],
        request: TRequest,
        *,
        deadline: float | None = None,
        waiting: str = "",
    ) -> TResponse:
        return self._run(
            lambda: self._connection.call(
                method(),
                request,
                timeout=deadline or self._patience,
                idempotent=False,
                correlation_id=None,
            ),
            waiting or self._waiting,
        )

    def _run(self, call: Callable[[], Awaitable[T]], waiting: str) -> T:
        async def made() -> T:
            # The channel is made where its loop runs.
            return await call()

        with output.waiting(f"waiting {waiting}"):
            return self._runner.run(made())


def _shown(shown: Caller) -> dict[str, Any]:
    """What is shown, as a connection takes it."""
    found: dict[str, Any] = {}
    if shown.is_tls:
        import grpc

        found["credentials"] = grpc.ssl_channel_credentials(
            shown.roots, shown.key, shown.certificate
        )
    if shown.token:
        found["metadata"] = ((TOKEN_KEY, f"Bearer {shown.token}"),)
        if not shown.is_tls:
            # A proxy of the environment is on no way to this machine.
            found["options"] = (("grpc.enable_http_proxy", 0),)
    return found


@contextmanager
def calling(
    address: str | None, *, owner: str | None = None, patience: float = TIMEOUT
) -> Iterator[Broker]:
    """A connection to a broker, closed at the end.

    Args:
        address: HOST:PORT; None is where one with this configuration listens.
        owner: in whose name; None leaves it to the broker.
        patience: seconds for an answer that does not wait for a Gateway.
    """
    if address is None:
        from broker.config import broker_address

        address = broker_address()
    # What it would log, commands say.
    logging.getLogger("ibgateway.client").addHandler(_SILENT)
    shown = caller(address)
    with asyncio.Runner() as runner:
        connection = Connection(address, owner=owner, **_shown(shown))
        try:
            yield Broker(connection, runner, patience)
        finally:
            runner.run(connection.close())
