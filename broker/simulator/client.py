"""One connection to the simulated Gateway, from accept to requests, and its fault.

An asyncio Protocol: no task, only timers, which end with the connection. A close is a FIN, after
which it is read on until the client's FIN: a socket closed over unread bytes would send RST
instead.
"""

import asyncio
from collections.abc import Callable
from enum import Enum
from typing import Final, cast

from broker.simulator import protocol
from broker.simulator.channel import Channel
from broker.simulator.faults import Fault
from broker.simulator.journal import ConnectionRecord, End
from broker.simulator.protocol import ProtocolError
from broker.simulator.rate import RateLimit, Verdict
from broker.simulator.replies import (
    CURRENT_TIME,
    PLACE_ORDER,
    Desk,
    answer,
    is_about_orders,
    refuse_read_only,
)
from broker.simulator.startup import (
    CLOSE_AFTER_326,
    CLOSE_AFTER_START,
    Segment,
    Then,
    gap,
    greeting,
    segments,
)
from broker.simulator.state import SimulatorState

START_API: Final = 71
PACE_OPTION: Final = "+PACEAPI"
"""The client asks to be slowed down instead of rejected; here it is not slowed down either."""
WRITE_LIMIT: Final = 1 << 20
"""Bytes that may wait for a client that does not read; beyond, the connection is reset."""

_ID_IN_USE: Final = (
    326,
    "Unable to connect as the client id is already in use. Retry with a unique client id.",
)
_DISCLAIMER: Final = (10141, "Paper trading disclaimer must first be accepted for API connection.")
_READING_FAILED: Final = 320
_NEWS_LEAD: Final = 0.02
"""Seconds. ibapi throws away what shares a read with the news, so the version reply must not."""

_RESET_DELAY: Final = 0.02
"""Seconds. A RST at once would reach some clients before their connect has returned."""


class Phase(Enum):
    """Where a connection is."""

    HELLO = "waits for API and the version string"
    START_API = "has replied its version, waits for startApi"
    STARTING = "has granted the client id, has not sent nextValidId"
    READY = "answers requests"
    SILENT = "reads and never answers again"
    ENDED = "is closed, or waits for the client's FIN"


class ClientConnection(asyncio.Protocol):
    """The Gateway's end of one connection.

    `made` is called when it has its socket, `gone` once that is closed.
    """

    def __init__(
        self,
        number: int,
        state: SimulatorState,
        made: Callable[["ClientConnection"], None],
        gone: Callable[["ClientConnection"], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._state = state
        self._made = made
        self._gone = gone
        self._buffer = protocol.FrameBuffer(protocol.MAX_HANDSHAKE_FRAME)
        self._channel = Channel()
        self._phase = Phase.HELLO
        self._fault: Fault | None = None
        self._rate = RateLimit()
        self._prefix_seen = False
        self._options = ""
        self._version = 0  # until it is negotiated
        self._heard = self._told_time = float("-inf")
        self.record = ConnectionRecord(number, "", self._loop.time())

    @property
    def client_id(self) -> int | None:
        """The id that the client asked for with startApi."""
        return self.record.client_id

    @property
    def _muted(self) -> bool:
        return self._state.is_muted(self.client_id)

    @property
    def ready(self) -> bool:
        """Whether nextValidId was sent and the connection is open."""
        return self._phase is Phase.READY

    @property
    def ended(self) -> bool:
        """Whether either side has closed."""
        return self._phase is Phase.ENDED

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Seat the client, and give it its fault."""
        self.record.peer = self._channel.open(cast("asyncio.Transport", transport))
        self._made(self)
        self._state.statistics.accepts += 1
        self._state.journal.append(self.record)
        self._state.begin_handshake()
        if self._state.down:
            self.reset()
            return
        if self._state.muted:
            self._fall_silent()  # for good, and it takes neither a seat nor a fault
            return
        if not self._state.registry.take_seat(self.record.number, self._loop.time()):
            self._state.statistics.refused_seats += 1
            self.record.refused = "seats"
            self.close()
            return
        self._fault = self._state.take_fault()
        self.record.fault = None if self._fault is None else self._fault.label
        self._channel.after(
            "handshake",
            self._state.settings.handshake_deadline,
            self._refuse,
            "no startApi in time",
        )
        if self._fault is Fault.SILENT_AFTER_ACCEPT:
            self._fall_silent()
        elif self._fault is Fault.CLOSE_AFTER_ACCEPT:
            self.close()
        elif self._fault is Fault.RESET_AFTER_ACCEPT:
            self._channel.after("close", _RESET_DELAY, self.reset)

    def data_received(self, data: bytes) -> None:
        """Handle each complete frame; a breach of the protocol ends the connection."""
        self._heard = self._loop.time()
        if self._phase in (Phase.SILENT, Phase.ENDED):
            return
        if self._fault is Fault.RESET_AFTER_ACCEPT:
            self.reset()
            return
        self._buffer.feed(data)
        self._consume()

    def eof_received(self) -> bool:
        """The client closed; what we still have to say is flushed, but not for ever."""
        self._end(End.FIN)
        self._channel.after("linger", self._state.settings.close_linger, self._channel.abort)
        return False

    def connection_lost(self, _exc: Exception | None) -> None:
        """Record an end that was no FIN."""
        self._end(End.RESET)
        self._channel.cancel_all()
        self._gone(self)

    def pause_writing(self) -> None:
        """A client that does not read its answers may not ask for more."""
        self._channel.pause(True)

    def resume_writing(self) -> None:
        """It reads again."""
        self._channel.pause(False)
        if not self.ended:
            self._consume()

    # What the simulator calls.

    def notice(self, code: int, text: str, request_id: int = protocol.NO_ID) -> bool:
        """Send an error message; False if the client is not ready or is not answered."""
        if not self.ready or self._muted:
            return False
        self._send_error(code, text, request_id)
        return True

    def close(self) -> None:
        """End the connection with FIN. Idempotent; `gone` follows at the client's FIN or after
        `close_linger`.
        """
        if self._phase is not Phase.ENDED:
            self._end(End.OURS)
            self._channel.finish(self._state.settings.close_linger)

    def cut(self, *, reset: bool) -> bool:
        """Send a ready client half of a message, then FIN, or RST 20 ms later; False if it is not
        ready or is not answered.
        """
        if not self.ready or self._muted:
            return False
        if not self._channel.amid_message:
            whole = protocol.managed_accounts(self._state.settings.accounts)
            self._channel.write(whole[: len(whole) // 2])
        if reset:
            self._fall_silent()
            self._channel.after("close", _RESET_DELAY, self.reset)
        else:
            self.close()
        return True

    def reset(self) -> None:
        """End the connection with RST, even after close() as long as the client has not closed."""
        self._end(End.OURS)
        self._channel.abort(reset=True)

    def abandon(self) -> None:
        """Close the socket without waiting for the client's FIN."""
        self._end(End.OURS)
        self._channel.abort()

    # Phases.

    def _consume(self) -> None:
        """Handle what has arrived, as long as the client reads what it is answered."""
        try:
            self._prefix_seen = self._prefix_seen or self._buffer.take_prefix()
            while (
                self._prefix_seen
                and not self._channel.paused
                and self._phase not in (Phase.SILENT, Phase.ENDED)
            ):
                payload = self._buffer.next_frame()
                if payload is None:
                    self._await_rest()
                    return
                self._channel.cancel("frame")
                if self._phase is Phase.HELLO:
                    self._greet(payload)
                else:
                    self._receive(protocol.fields_of(payload))
        except ProtocolError as breach:
            self._refuse(str(breach))

    def _await_rest(self) -> None:
        if (
            self._phase in (Phase.STARTING, Phase.READY)
            and len(self._buffer)
            and not self._channel.awaits("frame")
        ):
            self._channel.after(
                "frame",
                self._state.settings.frame_deadline,
                self._refuse,
                "a frame was not completed in time",
            )

    def _greet(self, payload: bytes) -> None:
        announced = protocol.version_range(payload)
        self._options = announced.options
        self.record.client_version = f"{announced.minimum}..{announced.maximum}"
        if self._muted:
            self._fall_silent()
            return
        version = announced.negotiate(self._state.settings.server_version)
        if version is None:
            self.record.refused = "version"
            if self._state.settings.close_on_version_mismatch:
                self.close()
            else:
                self._fall_silent()
            return
        self._phase, self._version = Phase.START_API, version
        reply, then = greeting(self._fault, version, self._state.connection_time())
        if self._fault is Fault.NEWS_BEFORE_VERSION:
            self._send(protocol.news_bulletin("This bulletin was sent by a simulator."))
            self._channel.after("version", _NEWS_LEAD, self._send, reply)
            return
        self._send(reply)
        if then is Then.CLOSE:
            self.close()
        elif then is Then.FALL_SILENT:
            self._fall_silent()

    def _receive(self, fields: list[str]) -> None:
        request = protocol.number(fields, 0)
        statistics = self._state.statistics
        if self._muted:
            statistics.muted_requests += 1
            if self._phase is not Phase.READY:
                self._fall_silent()  # for good: what it said was not heard
        elif request == START_API and self._phase is Phase.START_API:
            self._start(fields)
        elif request == START_API:
            statistics.duplicate_start_api += 1
        elif not self._within_rate():
            pass
        elif self._phase is Phase.READY:
            self._answer(request, fields)
        else:
            statistics.early_requests += 1
            if self._state.settings.close_on_early_request:
                self.record.refused = "early request"
                self.close()

    def _within_rate(self) -> bool:
        settings = self._state.settings
        if settings.rate_limit is None or PACE_OPTION in self._options:
            return True
        verdict = self._rate.judge(self._loop.time(), settings.rate_limit)
        if verdict is Verdict.ACCEPTED:
            return True
        self._state.statistics.rejected_by_rate += 1
        if verdict is Verdict.VIOLATION:
            count = self._rate.violations
            words = "Max rate of messages per second has been exceeded"
            received = settings.rate_limit + 1
            self._send_error(100, f"{words}:max={settings.rate_limit} rec={received} ({count})")
            if count >= settings.rate_violations:
                self.record.refused = "100"
                self.close()
        return False

    def _start(self, fields: list[str]) -> None:
        client_id = protocol.number(fields, 2)
        if client_id < 0:
            raise ProtocolError(f"client id {client_id} is negative")
        self._channel.cancel("handshake")
        self._phase = Phase.STARTING
        self._buffer.limit = protocol.MAX_FRAME
        self.record.client_id = client_id
        granted = self._state.registry.claim(client_id, self.record.number, self._loop.time())
        if self._muted:
            self._fall_silent()
        elif self._fault in CLOSE_AFTER_326:
            self._turn_away(_ID_IN_USE, CLOSE_AFTER_326[self._fault])
        elif not granted:
            self._state.statistics.refused_client_ids += 1
            self._turn_away(_ID_IN_USE, self._state.settings.id_in_use_close)
        elif self._fault is Fault.PAPER_DISCLAIMER:
            self._turn_away(_DISCLAIMER, 0.0)
        elif self._fault in CLOSE_AFTER_START:
            self._fall_silent()
            self._channel.after("close", CLOSE_AFTER_START[self._fault], self.close)
        elif self._fault is Fault.SILENT_AFTER_START:
            self._fall_silent()
        else:
            script = segments(
                self._state.settings,
                self._fault,
                self._version,
                order_id=self._state.registry.next_order_id(client_id),
                notices=self._state.upstream.startup_notices(),
                milliseconds=self._state.milliseconds(),
            )
            self._play(script)

    def _play(self, script: list[Segment]) -> None:
        # A turn of the loop later at least: what was pipelined behind startApi is early.
        self._channel.after(
            "startup", gap(self._state.settings, self._fault), self._play_next, script
        )

    def _play_next(self, script: list[Segment]) -> None:
        first, *rest = script
        if self._muted and not self._channel.amid_message:  # never cut a message in two
            if self._phase is Phase.STARTING:
                self._fall_silent()
            return
        self._channel.write_segment(first.data, whole=first.whole)
        if first.ready:
            self._phase = Phase.READY
            self.record.ready = self._loop.time()
            self._state.end_handshake()
            self._watch_silence()
        if rest:
            self._play(rest)

    def _answer(self, request: int, fields: list[str]) -> None:
        state, client_id = self._state, cast("int", self.client_id)
        state.statistics.count(state.statistics.requests, request)
        order_id = state.registry.next_order_id(client_id)
        desk = Desk(self._version, state.settings.accounts, order_id, state.wall_clock())
        if state.settings.read_only and is_about_orders(request):
            self._send(b"".join(refuse_read_only(desk, fields, state.settings.read_only_id)))
            return
        if request == PLACE_ORDER:
            state.registry.use_order_id(client_id, protocol.number(fields, 1))
        if request == CURRENT_TIME:
            now = self._loop.time()
            if now - self._told_time < state.settings.current_time_interval:
                state.statistics.ignored_current_time += 1
                return
            self._told_time = now
        frames = answer(desk, fields)
        if frames is None:
            state.statistics.count(state.statistics.unknown_requests, request)
        elif frames:
            self._send(b"".join(frames))

    # Ends.

    def _refuse(self, reason: str) -> None:
        if self._muted:
            self._fall_silent()  # a Gateway that hangs does not close either
            return
        self._state.statistics.protocol_errors += 1
        self.record.refused = reason
        if self._version:
            self._send_error(
                _READING_FAILED, f"Server error when reading an API client request: {reason}"
            )
        self.close()

    def _turn_away(self, notice: tuple[int, str], close_after: float | None) -> None:
        code, text = notice
        self.record.refused = str(code)
        self._state.registry.withdraw(cast("int", self.client_id), self.record.number)
        self._send_error(code, text)
        if close_after == 0:
            self.close()
            return
        self._fall_silent()
        if close_after is not None:
            self._channel.after("close", close_after, self.close)

    def _fall_silent(self) -> None:
        self._phase = Phase.SILENT
        self._channel.cancel_all()

    def _watch_silence(self) -> None:
        limit = self._state.settings.silent_loss
        if limit is None:
            return
        left = self._heard + limit - self._loop.time()
        if left > 0:
            self._channel.after("silence", left, self._watch_silence)
        else:
            self._end(End.LOST)
            self._channel.abort(reset=True)

    def _end(self, end: End) -> None:
        """Record the end and free seat and id, once."""
        if self._phase is Phase.ENDED:
            return
        self._phase = Phase.ENDED
        self._channel.cancel_all()
        settings, now, record = self._state.settings, self._loop.time(), self.record
        record.end, record.ended = end, now
        if record.ready is None:
            self._state.end_handshake()
        self._state.registry.leave_seat(record.number)
        if record.client_id is not None:
            holds = {
                End.FIN: settings.hold_after_fin,
                End.RESET: settings.hold_after_reset,
                End.LOST: settings.hold_after_loss,
                End.OURS: 0.0,
            }
            self._state.registry.release(record.client_id, record.number, now, holds[end])

    def _send(self, data: bytes) -> None:
        if self._phase is Phase.ENDED or self._muted:
            return
        self._channel.write(data)
        if self._channel.backlog > WRITE_LIMIT:
            self.reset()

    def _send_error(self, code: int, text: str, request_id: int = protocol.NO_ID) -> None:
        now = self._state.milliseconds()
        self._send(
            protocol.error(self._version, code, text, milliseconds=now, request_id=request_id)
        )
