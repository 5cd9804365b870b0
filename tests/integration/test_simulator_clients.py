"""Clients that were not written here, against the simulated Gateway."""

# ruff: noqa: N802, N803 - the names that the official client calls

import asyncio
import logging
import threading
import time
from collections.abc import Iterator

import ib_async
import pytest
from ibapi.client import EClient
from ibapi.execution import ExecutionFilter
from ibapi.wrapper import EWrapper

from broker.simulator.faults import Fault
from broker.simulator.gateway import SimulatedGateway, SimulatorSettings

NOTICE = (1102, "Connectivity restored - data maintained. Côté é\\n")


@pytest.fixture(autouse=True)
def no_decoder_complains(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Both libraries log what they cannot decode instead of raising it."""
    caplog.set_level(logging.WARNING)
    yield
    others = ("asyncio", "ib_async.wrapper")  # the wrapper logs the Gateway's own messages
    records = [
        r for r in caplog.get_records("call") if r.name not in others and r.levelno >= logging.ERROR
    ]
    assert [r.getMessage() for r in records] == []


@pytest.mark.parametrize("server_version", [157, 165, 166, 177, 178, 193, 194, 200])
async def test_ib_async_connects_with_its_default_requests_and_synchronises(
    server_version: int,
) -> None:
    async with SimulatedGateway(SimulatorSettings(server_version=server_version)) as sim:
        ib = ib_async.IB()
        async with asyncio.timeout(3):
            await ib.connectAsync(sim.host, sim.port, clientId=7, timeout=2, raiseSyncErrors=True)
        assert ib.client.serverVersion() == min(server_version, 178)
        assert ib.managedAccounts() == ["DU1234567"]
        assert {value.tag for value in ib.accountValues()} >= {"NetLiquidation", "BuyingPower"}
        assert sim.statistics.requests.keys() == {61, 5, 99, 6, 76, 7}
        assert not sim.statistics.unknown_requests
        async with asyncio.timeout(2):
            assert abs((await ib.reqCurrentTimeAsync()).timestamp() - time.time()) < 3
            assert {row.tag for row in await ib.accountSummaryAsync()} >= {"NetLiquidation"}
        ib.disconnect()
        await _ended(sim)


async def test_ib_async_with_several_accounts_synchronises() -> None:
    async with SimulatedGateway(SimulatorSettings(accounts=("DU1", "DU2", "DU3"))) as sim:
        ib = ib_async.IB()
        await ib.connectAsync(sim.host, sim.port, clientId=0, timeout=2, raiseSyncErrors=True)
        assert ib.managedAccounts() == ["DU1", "DU2", "DU3"]
        ib.disconnect()
        await _ended(sim)


@pytest.mark.parametrize(
    "fault", [Fault.SPLIT_SEGMENTS, Fault.ONE_SEGMENT, Fault.NEWS_BEFORE_VERSION]
)
@pytest.mark.parametrize("accounts_first", [True, False])
async def test_ib_async_connects_through_harmless_faults(
    fault: Fault, accounts_first: bool
) -> None:
    async with SimulatedGateway(SimulatorSettings(accounts_first=accounts_first)) as sim:
        sim.arm(fault)
        ib = ib_async.IB()
        await ib.connectAsync(sim.host, sim.port, clientId=7, timeout=2, raiseSyncErrors=True)
        ib.disconnect()
        await _ended(sim)


async def test_ib_async_hears_a_notice_while_it_runs() -> None:
    async with SimulatedGateway() as sim:
        ib = ib_async.IB()
        await ib.connectAsync(sim.host, sim.port, clientId=7, timeout=2)
        heard: asyncio.Queue[tuple[int, int]] = asyncio.Queue(10)
        ib.errorEvent.connect(
            lambda request, code, _text, _contract: heard.put_nowait((request, code))
        )
        assert (
            sim.notify(1100, "Connectivity between IBKR and Trader Workstation has been lost.") == 1
        )
        async with asyncio.timeout(2):
            while (item := await heard.get())[1] in (2104, 2106, 2158):
                pass
        assert item == (-1, 1100)
        ib.disconnect()
        await _ended(sim)


class OfficialClient(EWrapper, EClient):  # type: ignore[misc]
    """The official client; its threads tell what they decoded."""

    def __init__(self) -> None:
        EWrapper.__init__(self)
        EClient.__init__(self, self)
        self.told: list[tuple[object, ...]] = []
        self._changed = threading.Condition()

    def _tell(self, *item: object) -> None:
        with self._changed:
            self.told.append(item)
            self._changed.notify_all()

    def wait_for(self, *names: str, seconds: float = 3.0) -> None:
        with self._changed:
            done = self._changed.wait_for(
                lambda: {item[0] for item in self.told} >= set(names), seconds
            )
        assert done, f"only {self.told}"

    def error(self, reqId, errorTime, errorCode, errorString, advancedOrderRejectJson=""):
        self._tell(f"error {errorCode}", reqId, errorTime, errorString, advancedOrderRejectJson)

    def nextValidId(self, orderId):
        self._tell("nextValidId", orderId)

    def managedAccounts(self, accountsList):
        self._tell("managedAccounts", accountsList)

    def positionEnd(self) -> None:
        self._tell("positionEnd")

    def openOrderEnd(self) -> None:
        self._tell("openOrderEnd")

    def completedOrdersEnd(self) -> None:
        self._tell("completedOrdersEnd")

    def updateAccountValue(self, key, val, currency, accountName):
        self._tell("updateAccountValue", key, val, currency, accountName)

    def accountDownloadEnd(self, accountName):
        self._tell("accountDownloadEnd", accountName)

    def accountUpdateMultiEnd(self, reqId):
        self._tell("accountUpdateMultiEnd", reqId)

    def execDetailsEnd(self, reqId):
        self._tell("execDetailsEnd", reqId)

    def accountSummary(self, reqId, account, tag, value, currency):
        self._tell("accountSummary", reqId, account, tag, value, currency)

    def accountSummaryEnd(self, reqId):
        self._tell("accountSummaryEnd", reqId)

    def currentTime(self, time):
        self._tell("currentTime", time)


def _use_official_client(host: str, port: int, client_id: int) -> OfficialClient:
    """Connect, ask for everything that a start asks for, and return the client, still connected."""
    client = OfficialClient()
    client.connect(host, port, client_id)
    threading.Thread(target=client.run, name="ibapi messages", daemon=True).start()
    client.wait_for("nextValidId", "managedAccounts", "error 2158")
    client.reqPositions()
    client.reqOpenOrders()
    client.reqCompletedOrders(False)
    client.reqAccountUpdates(True, "")
    client.reqAccountUpdatesMulti(11, "DU1234567", "", False)
    client.reqExecutions(12, ExecutionFilter())
    client.reqAccountSummary(13, "All", "NetLiquidation,BuyingPower")
    client.reqCurrentTime()
    client.wait_for(
        *("positionEnd", "openOrderEnd", "completedOrdersEnd", "accountDownloadEnd"),
        *("accountUpdateMultiEnd", "execDetailsEnd", "accountSummaryEnd", "currentTime"),
    )
    return client


@pytest.mark.parametrize("server_version", [157, 165, 166, 178, 193, 194, 200])
async def test_the_official_client_connects_and_decodes_every_answer_and_error(
    server_version: int,
) -> None:
    async with SimulatedGateway(SimulatorSettings(server_version=server_version)) as sim:
        client = await asyncio.to_thread(_use_official_client, sim.host, sim.port, 5)
        try:
            assert client.serverVersion() == server_version
            assert sim.connections[0].client_version == "100..225"
            assert not sim.statistics.unknown_requests
            assert sim.notify(*NOTICE) == 1
            await asyncio.to_thread(client.wait_for, f"error {NOTICE[0]}")
            [error] = [item for item in client.told if item[0] == f"error {NOTICE[0]}"]
            _, request_id, milliseconds, text, reject = error
            assert (request_id, text, reject) == (-1, NOTICE[1], "")
            if server_version >= 194:
                assert isinstance(milliseconds, int)
                assert abs(milliseconds / 1000 - time.time()) < 5
            assert (
                "accountSummary",
                13,
                "DU1234567",
                "NetLiquidation",
                "1000000.00",
                "USD",
            ) in client.told
            assert (
                "updateAccountValue",
                "NetLiquidation",
                "1000000.00",
                "USD",
                "DU1234567",
            ) in client.told
        finally:
            sim.drop()
            await _ended(sim)
            await asyncio.to_thread(_join_official_threads)


async def test_the_official_client_is_not_confused_by_news_before_the_version() -> None:
    async with SimulatedGateway() as sim:
        sim.arm(Fault.NEWS_BEFORE_VERSION)
        client = await asyncio.to_thread(_use_official_client, sim.host, sim.port, 5)
        assert client.serverVersion() == 178
        sim.drop()
        await _ended(sim)
        await asyncio.to_thread(_join_official_threads)


def _join_official_threads() -> None:
    for thread in threading.enumerate():
        if thread.name == "ibapi messages" or type(thread).__name__ == "EReader":
            thread.join(5)
            assert not thread.is_alive()


async def _ended(sim: SimulatedGateway) -> None:
    for _ in range(600):
        if not sim.clients:
            await asyncio.sleep(0.01)  # the client's transport closes
            return
        await asyncio.sleep(0.005)
    raise AssertionError(f"still connected: {sim.connections}")
