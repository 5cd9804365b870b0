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
from contextlib import ExitStack, suppress
from types import TracebackType
from typing import Any, Self

from broker.simulator.client import ClientConnection
from broker.simulator.faults import ArmedFault, Fault
from broker.simulator.journal import ConnectionRecord, Statistics
from broker.simulator.protocol import NO_ID
from broker.simulator.restart import Aftermath, Restart
from broker.simulator.scripts import Script, Scripts
from broker.simulator.settings import SimulatorSettings
from broker.simulator.state import SimulatorState
from broker.simulator.storm import Storm
from broker.simulator.upstream import ABOUT_A_REQUEST, LOST, Notice, port_was_reset

__all__ = ["SimulatedGateway", "SimulatorSettings"]

_BACKLOG = 128
_STOP = 5.0
"""Seconds for the event loop to close aborted sockets, which takes it one turn."""
_ACCEPT_TURNS = 3
"""Of the loop, that an accept in flight takes until it is a connection."""
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
        settings = settings or SimulatorSettings()
        self._state = SimulatorState(settings, wall_clock)
        self._numbers = itertools.count(1)
        self._connections: set[ClientConnection] = set()
        self._all_gone = asyncio.Event()
        self._all_gone.set()
        self._family = socket.AF_INET
        self._host, self._port = settings.host, settings.port
        self._server: asyncio.Server | None = None
        self._place = ExitStack()
        self._has_listened = False
        self._tasks = asyncio.TaskGroup()
        self._scripts = Scripts(self._tasks)

    async def __aenter__(self) -> Self:
        """Resolve the host and listen. Raises OSError if that cannot be, with nothing left open."""
        addresses = await asyncio.get_running_loop().getaddrinfo(
            self.settings.host, self.settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        self._family, address = addresses[0][0], addresses[0][4]
        self._host = str(address[0])
        # Bound, but not listening: while the Gateway refuses, nobody else is given its port.
        with ExitStack() as place:
            self._port = place.enter_context(self._bound()).getsockname()[1]
            await self.start_listening()
            self._place = place.pop_all()
        await self._tasks.__aenter__()
        return self

    async def __aexit__(
        self,
        _type: type[BaseException] | None,
        _value: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        """Stop scripts and listening, close every client with FIN and wait until all sockets are
        closed.
        """
        for script in self.scripts:
            await script.stop()
        self._state.down = True
        await self.stop_listening()
        self._place.close()
        for connection in list(self._connections):
            connection.close()
        for _ in range(_ACCEPT_TURNS):  # which also lets what was sent be flushed
            await asyncio.sleep(0)
        for connection in list(self._connections):
            connection.abandon()
        async with asyncio.timeout(_STOP):
            await self._all_gone.wait()
        await self._tasks.__aexit__(None, None, None)

    @property
    def settings(self) -> SimulatorSettings:
        """What the simulator was told at its start, and by configure() since."""
        return self._state.settings

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
    def muted_client_ids(self) -> frozenset[int]:
        """Client ids whose connections are read without being answered."""
        return frozenset(self._state.muted_ids)

    @property
    def upstream_lost(self) -> bool:
        """Whether clients were told that IB's servers are lost, and not yet that they are back."""
        return self._state.upstream.lost

    @property
    def startup_notices(self) -> list[Notice]:
        """What a client that connects now is told of IB's servers and the farms."""
        return self._state.upstream.startup_notices()

    @property
    def scripts(self) -> tuple[Script, ...]:
        """The latest restart and the latest storm, running or not."""
        return self._scripts.latest

    @property
    def clients(self) -> list[ClientConnection]:
        """Connections that neither side has closed, oldest first, those in their handshake
        included.
        """
        return sorted(
            (connection for connection in self._connections if not connection.ended),
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

    def configure(self, **changes: Any) -> SimulatorSettings:
        """Change settings that may change while it runs, by name; returns them all.

        Raises ValueError for others and for values that cannot be, with nothing changed.
        """
        self._state.settings = self._state.settings.changed(changes)
        return self._state.settings

    def arm(self, fault: Fault, times: int | None = None) -> None:
        """Let the next `times` connections suffer a fault, or all until cleared; after those
        already armed.

        Each connection suffers at most one. Raises ValueError for one that could never act.
        """
        self._state.faults.arm(fault, times)

    def clear(self) -> None:
        """Disarm all faults. Connections that suffer one keep it; a mute goes on."""
        self._state.faults.clear()

    def drop(
        self, *, reset: bool = False, client_id: int | None = None, mid_message: bool = False
    ) -> int:
        """Close every connection with FIN, or reset it; returns how many. Their client ids are free
        at once.

        With `client_id`, only the connections that asked for it. With `mid_message`, only those
        that are ready and not mute, after the first half of a message.
        """
        dropped = 0
        for connection in self._addressed(client_id):
            if mid_message:
                dropped += connection.cut(reset=reset)
                continue
            dropped += 1
            if reset:
                connection.reset()
            else:
                connection.close()
        return dropped

    def reset_port(self, new_port: int) -> int:
        """Tell all ready clients that the port was changed (1300), and close all with FIN; returns
        how many were told. The simulator stays on its port: stop_listening() is for you to call.

        Raises ValueError if `new_port` is none.
        """
        if not 1 <= new_port <= 65535:
            raise ValueError(f"new_port is {new_port}, not 1 to 65535")
        told = self.notify(*port_was_reset(new_port))
        self.drop()
        return told

    def mute(self, muted: bool, *, client_id: int | None = None) -> None:
        """Read, but answer nothing, as a Gateway that hangs; what came meanwhile is never answered.

        A handshake that meets a mute stays silent for good. Ends that clients make are noticed all
        the same. With `client_id`, only the connections that have or ask for it; an id that is
        muted by itself stays mute when the whole Gateway no longer is. Raises ValueError beyond
        1000 ids.
        """
        self._state.mute(muted, client_id)

    def ghost(self, client_id: int, seconds: float) -> None:
        """Let an id seem to be in use (326) for so long, even while nobody has it; 0 frees it.

        Raises ValueError for what is no id or no duration, and beyond 1000 ids.
        """
        self._state.registry.ghost(client_id, asyncio.get_running_loop().time(), seconds)

    def notify(
        self,
        code: int,
        text: str | None = None,
        *,
        client_id: int | None = None,
        request_id: int = NO_ID,
    ) -> int:
        """Send an error message to all ready clients, or to the one with that id; returns to how
        many.

        Without a text, in IB's words; raises ValueError if they are not known for that code. What
        all are told of IB's servers and the farms is remembered for those that connect later.
        """
        if text is None:
            text = self._state.upstream.words(code)
        if client_id is None:
            self._state.upstream.note(code, text)
        return sum(
            connection.notice(code, text, request_id) for connection in self._addressed(client_id)
        )

    def start_storm(self, storm: Storm) -> Script:
        """Send messages over and over, in the background. Raises ScriptRunningError if a storm is
        under way.
        """

        async def play(script: Script) -> None:
            for number in range(storm.count):
                script.step = f"round {number + 1} of {storm.count}"
                for code in storm.codes:
                    request_id = storm.request_id if code in ABOUT_A_REQUEST else NO_ID
                    self.notify(code, client_id=storm.client_id, request_id=request_id)
                    await asyncio.sleep(storm.interval)

        return self._scripts.start("storm", play)

    async def stop_storm(self) -> bool:
        """Stop the storm where it is; whether one was under way."""
        return await self._scripts.stop("storm")

    def start_restart(self, restart: Restart) -> Script:
        """Restart as a Gateway does at night, in the background. Raises ScriptRunningError while it
        does.

        The script fails if the port was taken meanwhile.
        """

        async def play(script: Script) -> None:
            await self._restart(script, restart)

        return self._scripts.start("restart", play)

    async def stop_restart(self) -> bool:
        """Cut a restart short: the port is open again, no id is held, and nobody suffers anything
        more; whether one was under way. Raises OSError if the port is taken.
        """
        stopped = await self._scripts.stop("restart")
        if stopped:
            self._state.restart(None)
            await self.start_listening()
        return stopped

    async def _restart(self, script: Script, restart: Restart) -> None:
        state, loop = self._state, asyncio.get_running_loop()
        for number in range(restart.notices):
            script.step = f"notice {number + 1} of {restart.notices}"
            self.notify(LOST)
            await asyncio.sleep(restart.notice_interval)
        script.step = "down"
        state.down, ghosts = True, self.client_ids
        await self.stop_listening()
        self.drop(reset=restart.reset)
        state.restart(restart.next_order_id)
        await asyncio.sleep(restart.down)
        opened = loop.time()
        state.registry.hold(ghosts, opened + restart.ghosts)
        try:
            if restart.has_first_fault:
                state.aftermath = Aftermath(restart.first_fault, restart.first_connections)
            await self.start_listening()
            if state.aftermath is not None:
                script.step = f"up, {restart.first_fault.label}"
                with suppress(TimeoutError):
                    async with asyncio.timeout(restart.first_duration):
                        await state.aftermath.over.wait()
        finally:
            state.aftermath = None
        script.step = "up, ids held"
        await asyncio.sleep(opened + restart.ghosts - loop.time())
        script.step = "up"

    async def stop_listening(self) -> None:
        """Refuse new connections; those that are open stay. Idempotent."""
        server, self._server = self._server, None
        if server is not None:
            server.close()  # not wait_closed(): since Python 3.12 it waits for the clients too
            await asyncio.sleep(0)

    async def start_listening(self) -> None:
        """Listen, again on the same port. Idempotent. Raises OSError if the port is taken."""
        self._state.down = False
        loop = asyncio.get_running_loop()
        deadline = loop.time() + (_RELISTEN if self._has_listened else 0)
        while self._server is None:
            try:
                with ExitStack() as opened:
                    listener = opened.enter_context(self._bound())
                    self._server = await loop.create_server(
                        self._accept, sock=listener, backlog=_BACKLOG
                    )
                    opened.pop_all()
            except OSError:
                if loop.time() >= deadline:
                    raise
                await asyncio.sleep(0.01)
            else:
                self._has_listened = True

    def _bound(self) -> socket.socket:
        # asyncio sets TCP_NODELAY only on sockets that name their protocol; without it a message
        # can take 40 ms.
        bound = socket.socket(self._family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind((self._host, self._port))
        except BaseException:  # nobody else has the socket yet
            bound.close()
            raise
        return bound

    def _addressed(self, client_id: int | None) -> list[ClientConnection]:
        clients = self.clients
        return [c for c in clients if client_id is None or c.client_id == client_id]

    def _accept(self) -> ClientConnection:
        return ClientConnection(next(self._numbers), self._state, self._made, self._gone)

    def _made(self, connection: ClientConnection) -> None:
        # Not before: asyncio drops what it accepts in the turn in which listening stops.
        self._connections.add(connection)
        self._all_gone.clear()

    def _gone(self, connection: ClientConnection) -> None:
        self._connections.discard(connection)
        if not self._connections:
            self._all_gone.set()
