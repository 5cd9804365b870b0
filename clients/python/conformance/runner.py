"""The runner of the Python client: see clients/conformance/README.md.

It does what it is told, one request a line, and says what came of it.
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import grpc.aio
from told import error, event, gateway, item, session, told

from ibgateway.client import (
    Backoff,
    Broker,
    BrokerError,
    ClientIdPolicy,
    Session,
    Watch,
    connect,
)
from ibgateway.simulator.v1 import simulator_service_pb2, simulator_service_pb2_grpc

Json = dict[str, Any]
Handler = Callable[[str, Json], Awaitable[Any]]
_OPEN = {"timeout": "attempt_timeout", "deadline": "timeout"}
"""What the client calls otherwise than the contract."""
_CANCELS = 10.0
"""Seconds for a request to end that was cancelled."""


class RefusedError(Exception):
    """What the client refuses before anything is sent."""


class Runner:
    """Connections, handles, watches and requests under way, each by its name."""

    def __init__(self) -> None:
        self._brokers: dict[str, Broker] = {}
        self._handles: dict[str, Session] = {}
        self._watches: dict[str, Watch] = {}
        self._background: dict[str, asyncio.Task[Json]] = {}

    async def answer(self, line: str) -> Json:
        """Do what a line says."""
        try:
            request = json.loads(line)
            given = {key: told for key, told in request.get("with", {}).items() if told is not None}
            match request["do"]:
                case "await":
                    return await self._ended(given)
                case "cancel":
                    self._background[given["name"]].cancel()
                    return await self._ended({**given, "within": _CANCELS})
                case name if name in REQUESTS:
                    outcome = self._outcome(getattr(self, name), request.get("on", "main"), given)
                case name:
                    return {"broken": f"there is no request {name!r}"}
            if request.get("background"):
                self._background[request["background"]] = asyncio.create_task(outcome)
                return {"result": {}}
            return await outcome
        except Exception as bug:  # noqa: BLE001 - whatever it is, it is this step's
            return {"broken": repr(bug)}

    async def close(self) -> None:
        """End whatever goes on."""
        for task in self._background.values():
            task.cancel()
        for broker in self._brokers.values():
            await broker.close()

    async def _ended(self, given: Json) -> Json:
        """The outcome of a request in the background."""
        task = self._background[given["name"]]
        done, _ = await asyncio.wait({task}, timeout=given["within"])
        if not done:
            return {"broken": f"{given['name']} has not ended"}
        if task.cancelled():
            return {"error": {"type": "Cancelled"}}
        return task.result()

    async def _outcome(self, handler: Handler, on: str, given: Json) -> Json:
        try:
            return {"result": await handler(on, given)}
        except BrokerError as failure:
            return {"error": error(failure)}
        except RefusedError as refused:
            return {"error": {"type": "Refused", "message": str(refused)}}
        except Exception as bug:  # noqa: BLE001 - as above
            return {"broken": repr(bug)}

    # -- connections -----------------------------------------------------------------

    async def hello(self, _on: str, _given: Json) -> Json:
        return {"language": "Python", "version": platform.python_version(), "layer": True}

    async def connect(self, on: str, given: Json) -> Json:
        ca = given.get("ca")
        try:
            self._brokers[on] = connect(
                given["address"],
                owner=given.get("owner"),
                token=given.get("token"),
                credentials=grpc.ssl_channel_credentials(Path(ca).read_bytes()) if ca else None,
                backoff=Backoff() if given.get("retry", True) else None,
            )
        except ValueError as refused:
            raise RefusedError(str(refused)) from None
        return {}

    async def disconnect(self, on: str, _given: Json) -> Json:
        await self._brokers.pop(on).close()
        return {}

    # -- sessions --------------------------------------------------------------------

    async def open_session(self, on: str, given: Json) -> Json:
        handle = given.pop("handle", "")
        opened = await self._brokers[on].open_session(**_opening(given))
        if handle:
            self._handles[handle] = opened
        return {"session": session(opened.info), "created": opened.created}

    async def validate_session(self, on: str, given: Json) -> Json:
        given.pop("handle", None)
        await self._brokers[on].open_session(**_opening(given)).validate()
        return {}

    async def handle(self, _on: str, given: Json) -> Json:
        handle = self._handles[given["handle"]]
        return {
            "session": session(handle.info),
            "ended": handle.ended,
            "interrupted": handle.interruption is not None,
        }

    async def wait_ended(self, _on: str, given: Json) -> Json:
        async with asyncio.timeout(given["within"]):
            return {"session": session(await self._handles[given["handle"]].wait_ended())}

    async def detach(self, _on: str, given: Json) -> Json:
        self._handles[given["handle"]].detach()
        return {}

    async def close_handle(self, _on: str, given: Json) -> Json:
        return {"session": session(await self._handles[given["handle"]].close())}

    async def get_session(self, on: str, given: Json) -> Json:
        found = await self._brokers[on].get_session(
            given["session_id"], timeout=given.get("deadline")
        )
        return {"session": session(found)}

    async def list_sessions(self, on: str, given: Json) -> Json:
        return {
            "sessions": [session(each) async for each in self._brokers[on].list_sessions(**given)]
        }

    async def close_session(self, on: str, given: Json) -> Json:
        return {"session": session(await self._brokers[on].close_session(**given))}

    async def renew_session(self, on: str, given: Json) -> Json:
        return {"session": session(await self._brokers[on].renew_session(**given))}

    async def verify_session(self, on: str, given: Json) -> Json:
        verified = await self._brokers[on].verify_session(given["session_id"])
        return told(verified, "healthy", "latency", "failure")

    async def list_session_events(self, on: str, given: Json) -> Json:
        history: AsyncIterator[Any] = self._brokers[on].session_events(**given)
        return {"events": [event(each) async for each in history]}

    async def acknowledge_data(self, on: str, given: Json) -> Json:
        return {"session": session(await self._brokers[on].acknowledge_data(**given))}

    # -- watches ---------------------------------------------------------------------

    async def watch(self, on: str, given: Json) -> Json:
        name = given.pop("name")
        self._watches[name] = self._brokers[on].watch(**given)
        return {}

    async def next(self, _on: str, given: Json) -> Json | None:
        try:
            async with asyncio.timeout(given["within"]):
                return item(await anext(self._watches[given["watch"]]))
        except TimeoutError:
            return None

    async def stop_watch(self, _on: str, given: Json) -> Json:
        watch = self._watches.pop(given["watch"])
        await watch.close()
        return {"token": watch.token}

    # -- gateways and the broker -----------------------------------------------------

    async def list_gateways(self, on: str, _given: Json) -> Json:
        return {"gateways": [gateway(each) for each in await self._brokers[on].gateways.list()]}

    async def get_gateway(self, on: str, given: Json) -> Json:
        return {"gateway": gateway(await self._brokers[on].gateways.get(**given))}

    async def drain_gateway(self, on: str, given: Json) -> Json:
        return {"gateway": gateway(await self._brokers[on].gateways.drain(**given))}

    async def resume_gateway(self, on: str, given: Json) -> Json:
        return {"gateway": gateway(await self._brokers[on].gateways.resume(**given))}

    async def reset_circuit_breaker(self, on: str, given: Json) -> Json:
        return {"gateway": gateway(await self._brokers[on].gateways.reset_breaker(**given))}

    async def get_broker_info(self, on: str, _given: Json) -> Json:
        info = await self._brokers[on].info()
        return {
            **told(info, "version", "store_id"),
            "capabilities": sorted(info.capabilities),
            "caller": info.access.caller,
            "role": info.access.role,
        }

    # -- the simulated Gateway ---------------------------------------------------------

    async def simulate(self, _on: str, given: Json) -> Json:
        rpc = given["rpc"]
        async with grpc.aio.insecure_channel(given["address"]) as channel:
            stub = simulator_service_pb2_grpc.SimulatorServiceStub(channel)
            request = getattr(simulator_service_pb2, f"{rpc}Request")(**given.get("fields", {}))
            await getattr(stub, rpc)(request, timeout=10)
        return {}


REQUESTS = frozenset(
    {
        *("hello", "connect", "disconnect", "open_session", "validate_session", "handle"),
        *("wait_ended", "detach", "close_handle", "get_session", "list_sessions"),
        *("close_session", "renew_session", "verify_session", "list_session_events"),
        *("acknowledge_data", "watch", "next", "stop_watch", "list_gateways", "get_gateway"),
        *("drain_gateway", "resume_gateway", "reset_circuit_breaker", "get_broker_info"),
        "simulate",
    }
)


def _opening(given: Json) -> Json:
    """The arguments of open_session; without a lease_ttl there is none."""
    named = {_OPEN.get(name, name): value for name, value in given.items()}
    if "client_id_policy" in named:
        named["client_id_policy"] = ClientIdPolicy(named["client_id_policy"])
    return {"lease_ttl": None, **named}


async def main() -> None:
    """Answer line by line until the input ends."""
    loop = asyncio.get_running_loop()
    runner = Runner()
    try:
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            sys.stdout.write(f"{json.dumps(await runner.answer(line))}\n")
            sys.stdout.flush()
    finally:
        await runner.close()


if __name__ == "__main__":
    asyncio.run(main())
