"""A simulated IB Gateway: a TCP server that speaks the TWS protocol, for tests and for trying
things out.

It is not a Gateway: no market, no account, no login. What it does is what is known of the real one
on the wire; what is assumed says so where it is configured (`SimulatorSettings`) and in
docs/simulator.md.
"""

import asyncio
import itertools
import socket
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from broker.simulator.client import ClientConnection
from broker.simulator.faults import ArmedFault, Fault
from broker.simulator.journal import ConnectionRecord, Statistics
from broker.simulator.protocol import NO_ID
from broker.simulator.settings import SimulatorSettings
from broker.simulator.state import SimulatorState

__all__ = ["SimulatedGateway", "SimulatorSettings"]

_BACKLOG = 128
_STOP = 5.0
"""Seconds for the event loop to close aborted sockets, which takes it one turn."""
_RELISTEN = 1.0
"""Seconds that listening again may wait for the event loop to have closed the former listener."""


class SimulatedGateway:
    """Use as `async with SimulatedGateway(settings) as sim`: listens on entry, leaves no socket and
    no timer behind.

    All methods belong to the event loop that it was entered on. `wall_clock` returns seconds since
    1970.
    """

    def __init__(
        self,
        settings: SimulatorSettings | None = None,
        *,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.settings = settings or SimulatorSettings()
        self._state = SimulatorState(self.settings, wall_clock)
        self._numbers = itertools.count(1)
        self._connections: set[ClientConnection] = set()
        self._all_gone = asyncio.Event()
        self._all_gone.set()
        self._family = socket.AF_INET
        self._host, self._port = self.settings.host, self.settings.port
        self._server: asyncio.Server | None = None
        self._has_listened = False

    async def __aenter__(self) -> Self:
        """Resolve the host and listen. Raises OSError if that cannot be, with nothing left open."""
        addresses = await asyncio.get_running_loop().getaddrinfo(
            self.settings.host, self.settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        self._family, address = addresses[0][0], addresses[0][4]
        self._host = str(address[0])
        await self.start_listening()
        return self

    async def __aexit__(
        self,
        _type: type[BaseException] | None,
        _value: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        """Stop listening, close every client with FIN and wait until all sockets are closed."""
        self._state.stopping = True
        await self.stop_listening()
        for connection in list(self._connections):
            connection.close()
        await asyncio.sleep(0)  # lets accepts in flight arrive, and what was sent be flushed
        for connection in list(self._connections):
            connection.abandon()
        async with asyncio.timeout(_STOP):
            await self._all_gone.wait()

    @property
    def host(self) -> str:
        """The address listened on."""
        return self._host

    @property
    def port(self) -> int:
        """The port listened on; it stays the same for the simulator's life."""
        return self._port

    @property
    def listening(self) -> bool:
        """Whether connections are accepted; if not, they are refused."""
        return self._server is not None

    @property
    def muted(self) -> bool:
        """Whether the simulator reads without answering."""
        return self._state.muted

    @property
    def clients(self) -> list[ClientConnection]:
        """Connections that neither side has closed, oldest first, those in their handshake
        included.
        """
        return sorted(
            (
                connection
                for connection in self._connections
                if connection.seated and not connection.ended
            ),
            key=lambda connection: connection.record.number,
        )

    @property
    def connections(self) -> list[ConnectionRecord]:
        """The journal: every connection accepted, oldest first, up to `journal_limit`."""
        return list(self._state.journal)

    @property
    def journal(self) -> list[ConnectionRecord]:
        """The same as `connections`."""
        return self.connections

    @property
    def statistics(self) -> Statistics:
        """Counts since the start; a live object."""
        return self._state.statistics

    @property
    def client_ids(self) -> frozenset[int]:
        """Client ids granted to open connections."""
        return self._state.registry.holders()

    @property
    def held_client_ids(self) -> dict[int, float]:
        """Client ids whose connection vanished and that are not free yet, each with the seconds
        left.
        """
        return self._state.registry.held(asyncio.get_running_loop().time())

    @property
    def armed(self) -> tuple[ArmedFault, ...]:
        """The faults that wait for connections, in the order in which they will act."""
        return self._state.faults.armed

    def arm(self, fault: Fault, times: int | None = None) -> None:
        """Let the next `times` connections suffer a fault, or all until cleared; after those
        already armed.

        Each connection suffers at most one. Raises ValueError for one that could never act.
        """
        self._state.faults.arm(fault, times)

    def clear(self) -> None:
        """Disarm all faults. Connections that suffer one keep it; a mute goes on."""
        self._state.faults.clear()

    def drop(self, *, reset: bool = False, client_id: int | None = None) -> int:
        """Close every connection with FIN, or reset it; returns how many. Their client ids are free
        at once.

        With `client_id`, only the connections that asked for it.
        """
        dropped = [
            client for client in self.clients if client_id is None or client.client_id == client_id
        ]
        for connection in dropped:
            if reset:
                connection.reset()
            else:
                connection.close()
        return len(dropped)

    def mute(self, muted: bool) -> None:
        """Read, but answer nothing, as a Gateway that hangs; what came meanwhile is never answered.

        A handshake that meets a mute stays silent for good. Ends that clients make are noticed all
        the same.
        """
        self._state.muted = muted

    def notify(
        self, code: int, text: str, *, client_id: int | None = None, request_id: int = NO_ID
    ) -> int:
        """Send an error message to all ready clients, or to the one with that id; returns to how
        many.
        """
        return sum(
            connection.notice(code, text, request_id)
            for connection in self.clients
            if client_id is None or connection.client_id == client_id
        )

    async def stop_listening(self) -> None:
        """Refuse new connections; those that are open stay. Idempotent."""
        server, self._server = self._server, None
        if server is not None:
            server.close()  # not wait_closed(): since Python 3.12 it waits for the clients too
            await asyncio.sleep(0)

    async def start_listening(self) -> None:
        """Listen, again on the same port. Idempotent. Raises OSError if the port is taken."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + (_RELISTEN if self._has_listened else 0)
        while self._server is None:
            # asyncio sets TCP_NODELAY only on sockets that name their protocol; without it a
            # message can take 40 ms.
            listener = socket.socket(self._family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
            try:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.bind((self._host, self._port))
                self._server = await loop.create_server(
                    self._accept, sock=listener, backlog=_BACKLOG
                )
            except OSError:
                listener.close()
                if loop.time() >= deadline:
                    raise
                await asyncio.sleep(0.01)
            except BaseException:
                listener.close()
                raise
            else:
                self._port = listener.getsockname()[1]
                self._has_listened = True

    def _accept(self) -> ClientConnection:
        connection = ClientConnection(next(self._numbers), self._state, self._gone)
        self._connections.add(connection)
        self._all_gone.clear()
        return connection

    def _gone(self, connection: ClientConnection) -> None:
        self._connections.discard(connection)
        if not self._connections:
            self._all_gone.set()
