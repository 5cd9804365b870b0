"""What feeds the console: the stream of everything, and the history of one session."""

from __future__ import annotations

import asyncio
import functools
import json
import random
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from google.protobuf.json_format import ParseDict
from ibgateway.broker.v1 import gateway_service_pb2
from ibgateway.broker.v1 import session_service_pb2 as pb

from broker import app
from broker.access.identity import Identity, Role
from broker.app import broker
from broker.http import console
from broker.http.guard import Guard
from broker.simulator.gateway import SimulatedGateway
from tests.harness import CONNECTED, RECONNECTING, Client, connected, eventually
from tests.integration.test_http import ask, http
from tests.integration.test_stop import settings
from tests.integration.test_watch import Watch
from tests.postgres import execute

Frame = tuple[str, str, Any]
"""Kind, id and document."""


@asynccontextmanager
async def stream(
    session: aiohttp.ClientSession, last: str = ""
) -> AsyncIterator[AsyncIterator[Frame]]:
    """The frames of a stream."""
    headers = {"Last-Event-ID": last} if last else {}
    async with session.get("api/watch", headers=headers) as answer:
        assert answer.status == 200, await answer.text()
        assert answer.content_type == "text/event-stream"
        yield frames(answer)


async def frames(answer: aiohttp.ClientResponse) -> AsyncIterator[Frame]:
    fields: dict[str, str] = {}
    async for line in answer.content:
        name, colon, value = line.decode().rstrip("\n").partition(": ")
        if colon:
            fields[name] = value
        elif fields:
            yield fields.get("event", ""), fields.get("id", ""), json.loads(fields["data"])
            fields = {}


async def until(told: AsyncIterator[Frame], kind: str, field: str = "") -> list[Frame]:
    """Read until a frame of a kind, or a watch message of one."""
    read: list[Frame] = []
    async with asyncio.timeout(10):
        async for frame in told:
            read.append(frame)
            if frame[0] == kind and (not field or field in frame[2]):
                return read
    raise AssertionError(f"it ended without {kind} {field}: {read}")


def message(document: Any) -> pb.WatchSessionsResponse:
    return ParseDict(document, pb.WatchSessionsResponse())


async def test_a_stream_tells_what_the_api_tells_in_the_same_messages(
    simulator: SimulatedGateway, database_url: str
) -> None:
    async with http(simulator, database_url) as (client, session):
        opened = await client.open(client_id=7, labels={"desk": "fx"})
        watch = Watch(client)
        async with stream(session) as told:
            begin = await until(told, "gateways")
            kinds = [frame[0] for frame in begin]
            assert kinds == ["broker", "watch", "watch", "past", "health", "gateways"]
            [snapshot, complete] = [message(frame[2]) for frame in begin if frame[0] == "watch"]
            assert [snapshot, complete] == [await watch.next(), await watch.next()]
            assert snapshot.snapshot.session_id == opened.session_id
            past = [message(item) for item in begin[3][2]["messages"]]
            assert [item.revision for item in past] == [1, 2]
            assert begin[4][2]["status"] == "ready"
            gateways = ParseDict(begin[5][2], gateway_service_pb2.ListGatewaysResponse())
            ask_gateways = gateway_service_pb2.ListGatewaysRequest()
            assert gateways == await client.gateways.ListGateways(ask_gateways)
            simulator.drop()
            lost = (await until(told, "watch", "event"))[-1]
            assert message(lost[2]).event.session.state == RECONNECTING
            assert message(lost[2]) == await watch.next()
            assert lost[1] == message(lost[2]).resume_token


async def test_a_console_that_is_cut_at_random_misses_nothing_and_is_told_nothing_twice(
    simulator: SimulatedGateway, database_url: str
) -> None:
    async with http(simulator, database_url, watch_memory=16) as (client, session):
        dice = random.Random(7)
        revisions: list[int] = []
        sequences: list[int] = []
        last = ""

        async def work() -> None:
            for _ in range(15):
                opened = await client.open()
                await client.close(opened.session_id)

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(work())
            while len(revisions) < 60:
                left = dice.randrange(1, 9)
                async with asyncio.timeout(20), stream(session, last) as told:
                    async for kind, token, document in told:
                        if kind == "watch":
                            last = token
                            if "event" in document:
                                revisions.append(int(document["event"]["revision"]))
                                sequences.append(int(document["event"]["sequence"]))
                                left -= 1
                        if not left or len(revisions) == 60:
                            break
        assert revisions == list(range(1, 61))
        assert sequences == [1, 2, 3, 4] * 15


async def test_a_console_that_comes_back_gets_no_snapshot(
    simulator: SimulatedGateway, database_url: str
) -> None:
    async with http(simulator, database_url) as (client, session):
        await client.open()
        async with stream(session) as told:
            last = (await until(told, "watch", "snapshot_complete"))[-1][1]
        async with stream(session, last) as told:
            again = await until(told, "watch", "bookmark")
        assert [frame[0] for frame in again] == ["broker", "watch"]


async def test_a_token_of_another_log_gets_a_reset_and_what_is_not_one_is_refused(
    simulator: SimulatedGateway, database_url: str
) -> None:
    async with http(simulator, database_url) as (_, session):
        async with stream(session, "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA") as told:
            begin = await until(told, "watch", "snapshot_complete")
        assert begin[1][2]["reset"]["reason"] == "TOKEN_OF_ANOTHER_STORE"
        status, body, _ = await ask(session, "api/watch", Last_Event_ID="nonsense")
        assert (status, body["reason"]) == (400, "INVALID_ARGUMENT")


async def test_a_quiet_console_hears_something_every_second_or_so(
    simulator: SimulatedGateway, database_url: str
) -> None:
    async with http(simulator, database_url) as (_, session), stream(session) as told:
        await until(told, "gateways")
        begin = asyncio.get_running_loop().time()
        heard = await until(told, "gateways")
        assert [frame[0] for frame in heard] == ["watch", "health", "gateways"]
        assert asyncio.get_running_loop().time() - begin < 3 * console.PULSE


async def test_consoles_are_bounded_and_a_place_is_free_again_once_one_has_gone(
    simulator: SimulatedGateway, database_url: str
) -> None:
    async with http(simulator, database_url, console_limit=2) as (_, session):
        async with stream(session) as one, stream(session) as two:
            await until(one, "gateways")
            await until(two, "gateways")
            status, body, headers = await ask(session, "api/watch")
            assert (status, body["reason"], headers["Retry-After"]) == (503, "CONSOLE_LIMIT", "5")
            assert "console_limit" in body["message"]

        async def free() -> bool:
            async with session.get("api/watch") as answer:
                return answer.status == 200

        await eventually(free)


async def test_a_stream_ends_soon_after_its_token_is_revoked(
    simulator: SimulatedGateway, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = {"t0ken"}

    def authenticate(token: str) -> Identity | None:
        return Identity("night-shift", Role.VIEWER) if token in good else None

    # Nothing configures tokens yet.
    monkeypatch.setattr(app, "Guard", lambda **_: Guard(local=False, authenticate=authenticate))
    async with http(simulator, database_url) as (_, session):
        assert (await ask(session, "api/watch"))[0] == 401
        headers = {"Authorization": "Bearer t0ken"}
        async with session.get("api/watch", headers=headers) as answer:
            told = frames(answer)
            await until(told, "gateways")
            await until(told, "gateways")
            good.clear()
            async with asyncio.timeout(3 * console.PULSE):
                async for _frame in told:
                    pass
        assert (await ask(session, "api/watch", Authorization="Bearer t0ken"))[0] == 401


async def test_a_stop_is_announced_and_ends_the_stream_after_its_last_event(
    simulator: SimulatedGateway, database_url: str
) -> None:
    read: list[Frame] = []

    async def follow(told: AsyncIterator[Frame]) -> None:
        async for frame in told:
            read.append(frame)  # noqa: PERF401 - others look at it meanwhile

    async with aiohttp.ClientSession() as session, asyncio.TaskGroup() as tasks:
        chosen = settings(simulator, database_url)
        async with broker(chosen) as running, connected(running) as client:
            await client.open()
            answer = await session.get(f"http://{running.http_address}/api/watch")
            following = tasks.create_task(follow(frames(answer)))
            await eventually(lambda: [frame for frame in read if frame[0] == "gateways"])
            begin = asyncio.get_running_loop().time()
        assert asyncio.get_running_loop().time() - begin < 4
        await following
    told = [frame[2] for frame in read if frame[0] == "watch"]
    [at] = [place for place, document in enumerate(told) if "draining" in document]
    assert told[at]["draining"]["stop_time"]
    after = [message(document) for document in told[at + 1 :]]
    assert [item.event.session.state for item in after if item.HasField("event")] == [RECONNECTING]
    assert after[-1].HasField("bookmark")


async def test_a_browser_that_reads_nothing_costs_the_others_nothing_and_is_cut(
    simulator: SimulatedGateway, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "PATIENCE", 0.5)
    async with http(simulator, database_url, console_limit=2) as (client, session):
        host, _, port = client.running.http_address.partition(":")
        deaf = socket.socket()
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        deaf.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(deaf, (host, int(port)))
        await loop.sock_sendall(deaf, b"GET /api/watch HTTP/1.1\r\nHost: localhost\r\n\r\n")
        labels = {f"label-{number}": "x" * 256 for number in range(32)}
        async with stream(session) as told:
            await until(told, "gateways")
            refused = await ask(session, "api/watch")
            assert refused[0] == 503  # both places are taken
            seen = 0
            free = False
            for _ in range(120):
                opened = await client.open(labels=labels)
                await client.close(opened.session_id)
                while seen % 4 or not seen:
                    await until(told, "watch", "event")
                    seen += 1
                seen = 0
                async with session.get("api/watch") as answer:
                    free = answer.status == 200
                if free:
                    break
            assert free
        deaf.close()


async def test_the_history_of_a_session_comes_in_pages_the_newest_first(
    simulator: SimulatedGateway, database_url: str
) -> None:
    async with http(simulator, database_url) as (client, session):
        opened = await client.open()
        for generation in range(2, 5):
            simulator.drop()
            await eventually(functools.partial(connected_again, client, opened, generation))
        newest = (await client.get(opened.session_id)).sequence
        path = f"api/sessions/{opened.session_id}/events"
        found: list[int] = []
        before = ""
        while True:
            status, page, _ = await ask(session, f"{path}?page_size=3{before}")
            assert status == 200
            sequences = [int(event["sequence"]) for event in page["events"]]
            found = sequences + found
            if sequences[0] == 1:
                break
            before = f"&before={sequences[0]}"
        assert found == list(range(1, newest + 1))
        whole = await ask(session, path)
        events = await client.sessions.ListSessionEvents(
            pb.ListSessionEventsRequest(session_id=opened.session_id)
        )
        assert ParseDict(whole[1], pb.ListSessionEventsResponse()) == events


async def connected_again(client: Client, opened: Any, generation: int) -> bool:
    session = await client.get(opened.session_id)
    return session.state == CONNECTED and session.generation == generation


@pytest.mark.parametrize(
    ("path", "status", "reason"),
    [
        ("api/sessions/00000000-0000-4000-8000-000000000000/events", 404, "SESSION_NOT_FOUND"),
        ("api/sessions/x/events", 400, "INVALID_ARGUMENT"),
        ("api/sessions/%00/events", 400, "INVALID_ARGUMENT"),
        (f"api/sessions/{'x' * 4000}/events", 400, "INVALID_ARGUMENT"),
        ("api/sessions/x/events?page_size=0", 400, "INVALID_ARGUMENT"),
        ("api/sessions/x/events?page_size=-1", 400, "INVALID_ARGUMENT"),
        ("api/sessions/x/events?before=1e3", 400, "INVALID_ARGUMENT"),
        (f"api/sessions/x/events?before={10**30}", 400, "INVALID_ARGUMENT"),
        ("api/sessions", 404, "NOT_FOUND"),
        ("page/index.html", 404, "NOT_FOUND"),
        ("../config.py", 404, "NOT_FOUND"),
        ("console.py", 404, "NOT_FOUND"),
    ],
)
async def test_what_cannot_be_answered_says_why(
    simulator: SimulatedGateway, database_url: str, path: str, status: int, reason: str
) -> None:
    async with http(simulator, database_url) as (_, session):
        said = await ask(session, path)
        assert (said[0], said[1]["reason"]) == (status, reason)
        assert said[1]["message"]


async def test_the_history_ends_where_older_events_have_expired(
    simulator: SimulatedGateway, database_url: str
) -> None:
    async with http(simulator, database_url) as (client, session):
        opened = await client.open()
        for generation in range(2, 5):
            simulator.drop()
            await eventually(functools.partial(connected_again, client, opened, generation))
        newest = (await client.get(opened.session_id)).sequence
        await execute(
            database_url,
            "UPDATE broker_store SET retention_horizon = 6",
            "DELETE FROM session_events WHERE revision < 6",
        )
        found: list[int] = []
        before = newest + 1
        path = f"api/sessions/{opened.session_id}/events?page_size=4"
        while True:
            status, page, _ = await ask(session, f"{path}&before={before}")
            assert status == 200
            if not page["events"]:
                break
            found = [int(event["sequence"]) for event in page["events"]] + found
            before = found[0]
        assert found == list(range(6, newest + 1))


async def test_an_old_page_of_a_session_that_has_gone_on_is_as_it_was(
    simulator: SimulatedGateway, database_url: str
) -> None:
    async with http(simulator, database_url) as (client, session):
        opened = await client.open()
        path = f"api/sessions/{opened.session_id}/events"
        huge = await ask(session, f"{path}?before={10**17}&page_size=1000")
        first = await ask(session, f"{path}?before=2")
        assert [event["sequence"] for event in first[1]["events"]] == ["1"]
        assert (huge[0], huge[1]["events"]) == (200, [])
        assert (await ask(session, f"{path}?before=1"))[0] == 400
