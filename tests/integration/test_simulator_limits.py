"""What the simulated Gateway refuses to a client that is ready: too many messages, and orders to a
client of a read-only API.
"""

import asyncio
import contextlib
import threading
from collections.abc import Iterator

import ib_async
import pytest
from ibapi.client import EClient
from ibapi.contract import Contract
from ibapi.order import Order
from ibapi.order_cancel import OrderCancel
from ibapi.wrapper import EWrapper

from broker.simulator.gateway import SimulatedGateway, SimulatorSettings
from broker.simulator.journal import End
from broker.simulator.protocol import frame
from broker.simulator.raw_client import RawClient
from tests.harness import eventually

POSITIONS = frame(b"61\x001\0")
READ_ONLY = (
    "Error validating request.-'cp' : cause - The API interface is currently in Read-Only mode."
)


async def _counts(client: RawClient, *, answers: int, errors: int) -> list[str]:
    """Read so many answers and errors, in any order; returns the texts of the errors."""
    texts = []
    for _ in range(answers + errors):
        fields = await client.message()
        if fields[0] == "4":
            assert fields[2:4] == ["-1", "100"]
            texts.append(fields[4])
    assert len(texts) == errors
    return texts


@contextlib.contextmanager
def _at_one_moment() -> Iterator[None]:
    """The loop's clock stands still meanwhile, however slow the machine is."""
    loop = asyncio.get_running_loop()
    now = loop.time()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "time", lambda: now)
        yield


async def test_the_51st_message_in_a_second_is_rejected_with_error_100() -> None:
    async with (
        SimulatedGateway(SimulatorSettings(farm_notices=())) as sim,
        RawClient(sim.host, sim.port) as client,
    ):
        await client.ready(7)
        with _at_one_moment():
            await client.send(POSITIONS * 50)
            await _counts(client, answers=50, errors=0)
            await client.send(POSITIONS * 5)
            [text] = await _counts(client, answers=0, errors=1)
        assert text == "Max rate of messages per second has been exceeded:max=50 rec=51 (1)"
        assert await client.silence(0.05)
        assert sim.statistics.rejected_by_rate == 5
        await asyncio.sleep(1)
        await client.send(POSITIONS * 50)
        await _counts(client, answers=50, errors=0)


async def test_a_client_that_goes_on_too_fast_is_closed_at_the_last_violation() -> None:
    settings = SimulatorSettings(farm_notices=(), rate_limit=5, rate_violations=2)
    async with SimulatedGateway(settings) as sim, RawClient(sim.host, sim.port) as client:
        await client.ready(7)
        with _at_one_moment():
            await client.send(POSITIONS * 20)
            assert (await _counts(client, answers=5, errors=1))[0].endswith("max=5 rec=6 (1)")
        await asyncio.sleep(1)
        with _at_one_moment():
            await client.send(POSITIONS * 20)
            assert (await _counts(client, answers=5, errors=1))[0].endswith("(2)")
        assert await client.end() == (b"", End.FIN)
        assert sim.connections[0].refused == "100"


async def test_each_client_has_its_own_rate() -> None:
    settings = SimulatorSettings(farm_notices=(), rate_limit=5)
    async with (
        SimulatedGateway(settings) as sim,
        RawClient(sim.host, sim.port) as one,
        RawClient(sim.host, sim.port) as two,
    ):
        await one.ready(1)
        await two.ready(2)
        with _at_one_moment():
            await one.send(POSITIONS * 6)
            await two.send(POSITIONS * 5)
            await _counts(two, answers=5, errors=0)
            await _counts(one, answers=5, errors=1)


@pytest.mark.parametrize(("limit", "versions"), [(None, "v157..178"), (50, "v157..178 +PACEAPI")])
async def test_without_a_limit_or_with_pacing_nothing_is_rejected(
    limit: int | None, versions: str
) -> None:
    settings = SimulatorSettings(farm_notices=(), rate_limit=limit)
    async with SimulatedGateway(settings) as sim, RawClient(sim.host, sim.port) as client:
        await client.ready(7, versions)
        await client.send(POSITIONS * 200)
        await _counts(client, answers=200, errors=0)


async def test_the_limit_can_change_while_a_client_is_connected() -> None:
    settings = SimulatorSettings(farm_notices=(), rate_limit=None)
    async with SimulatedGateway(settings) as sim, RawClient(sim.host, sim.port) as client:
        await client.ready(7)
        assert sim.configure(rate_limit=60).rate_limit == 60
        with _at_one_moment():
            await client.send(POSITIONS * 60)
            await _counts(client, answers=60, errors=0)
            sim.configure(rate_limit=3)
            await client.send(POSITIONS)
            await _counts(client, answers=0, errors=1)


async def test_ib_async_paces_itself_below_the_limit() -> None:
    async with SimulatedGateway() as sim:
        ib = ib_async.IB()
        await ib.connectAsync(sim.host, sim.port, clientId=7, timeout=2)
        for _ in range(60):
            ib.client.sendMsg("8\x001\x001\x00")
        await eventually(lambda: sim.statistics.requests[8] == 60)
        assert sim.statistics.rejected_by_rate == 0
        ib.disconnect()
        await eventually(lambda: not sim.clients)


@pytest.mark.parametrize(
    ("read_only_id", "place", "other"),
    [(None, "41", "-1"), (-1, "-1", "-1"), (2147483647, "2147483647", "2147483647")],
)
async def test_a_read_only_gateway_refuses_orders_and_nothing_else(
    read_only_id: int | None, place: str, other: str
) -> None:
    settings = SimulatorSettings(farm_notices=(), read_only=True, read_only_id=read_only_id)
    async with SimulatedGateway(settings) as sim, RawClient(sim.host, sim.port) as client:
        await client.ready(7)
        expected = [((3, 41), place), ((4, 1, 41, ""), place)]
        expected += [((request, 1), other) for request in (5, 15, 58, 99)]
        for request, request_id in expected:
            await client.request(*request)
            fields = await client.message()
            assert fields[2:5] == [request_id, "321", READ_ONLY], request
        await client.request(61, 1)
        await client.until(62)
        await client.request(8, 1, 1)
        assert (await client.until(9))[2] == "1"


async def test_read_only_can_be_switched() -> None:
    async with (
        SimulatedGateway(SimulatorSettings(farm_notices=())) as sim,
        RawClient(sim.host, sim.port) as client,
    ):
        await client.ready(7)
        sim.configure(read_only=True)
        await client.request(5, 1)
        await client.until(4)
        sim.configure(read_only=False)
        await client.request(5, 1)
        await client.until(53)


async def test_ib_async_learns_that_the_gateway_is_read_only() -> None:
    async with SimulatedGateway(SimulatorSettings(read_only=True)) as sim:
        ib = ib_async.IB()
        heard: list[tuple[int, int]] = []
        ib.errorEvent.connect(lambda request, code, *_: heard.append((request, code)))
        await ib.connectAsync(sim.host, sim.port, clientId=7, timeout=2, readonly=True)
        stock, order = ib_async.Stock("SPY", "SMART", "USD"), ib_async.MarketOrder("BUY", 1)
        trade = ib.placeOrder(stock, order)
        await eventually(lambda: (trade.order.orderId, 321) in heard)
        ib.disconnect()
        await eventually(lambda: not sim.clients)


class _Official(EWrapper, EClient):  # type: ignore[misc]
    def __init__(self) -> None:
        EWrapper.__init__(self)
        EClient.__init__(self, self)
        self.started = threading.Event()
        self.refused: list[int] = []

    def nextValidId(self, orderId):  # noqa: N802, N803 - the name that it calls
        self.started.set()

    def error(self, reqId, errorTime, errorCode, errorString, advancedOrderRejectJson=""):  # noqa: N803
        if errorCode == 321:
            self.refused.append(reqId)


@pytest.mark.parametrize("server_version", [178, 200])
async def test_the_official_client_is_refused_under_the_id_of_its_order(
    server_version: int,
) -> None:
    settings = SimulatorSettings(read_only=True, server_version=server_version)
    async with SimulatedGateway(settings) as sim:
        client = _Official()
        await asyncio.to_thread(client.connect, sim.host, sim.port, 7)
        thread = threading.Thread(target=client.run, name="ibapi messages", daemon=True)
        thread.start()
        assert await asyncio.to_thread(client.started.wait, 3)
        client.placeOrder(41, Contract(), Order())
        client.cancelOrder(42, OrderCancel())
        await eventually(lambda: client.refused == [41, 42])
        sim.drop()
        await asyncio.to_thread(thread.join, 5)
        assert not thread.is_alive()


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"port": 1}, "port cannot change while the simulator runs"),
        ({"no_such": 1}, "no_such cannot change"),
        ({"rate_limit": 0}, "rate_limit is 0"),
        ({"read_only": True, "rate_violations": 0}, "rate_violations is 0"),
        ({"hold_after_loss": float("nan")}, "hold_after_loss is nan"),
    ],
)
async def test_what_cannot_change_is_refused_and_nothing_changes(
    changes: dict[str, object], text: str
) -> None:
    async with SimulatedGateway() as sim:
        before = sim.settings
        with pytest.raises(ValueError, match=text):
            sim.configure(**changes)
        assert sim.settings == before
