"""The HTTP servers: health and the console on one address, metrics on another."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Final

from aiohttp import web

from broker.errors import StartupError
from broker.http.console import Console
from broker.http.guard import Guard, harden
from broker.http.health import Readiness

Exposition = Callable[[], tuple[bytes, str]]
"""All metrics, as a body and its content type."""

_LAST_ANSWERS: Final = 2.0
"""Seconds that answers have to leave when the server stops; streams have ended before."""


class HttpServer:
    """Serves over HTTP.

    Args:
        listen: HOST:PORT for health and the console; empty for neither.
        metrics_listen: HOST:PORT for metrics; not looked at without any.
        readiness: whether the broker can be used.
        console: the page.
        guard: who may look at it.
        metrics_guard: who may look at the metrics.
        exposition: makes the metrics; None without any.

    Attributes:
        address: where it listens, with the real port; empty if it does not.
        metrics_address: where metrics are, likewise.
    """

    def __init__(
        self,
        *,
        listen: str,
        metrics_listen: str,
        readiness: Readiness,
        console: Console,
        guard: Guard,
        metrics_guard: Guard,
        exposition: Exposition | None,
    ) -> None:
        self.address = ""
        self.metrics_address = ""
        self._listen = listen
        self._metrics_listen = metrics_listen
        self._readiness = readiness
        self._console = console
        self._guard = guard
        self._metrics_guard = metrics_guard
        self._exposition = exposition
        self._runners: list[web.AppRunner] = []

    async def start(self) -> None:
        """Begin to serve.

        Raises:
            StartupError: an address is taken; what was begun ends with ``stop``.
        """
        if self._listen:
            app = web.Application(middlewares=[self._guard.middleware])
            app.add_routes(
                [
                    web.get("/health/live", self._live),
                    web.get("/health/ready", self._ready),
                    *self._console.routes(),
                ]
            )
            self.address = await self._serve(
                app, self._listen, "--http-listen (GATEWAY_BROKER_HTTP_LISTEN; off: no HTTP)"
            )
        if self._exposition is not None:
            app = web.Application(middlewares=[self._metrics_guard.middleware])
            app.add_routes([web.get("/metrics", self._metrics)])
            self.metrics_address = await self._serve(
                app,
                self._metrics_listen,
                "--prometheus-port (PROMETHEUS_PORT) or GATEWAY_BROKER_METRICS_HOST",
            )

    async def stop(self) -> None:
        """End what still runs, and listen no more; no error if it never started."""
        while self._runners:
            await self._runners.pop().cleanup()

    async def _serve(self, app: web.Application, listen: str, setting: str) -> str:
        app.on_response_prepare.append(harden)
        runner = web.AppRunner(
            app, handle_signals=False, access_log=None, shutdown_timeout=_LAST_ANSWERS
        )
        self._runners.append(runner)
        await runner.setup()
        host, _, port = listen.rpartition(":")
        try:
            await web.TCPSite(runner, host.strip("[]"), int(port)).start()
        except OSError as error:
            taken = "Stop what runs there, or c" if error.errno == errno.EADDRINUSE else "C"
            raise StartupError(
                f"cannot listen on {listen}: {error.strerror or error}. {taken}hoose another "
                f"address with {setting}"
            ) from None
        return f"{host}:{runner.addresses[0][1]}"

    async def _live(self, _: web.Request) -> web.Response:
        return web.json_response({"status": "alive"})

    async def _ready(self, request: web.Request) -> web.Response:
        reasons = self._readiness.reasons()
        if not reasons:
            return web.json_response({"status": "ready"})
        if not self._guard.admits(request):
            reasons = dict.fromkeys(reasons, "told to who may look")
        return web.json_response({"status": "not_ready", "reasons": reasons}, status=503)

    async def _metrics(self, _: web.Request) -> web.Response:
        assert self._exposition is not None
        body, content_type = self._exposition()
        return web.Response(body=body, headers={"Content-Type": content_type})
