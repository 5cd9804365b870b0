"""The one way to the broker: a channel, and calls with a deadline, repeated where that is safe.

What grpc.aio does, and what is made of it here:

- A call that is cut by ``channel.close()`` raises CancelledError in a task that nobody has
  cancelled: BrokerClosedError.
- A call after that raises UsageError: BrokerClosedError.
- ``channel.close()`` of gRPC 1.62 does not end a read of a stream: streams are cancelled first.
- ``wait_for_ready`` hides why a broker cannot be reached until the deadline has passed: it is not
  used; what was refused is told, and tried again here.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import random
import uuid
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar, cast

import grpc
import grpc.aio

from ibgateway.broker.v1 import (
    broker_service_pb2_grpc,
    gateway_service_pb2_grpc,
    session_service_pb2_grpc,
)
from ibgateway.client import status
from ibgateway.client.errors import (
    BrokerClosedError,
    BrokerDrainingError,
    BrokerError,
    BrokerUnreachableError,
    CallTimeoutError,
    CircuitBreakerOpenError,
    GatewayDrainingError,
    StoreUnavailableError,
)
from ibgateway.client.retry import Backoff

logger = logging.getLogger("ibgateway.client")

TRequest = TypeVar("TRequest")
TResponse = TypeVar("TResponse")
Option = tuple[str, Any]

OWNER_KEY: Final = "x-broker-owner"
TOKEN_KEY: Final = "authorization"  # noqa: S105 - a name, not a token
OPTIONS: Final[Sequence[Option]] = (
    # A broker whose machine has died is noticed within 40 s, also by a call that waits for long.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    # Streams send nothing after their request: without this gRPC stops pinging after two pings.
    ("grpc.http2.max_pings_without_data", 0),
    # A broker that was restarted is found within seconds; gRPC's own limit is two minutes.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.dns_min_time_between_resolutions_ms", 5_000),
    # Each Broker its own connection, so that none waits in another's backoff.
    ("grpc.use_local_subchannel_pool", 1),
)
"""Channel options; those that the user gives come after them, and win."""

_LAST_TRY: Final = 0.1
"""Seconds that a try should have; with less, what is known already says more than its end."""
_ANSWERED: Final = (
    CircuitBreakerOpenError,
    GatewayDrainingError,
    BrokerDrainingError,
    StoreUnavailableError,
)
"""With these the broker says that nothing was done, and when to ask again."""


@dataclass(frozen=True)
class _Stubs:
    channel: grpc.aio.Channel
    sessions: session_service_pb2_grpc.SessionServiceAsyncStub
    gateways: gateway_service_pb2_grpc.GatewayServiceAsyncStub
    broker: broker_service_pb2_grpc.BrokerServiceAsyncStub


def is_local(address: str) -> bool:
    """Whether HOST:PORT is on this machine, whatever a name server says."""
    if address.startswith("unix:"):
        return True
    host = address.rpartition(":")[0].strip("[]").lower().rstrip(".")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Connection:
    """A channel to a broker, made when it is first used.

    Args:
        address: HOST:PORT.
        owner: under which name; None leaves it to the broker.
        credentials: of a TLS channel; None is an insecure one.
        metadata: sent with each call.
        options: further channel options.
        backoff: waits between repeated calls; None repeats none.
        chance: gives random numbers, 0 to 1.
    """

    def __init__(
        self,
        address: str,
        *,
        owner: str | None = None,
        credentials: grpc.ChannelCredentials | None = None,
        metadata: Sequence[tuple[str, str]] = (),
        options: Sequence[Option] = (),
        backoff: Backoff | None = None,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.address = address
        self.chance = chance
        self._credentials = credentials
        self._metadata = (*metadata, *(() if owner is None else ((OWNER_KEY, owner),)))
        self._options = (*OPTIONS, *options)
        self.backoff = backoff
        self._stubs: _Stubs | None = None
        self._streams: weakref.WeakSet[grpc.aio.Call] = weakref.WeakSet()
        # Whether the last call had to be repeated: an outage is a warning once.
        self._is_troubled = False
        self._closed = asyncio.Event()

    @property
    def sessions(self) -> session_service_pb2_grpc.SessionServiceAsyncStub:
        """The stub of SessionService."""
        return self._open().sessions

    @property
    def gateways(self) -> gateway_service_pb2_grpc.GatewayServiceAsyncStub:
        """The stub of GatewayService."""
        return self._open().gateways

    @property
    def broker(self) -> broker_service_pb2_grpc.BrokerServiceAsyncStub:
        """The stub of BrokerService."""
        return self._open().broker

    @property
    def channel(self) -> grpc.aio.Channel:
        """The channel."""
        return self._open().channel

    @property
    def is_closed(self) -> bool:
        """Whether no call can be made any more."""
        return self._closed.is_set()

    async def call(
        self,
        method: grpc.aio.UnaryUnaryMultiCallable[TRequest, TResponse],
        request: TRequest,
        *,
        timeout: float,
        idempotent: bool,
        correlation_id: str | None,
    ) -> TResponse:
        """Make one call, and repeat it within its deadline where that is safe.

        Args:
            method: of a stub.
            request: what is asked.
            timeout: seconds for all tries together.
            idempotent: whether it may be repeated when nobody has answered.
            correlation_id: a UUID4; None makes one.

        Raises:
            BrokerError: it failed; of several failures the last.

        Cancellation cancels the call, and what that means is the method's to say.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        correlation_id = correlation_id or str(uuid.uuid4())
        failures = 0
        before: BrokerError | None = None
        while True:
            try:
                with self._errors(timeout, correlation_id):
                    response = await method(
                        request,
                        timeout=max(deadline - loop.time(), 0.0),
                        metadata=self._sent_with(correlation_id),
                    )
            except BrokerError as error:
                delay = self._delay(error, failures, idempotent=idempotent)
                if delay is None or loop.time() + delay + _LAST_TRY >= deadline:
                    if before is not None:
                        error.add_note(f"the try before that ended with: {before}")
                    raise
                before = error
                level = logging.INFO if self._is_troubled else logging.WARNING
                logger.log(level, "%s; trying again in %.1f s", error, delay)
                self._is_troubled = True
            else:
                self._is_troubled = False
                return response
            failures += 1
            await self.pause(delay)

    def stream(
        self,
        method: grpc.aio.UnaryStreamMultiCallable[TRequest, TResponse],
        request: TRequest,
        *,
        correlation_id: str,
    ) -> grpc.aio.UnaryStreamCall[TRequest, TResponse]:
        """Open a stream, without a deadline: whoever reads it must not wait for ever."""
        stream = method(request, metadata=self._sent_with(correlation_id))
        self._streams.add(stream)
        return stream

    def _sent_with(self, correlation_id: str) -> grpc.aio.Metadata:
        """What a call sends beside its request."""
        return grpc.aio.Metadata(*self._metadata, (status.CORRELATION_KEY, correlation_id))

    def explain(
        self, error: grpc.aio.AioRpcError, *, timeout: float | None, correlation_id: str
    ) -> BrokerError:
        """What the end of a call means."""
        return status.read(
            error, address=self.address, timeout=timeout, correlation_id=correlation_id
        )

    def closed_error(self) -> BrokerClosedError:
        """What a call gets that is made, or cut, when this is closed."""
        return BrokerClosedError(f"the connection to the broker at {self.address} was closed")

    async def pause(self, seconds: float) -> None:
        """Wait, unless this is closed meanwhile.

        Raises:
            BrokerClosedError: it was.

        Cancellation is safe.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._closed.wait()
        if self._closed.is_set():
            raise self.closed_error()

    async def close(self) -> None:
        """End every call, for good. Closing twice is no error. Cancellation is safe."""
        self._closed.set()
        for stream in list(self._streams):
            stream.cancel()
        if self._stubs is not None:
            await self._stubs.channel.close()

    @contextlib.contextmanager
    def _errors(self, timeout: float, correlation_id: str) -> Iterator[None]:
        try:
            yield
        except grpc.aio.AioRpcError as error:
            raise self.explain(error, timeout=timeout, correlation_id=correlation_id) from error
        except grpc.aio.UsageError:
            if not self.is_closed:
                raise
            raise self.closed_error() from None
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if not self.is_closed or (task is not None and task.cancelling()):
                raise
            raise self.closed_error() from None

    def _delay(self, error: BrokerError, failures: int, *, idempotent: bool) -> float | None:
        """Seconds until a call may be repeated; None if it must not be."""
        again = isinstance(error, _ANSWERED) or (
            idempotent
            and isinstance(error, BrokerUnreachableError)
            and not isinstance(error, CallTimeoutError)
        )
        if not again or self.backoff is None:
            return None
        return self.backoff.delay(failures, retry_after=error.retry_after, chance=self.chance())

    def _open(self) -> _Stubs:
        if self.is_closed:
            raise self.closed_error()
        if self._stubs is None:
            channel = (
                grpc.aio.insecure_channel(self.address, options=self._options)
                if self._credentials is None
                else grpc.aio.secure_channel(self.address, self._credentials, options=self._options)
            )
            # The classes for asyncio exist in the stubs' types only.
            self._stubs = _Stubs(
                channel,
                cast(
                    "session_service_pb2_grpc.SessionServiceAsyncStub",
                    session_service_pb2_grpc.SessionServiceStub(channel),
                ),
                cast(
                    "gateway_service_pb2_grpc.GatewayServiceAsyncStub",
                    gateway_service_pb2_grpc.GatewayServiceStub(channel),
                ),
                cast(
                    "broker_service_pb2_grpc.BrokerServiceAsyncStub",
                    broker_service_pb2_grpc.BrokerServiceStub(channel),
                ),
            )
        return self._stubs
