"""Make pictures of the console: sessions in every state, calm and after faults, light and dark.

It starts a PostgreSQL, two simulated Gateways and a broker of its own, and needs a Chromium:
``apt-get install chromium``. What docs/console.md shows is made by ``make screenshots``.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

from broker import before_grpc
from broker.config import GatewayConfig, Settings

before_grpc.prepare()

import grpc.aio  # noqa: E402
from google.protobuf.duration_pb2 import Duration  # noqa: E402
from ibgateway.broker.v1 import (  # noqa: E402
    gateway_service_pb2,
    gateway_service_pb2_grpc,
    session_service_pb2_grpc,
)
from ibgateway.broker.v1 import session_service_pb2 as pb  # noqa: E402
from playwright.async_api import Browser, Page, async_playwright  # noqa: E402

from broker.app import Running, broker  # noqa: E402
from broker.simulator.faults import Fault  # noqa: E402
from broker.simulator.gateway import SimulatedGateway, SimulatorSettings  # noqa: E402

DOCS: Final = Path(__file__).resolve().parent.parent / "docs"
DOCUMENTED: Final = ("console-fault-light", "console-lost-dark")
CHROMIUM: Final = "/usr/bin/chromium"
FLAGS: Final = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-lcd-text",  # a third smaller
)
_SIZE: Final[Any] = {"width": 1200, "height": 900}
_NARROW: Final[Any] = {"width": 420, "height": 900}


class Scene:
    """A broker in front of two simulated Gateways, and callers that use it."""

    def __init__(self, paper: SimulatedGateway, live: SimulatedGateway, running: Running) -> None:
        self.paper = paper
        self.live = live
        self.url = f"http://{running.http_address}/"
        self._channel = grpc.aio.insecure_channel(running.grpc_address)
        sessions: Any = session_service_pb2_grpc
        self.sessions = sessions.SessionServiceStub(self._channel)
        gateways: Any = gateway_service_pb2_grpc
        self.gateways = gateways.GatewayServiceStub(self._channel)

    async def open(self, owner: str, gateway: str, client_id: int, **fields: Any) -> str:
        """Open a session in somebody's name; returns its id."""
        request = pb.OpenSessionRequest(gateway_id=gateway, client_id=client_id, **fields)
        metadata = (("x-broker-owner", owner),)
        answer = await self.sessions.OpenSession(request, metadata=metadata)
        return str(answer.session.session_id)

    async def calm(self) -> None:
        """Four sessions that work, and one that was closed."""
        await self.open("momentum", "paper", 7, labels={"desk": "fx", "strategy": "momentum-v2"})
        await self.open("market-data", "paper", 8, readonly=True, labels={"desk": "shared"})
        await self.open("execution", "live", 11, labels={"desk": "equities"})
        await self.open("hedger", "live", 12, labels={"desk": "fx"})
        closed = await self.open("backtest", "paper", 9)
        await self.sessions.CloseSession(pb.CloseSessionRequest(session_id=closed))

    async def faults(self) -> None:
        """Sessions in every state: one Gateway goes away, the other has troubles of its own."""
        failing = pb.OpenSessionRequest(gateway_id="paper", client_id=21, max_attempts=1)
        self.paper.arm(Fault.PAPER_DISCLAIMER, times=1)
        with suppress(grpc.aio.AioRpcError):
            await self.sessions.OpenSession(failing, metadata=(("x-broker-owner", "research"),))
        await self.open("notebook", "paper", 23, lease_ttl=Duration(seconds=1))
        self.paper.arm(Fault.CLIENT_ID_IN_USE, times=100)
        await self.open(
            "rebalancer",
            "paper",
            22,
            return_immediately=True,
            max_attempts=50,
            client_id_policy=pb.CLIENT_ID_POLICY_EXACT,
        )
        self.paper.notify(2103, "Market data farm connection is broken:usfarm")
        await self.live.stop_listening()
        self.live.drop()
        await asyncio.sleep(6)

    async def drain(self) -> None:
        """An operator takes the paper Gateway out of use."""
        request = gateway_service_pb2.DrainGatewayRequest
        await self.gateways.DrainGateway(
            request(gateway_id="paper", reason="upgrade to 10.45"),
            metadata=(("x-broker-owner", "ops-night"),),
        )

    async def close(self) -> None:
        """Hang up."""
        await self._channel.close()


@asynccontextmanager
async def scene(data_dir: Path) -> AsyncIterator[Scene]:
    """A broker with all that it needs, on free ports, gone afterwards."""
    address = SimulatorSettings(host="127.0.0.1", port=0)
    async with SimulatedGateway(address) as paper, SimulatedGateway(address) as live:
        settings = Settings(
            gateways={
                "paper": _gateway(paper, kind="paper"),
                "live": _gateway(live, kind="unknown", client_ids="200-299"),
            },
            grpc_listen="127.0.0.1:0",
            http_listen="127.0.0.1:0",
            prometheus_port=0,
            data_dir=data_dir,
        )
        async with broker(settings) as running:
            there = Scene(paper, live, running)
            try:
                yield there
            finally:
                await there.close()


def _gateway(simulator: SimulatedGateway, **more: Any) -> GatewayConfig:
    return GatewayConfig(
        host=simulator.host,
        port=simulator.port,
        sentinel=False,
        auth_grace=0.0,
        retry_initial_delay=1.0,
        circuit_breaker_failure_threshold=3,
        **more,
    )


async def _page(chromium: Browser, scheme: Any, url: str) -> Page:
    context = await chromium.new_context(color_scheme=scheme, viewport=_SIZE)
    page = await context.new_page()
    page.on("pageerror", lambda error: sys.exit(f"the page failed: {error}"))
    await page.goto(url)
    await page.wait_for_selector("#main:not([hidden])")
    return page


async def take(to: Path, wanted: Collection[str], data_dir: Path) -> None:
    """Take pictures into a directory: those that are wanted, or all if none is named."""

    async def shoot(page: Page, name: str, *, whole: bool = True) -> None:
        if not wanted or name in wanted:
            await page.wait_for_timeout(1500)
            await page.screenshot(path=to / f"{name}.png", full_page=whole)

    async with async_playwright() as playwright:
        chromium = await playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        async with scene(data_dir) as there:
            light = await _page(chromium, "light", there.url)
            dark = await _page(chromium, "dark", there.url)
            await there.calm()
            await shoot(light, "console-calm-light")
            await shoot(dark, "console-calm-dark")
            await there.faults()
            await light.evaluate(
                "document.querySelector('#events').closest('section').hidden = true"
            )
            await shoot(light, "console-fault-light")
            await light.evaluate(
                "document.querySelector('#events').closest('section').hidden = false"
            )
            await shoot(dark, "console-fault-dark")
            await light.click("#session-rows tr button")
            await shoot(light, "console-session-light", whole=False)
            await light.keyboard.press("Escape")
            await there.drain()
            await shoot(dark, "console-drained-dark")
            await light.set_viewport_size(_NARROW)
            await shoot(light, "console-narrow-light")
            await light.set_viewport_size(_SIZE)
        await dark.evaluate("scrollTo(0, document.querySelector('#sessions').offsetTop - 80)")
        await shoot(light, "console-lost-light", whole=False)
        await shoot(dark, "console-lost-dark", whole=False)
        await chromium.close()


def main() -> None:
    """Run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--all", type=Path, metavar="DIR", help="take all, into this directory")
    everything = parser.parse_args().all
    (everything or DOCS / "images").mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="gbs-") as directory:
        Path(directory).chmod(0o711)  # the database's own user must pass through
        wanted = () if everything else DOCUMENTED
        asyncio.run(take(everything or DOCS / "images", wanted, Path(directory) / "data"))


if __name__ == "__main__":
    main()
