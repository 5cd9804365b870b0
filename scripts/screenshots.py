"""Make pictures of the console: a broker with sessions in every state, calm and after faults, light and
dark.

It starts a PostgreSQL, two simulated Gateways and a broker of its own, and needs a Chromium:
``apt-get install chromium``. What docs/console.md shows is made by ``make screenshots``.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from broker.config import GatewayConfig, Settings, let_processes_fork

let_processes_fork()

import grpc.aio  # noqa: E402
from google.protobuf.duration_pb2 import Duration  # noqa: E402
from ibgateway.broker.v1 import gateway_service_pb2, gateway_service_pb2_grpc  # noqa: E402
from ibgateway.broker.v1 import session_service_pb2 as pb  # noqa: E402
from ibgateway.broker.v1 import session_service_pb2_grpc  # noqa: E402
from playwright.async_api import Browser, Page, async_playwright  # noqa: E402

from broker.app import Running, broker  # noqa: E402
from broker.simulator.faults import Fault  # noqa: E402
from broker.simulator.gateway import SimulatedGateway, SimulatorSettings  # noqa: E402

DOCS: Final = Path(__file__).resolve().parent.parent / "docs"
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
)
_SIZE: Final[Any] = {"width": 1440, "height": 1000}
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
        try:
            await self.sessions.OpenSession(failing, metadata=(("x-broker-owner", "research"),))
        except grpc.aio.AioRpcError:
            pass
        lease = Duration(seconds=1)
        await self.open("notebook", "paper", 23, lease_ttl=lease)
        self.paper.arm(Fault.CLIENT_ID_IN_USE, times=100)
        await self.open(
            "rebalancer", "paper", 22, return_immediately=True, max_attempts=50,
            client_id_policy=pb.CLIENT_ID_POLICY_EXACT,
        )
        self.paper.notify(2103, "Market data farm connection is broken:usfarm")
        await self.live.stop_listening()
        self.live.drop()
        await asyncio.sleep(6)

    async def drain(self) -> None:
        """An operator takes the paper Gateway out of use."""
        request = gateway_service_pb2.DrainGatewayRequest(gateway_id="paper", reason="upgrade to 10.45")
        await self.gateways.DrainGateway(request, metadata=(("x-broker-owner", "ops-night"),))

    async def close(self) -> None:
        """Hang up."""
        await self._channel.close()


@asynccontextmanager
async def scene() -> AsyncIterator[Scene]:
    """A broker with all that it needs, on free ports, gone afterwards."""
    address = SimulatorSettings(host="127.0.0.1", port=0)
    with tempfile.TemporaryDirectory(prefix="gbs-") as directory:
        if hasattr(os, "geteuid") and os.geteuid() == 0:
            Path(directory).chmod(0o711)
        async with SimulatedGateway(address) as paper, SimulatedGateway(address) as live:
            settings = Settings(
                gateways={
                    "paper": _gateway(paper, kind="paper"),
                    "live": _gateway(live, kind="unknown", client_ids="200-299"),
                },
                grpc_listen="127.0.0.1:0",
                http_listen="127.0.0.1:0",
                prometheus_port=0,
                data_dir=Path(directory) / "data",
            )
            async with broker(settings) as running:
                there = Scene(paper, live, running)
                try:
                    yield there
                finally:
                    await there.close()


def _gateway(simulator: SimulatedGateway, **more: Any) -> GatewayConfig:
    return GatewayConfig(
        host=simulator.host, port=simulator.port, sentinel=False, auth_grace=0.0,
        retry_initial_delay=1.0, circuit_breaker_failure_threshold=3, **more,
    )


async def _page(chromium: Browser, scheme: Any, url: str) -> Page:
    context = await chromium.new_context(color_scheme=scheme, viewport=_SIZE)
    page = await context.new_page()
    page.on("console", lambda message: print("console:", message.text))
    page.on("pageerror", lambda error: print("error:", error))
    await page.goto(url)
    await page.wait_for_selector("#main:not([hidden])")
    return page


async def _shoot(page: Page, to: Path, name: str, *, whole: bool = True) -> None:
    await page.wait_for_timeout(1500)
    await page.screenshot(path=to / f"{name}.png", full_page=whole)


async def take(to: Path) -> None:
    """Take all pictures into a directory."""
    to.mkdir(parents=True, exist_ok=True)
    async with async_playwright() as playwright:
        chromium = await playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        async with scene() as there:
            light = await _page(chromium, "light", there.url)
            dark = await _page(chromium, "dark", there.url)
            await there.calm()
            await _shoot(light, to, "console-calm-light")
            await _shoot(dark, to, "console-calm-dark")
            await there.faults()
            await _shoot(light, to, "console-fault-light")
            await _shoot(dark, to, "console-fault-dark")
            await light.click("#session-rows tr button")
            await _shoot(light, to, "console-session-light", whole=False)
            await light.keyboard.press("Escape")
            await there.drain()
            await _shoot(dark, to, "console-drained-dark")
            await light.set_viewport_size(_NARROW)
            await _shoot(light, to, "console-narrow-light")
            await light.set_viewport_size(_SIZE)
        await _shoot(light, to, "console-lost-light", whole=False)
        await chromium.close()


def main() -> None:
    """Run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--to", type=Path, default=DOCS / "images", help="where the pictures go")
    asyncio.run(take(parser.parse_args().to))


if __name__ == "__main__":
    main()
