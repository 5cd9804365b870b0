"""The live link: framing, heartbeat, loss and close, on real sockets and both event loops."""

from __future__ import annotations

import asyncio
import socket
import sys
import time
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.errors import (
    AuthenticationError,
    ErrorCode,
    GatewayConnectionError,
    GatewayError,
    GatewayTimeoutError,
    Phase,
)
from broker.gateway import wire
from broker.gateway.base import Link, Notice
from broker.gateway.ib import IBConnector
from broker.gateway.wire import FrameReader, OversizedFrameError, TcpLink
from broker.simulator.gateway import SimulatedGateway, SimulatorSettings
from broker.simulator.journal import End
from tests.integration.scripted_peer import (
    ACCOUNTS,
    HANDSHAKE,
    ORDER_ID,
    START,
    Do,
    ScriptedPeer,
    Step,
    message,
    notice,
    on_both_loops,
)

TIME = message(49, 1, 1_700_000_000)
FARM = notice(2104, "Market data farm connection is OK:usfarm")


async def connect(port: int, notices: list[Notice] | None = None) -> Link:
    """Connect as client 7."""
    seen = [] if notices is None else notices
    return await IBConnector().connect(
        host="127.0.0.1", port=port, client_id=7, timeout=5, on_notice=seen.append
    )


async def lost(link: Link) -> GatewayError:
    """Return why the link was lost, which must not take long."""
    async with asyncio.timeout(3):
        return await link.wait_lost()


# Framing


@given(st.lists(st.binary(max_size=300), max_size=20), st.data())
def test_frames_survive_any_segmentation(payloads: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(len(payload).to_bytes(4) + payload for payload in payloads)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=20)))
    reader = FrameReader()
    found = [
        payload
        for start, stop in zip([0, *cuts], [*cuts, len(stream)], strict=True)
        for payload in reader.feed(stream[start:stop])
    ]
    assert found == payloads


def test_the_longest_frame_is_read_and_a_longer_one_ends_the_stream() -> None:
    reader = FrameReader()
    assert [
        len(item) for item in reader.feed(wire.MAX_FRAME.to_bytes(4) + bytes(wire.MAX_FRAME))
    ] == [wire.MAX_FRAME]
    with pytest.raises(OversizedFrameError):
        list(reader.feed((wire.MAX_FRAME + 1).to_bytes(4)))


@pytest.mark.parametrize(
    ("version", "payload"),
    [
        (157, b"4\x002\x00-1\x002104\x00text\x00"),
        (165, b"4\x002\x002147483647\x002104\x00text\x00"),
        (166, b"4\x002\x00-1\x002104\x00text\x00\x00"),
        (193, b"4\x002\x00-1\x002104\x00text\x00{}\x00"),
        (194, b"4\x00-1\x002104\x00text\x00\x001700000000000\x00"),
        (200, b"4\x00-1\x002104\x00text\x00\x001700000000000\x00"),
    ],
)
def test_notices_are_read_in_the_layout_of_each_version(version: int, payload: bytes) -> None:
    assert wire.notice_of(wire.text_fields(payload), version) == Notice(2104, "text")


@pytest.mark.parametrize(
    "payload",
    [b"4\x00", b"4\x002\x005\x00200\x00text\x00\x00", b"4\x002\x00x\x00y\x00text\x00", b""],
)
def test_errors_of_requests_and_malformed_ones_are_no_notices(payload: bytes) -> None:
    assert wire.notice_of(wire.text_fields(payload), 178) is None


@settings(max_examples=300)
@given(st.binary(max_size=80), st.sampled_from([157, 178, 200]))
def test_no_payload_breaks_the_reader_of_notices(tail: bytes, version: int) -> None:
    found = wire.notice_of(wire.text_fields(b"4\x002\x00-1\x00" + tail), version)
    if found is not None:
        found.text.encode()


def test_escaped_text_is_restored_and_half_a_character_is_replaced() -> None:
    def read(text: str) -> str:
        found = wire.notice_of(["4", "2", "-1", "1", text], 157)
        assert found is not None
        return found.text

    assert read("caf\\u00e9 \\ud83d\\ude00 C:\\new") == "café 😀 C:\\new"
    assert read("\\ud83d").encode()
    assert len(read("x" * 5000)) == 1000


# Hand-over


@on_both_loops
async def test_what_follows_the_handshake_is_handed_over_at_every_split() -> None:
    tail = FARM + message(62, 1, 1) + FARM
    stream = ACCOUNTS + ORDER_ID + tail
    for split in range(len(ACCOUNTS) + 1, len(stream)):
        async with ScriptedPeer(*START, stream[:split], 0.001, stream[split:] + FARM) as peer:
            notices: list[Notice] = []
            link = await connect(peer.port, notices)
            async with asyncio.timeout(2):
                while len(notices) < 3:  # noqa: ASYNC110 - a test's patience
                    await asyncio.sleep(0.001)
            await link.close()


@on_both_loops
async def test_a_link_is_small_and_its_socket_has_the_options_that_find_a_dead_peer() -> None:
    async with ScriptedPeer(*HANDSHAKE) as peer:
        link = await connect(peer.port)
        assert isinstance(link, TcpLink)
        assert not hasattr(link, "__dict__")
        sock = link._transport.get_extra_info("socket")
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        if sys.platform == "linux":
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 30_000
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 15
        await link.close()


# Heartbeat


@pytest.mark.requirement("AC-007")
@on_both_loops
async def test_a_probe_brings_the_gateways_time_and_its_latency() -> None:
    async with ScriptedPeer(*HANDSHAKE, Do.READ_FRAME, 0.05, TIME) as peer:
        link = await connect(peer.port)
        before = link.last_received
        probe = await link.probe(2)
        assert probe.server_time == datetime.fromtimestamp(1_700_000_000, UTC)
        assert 0.04 < probe.latency < 1
        assert link.last_received == probe.answered_at > before
        assert peer.received[0].endswith(message(49, 1))
        await link.close()


@pytest.mark.requirement("AC-007")
@on_both_loops
async def test_concurrent_probes_share_one_request_and_its_answer_is_good_for_a_second() -> None:
    async with SimulatedGateway(SimulatorSettings()) as sim:
        link = await connect(sim.port)
        first = await asyncio.gather(*(link.probe(2) for _ in range(20)))
        assert len(set(first)) == 1
        assert await link.probe(2) is first[0]
        await asyncio.sleep(wire.PROBE_SPACING + 0.02)
        assert (await link.probe(2)).answered_at > first[0].answered_at
        assert sim.statistics.ignored_current_time == 0
        await link.close()


@pytest.mark.requirement("AC-007")
@on_both_loops
async def test_an_unanswered_probe_ends_the_link_and_says_so_to_everybody() -> None:
    async with SimulatedGateway(SimulatorSettings()) as sim:
        link = await connect(sim.port)
        sim.mute(True)
        loop = asyncio.get_running_loop()
        began = loop.time()
        results = await asyncio.gather(
            link.probe(5), link.probe(0.2), link.probe(5), return_exceptions=True
        )
        assert 0.19 < loop.time() - began < 1
        for error in [*results, await lost(link)]:
            assert isinstance(error, GatewayTimeoutError)
            assert (error.phase, error.metadata["timeout"]) == (Phase.HEARTBEAT, "0.2")
        with pytest.raises(GatewayTimeoutError):
            await link.probe(1)
        await link.close()


@on_both_loops
async def test_a_probe_that_nobody_waits_for_any_more_still_finds_the_dead_gateway() -> None:
    async with SimulatedGateway(SimulatorSettings()) as sim:
        link = await connect(sim.port)
        sim.mute(True)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await link.probe(0.2)
        assert isinstance(await lost(link), GatewayTimeoutError)


@on_both_loops
async def test_an_answer_that_waits_in_the_socket_beats_a_deadline_that_a_busy_loop_missed() -> (
    None
):
    async with SimulatedGateway(SimulatorSettings()) as sim:
        link = await connect(sim.port)
        probing = asyncio.create_task(link.probe(0.1), name="probe")
        await asyncio.sleep(0)
        time.sleep(0.2)  # noqa: ASYNC251 - a loop that is held up is what this is about
        assert (await probing).latency < 1
        await link.close()


@on_both_loops
async def test_a_malformed_time_is_no_answer() -> None:
    async with ScriptedPeer(
        *HANDSHAKE, Do.READ_FRAME, message(49, 1, "noon"), message(49, 1, 10**20), message(49)
    ) as peer:
        link = await connect(peer.port)
        with pytest.raises(GatewayTimeoutError):
            await link.probe(0.1)


# Loss


@on_both_loops
async def test_a_link_that_is_closed_while_its_loss_is_being_reported_is_still_lost() -> None:
    async with ScriptedPeer(*HANDSHAKE, Do.READ_FRAME, b"HTTP/1.1 400 Bad Request") as peer:
        link = await connect(peer.port)
        waiting = asyncio.create_task(lost(link), name="waits")
        assert isinstance(link, TcpLink)
        link.data_received(b"HTTP")
        await link.close()
        assert "no TWS message" in (await waiting).message


@pytest.mark.parametrize(
    ("script", "words", "tws_code"),
    [
        ((Do.FIN,), "peer closed", 0),
        ((Do.RESET,), "reset", 0),
        ((notice(1300, "Please reconnect on the new port - 4005"), Do.FIN), "port 4005", 1300),
        (
            (notice(100, "Max rate of messages per second has been exceeded"), Do.RESET),
            "too many messages",
            100,
        ),
        ((b"HTTP/1.1 400 Bad Request\r\n",), "no TWS message", 0),
        ((b"\0\0\0\x40half of a frame", Do.FIN), "peer closed", 0),
    ],
)
@on_both_loops
async def test_a_lost_link_says_why_to_all_who_wait(
    script: tuple[Step, ...], words: str, tws_code: int
) -> None:
    async with ScriptedPeer(*HANDSHAKE, 0.02, *script) as peer:
        link = await connect(peer.port)
        for error in await asyncio.gather(lost(link), lost(link)):
            assert isinstance(error, GatewayConnectionError)
            assert (error.phase, error.tws_code, error.answered) == (
                Phase.CONNECTED,
                tws_code,
                True,
            )
            assert words in error.message
        with pytest.raises(GatewayConnectionError):
            await link.probe(1)
        await link.close()
        await peer.all_ended()


@on_both_loops
async def test_a_link_that_ends_with_the_handshakes_last_byte_is_lost_at_once() -> None:
    async with ScriptedPeer(*HANDSHAKE, Do.FIN) as peer:
        link = await connect(peer.port)
        assert (await lost(link)).code is ErrorCode.CONNECTION
        assert await peer.all_ended() == ["fin"]


@on_both_loops
async def test_a_probe_in_flight_ends_with_the_link() -> None:
    async with ScriptedPeer(*HANDSHAKE, Do.READ_FRAME, Do.FIN) as peer:
        link = await connect(peer.port)
        with pytest.raises(GatewayConnectionError, match="peer closed"):
            await link.probe(5)


@on_both_loops
async def test_notices_flow_while_the_link_lives() -> None:
    async with SimulatedGateway(SimulatorSettings(farm_notices=())) as sim:
        notices: list[Notice] = []
        link = await connect(sim.port, notices)
        sim.notify(1100, "Connectivity between IB and Trader Workstation has been lost.")
        sim.notify(200, "No security definition", request_id=5)
        await link.probe(1)
        assert [item.code for item in notices] == [1100]
        await link.close()


# Close


@pytest.mark.requirement("AC-003")
@on_both_loops
async def test_close_sends_fin_and_frees_the_client_id_at_once() -> None:
    async with SimulatedGateway(SimulatorSettings()) as sim:
        for _ in range(5):
            link = await connect(sim.port)
            await asyncio.gather(link.close(), link.close())
            await link.close()
            assert sim.client_ids == frozenset()
        assert [record.end for record in sim.journal] == [End.FIN] * 5


@pytest.mark.requirement("AC-003")
@on_both_loops
async def test_close_reads_on_until_the_peers_fin_so_that_no_reset_is_sent() -> None:
    async with ScriptedPeer(*HANDSHAKE, 0.05, FARM * 1000, 0.05, FARM) as peer:
        link = await connect(peer.port)
        await link.close()
        assert await peer.all_ended() == ["fin"]


@on_both_loops
async def test_a_peer_that_never_closes_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "CLOSE_TIMEOUT", 0.2)
    async with ScriptedPeer(*HANDSHAKE, Do.DEAF) as peer:
        link = await connect(peer.port)
        began = asyncio.get_running_loop().time()
        await link.close()
        assert 0.15 < asyncio.get_running_loop().time() - began < 1


@on_both_loops
async def test_cancelling_a_close_ends_the_socket() -> None:
    async with ScriptedPeer(*HANDSHAKE, Do.DEAF) as peer:
        link = await connect(peer.port)
        closing = asyncio.create_task(link.close(), name="close")
        await asyncio.sleep(0.02)
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        async with asyncio.timeout(0.5):
            await link.close()


@on_both_loops
async def test_a_closed_link_is_not_lost_and_cannot_be_probed() -> None:
    async with SimulatedGateway(SimulatorSettings()) as sim:
        link = await connect(sim.port)
        waiting = asyncio.create_task(link.wait_lost(), name="waits")
        await asyncio.sleep(0)
        sim.mute(True)
        probing = asyncio.create_task(link.probe(5), name="probe")
        await asyncio.sleep(0.01)
        await link.close()
        with pytest.raises(GatewayConnectionError, match="closed by the broker"):
            await probing
        with pytest.raises(GatewayConnectionError, match="closed by the broker"):
            await link.probe(1)
        await asyncio.sleep(0.02)
        assert not waiting.done()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting


@pytest.mark.requirement("AC-004")
@on_both_loops
async def test_a_disclaimer_that_closes_at_once_is_still_an_authentication_error() -> None:
    async with ScriptedPeer(
        *START, notice(10141, "Paper trading disclaimer must first be accepted"), Do.RESET
    ) as peer:
        with pytest.raises(AuthenticationError) as caught:
            await connect(peer.port)
        assert caught.value.tws_code == 10141
