"""The console in a real browser: what a person sees while things go wrong."""

from __future__ import annotations

import re
import signal
from typing import Any

import grpc.aio
import pytest
from ibgateway.broker.v1 import gateway_service_pb2
from ibgateway.broker.v1 import session_service_pb2 as pb
from playwright.async_api import Page, expect

from broker.errors import ErrorCode
from broker.simulator.faults import Fault
from broker.simulator.gateway import SimulatedGateway
from tests.browser.conftest import OpenPage
from tests.harness import Client, serving
from tests.integration.test_database_away import away
from tests.integration.test_restart import killed, process
from tests.program import free_address

GONE = "ERR_"
"""What a browser says of a broker that is not there."""
HOSTILE = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"


def url(client: Client) -> str:
    return f"http://{client.running.http_address}/"


def rows(page: Page) -> Any:
    return page.locator("#session-rows tr")


def cell(page: Page, label: str) -> Any:
    return page.locator(f'#session-rows td[data-label="{label}"]')


async def test_a_fault_shows_by_itself_with_who_must_act_and_so_does_its_end(
    simulator: SimulatedGateway, database_url: str, open_page: OpenPage
) -> None:
    async with serving(simulator, database_url, http_listen="127.0.0.1:0") as client:
        page = await open_page(url(client))
        await expect(page.locator("#calm")).to_contain_text("No session is open.")
        await page.evaluate("window.untouched = true")
        session = await client.open(client_id=7)
        await expect(rows(page)).to_contain_text("CONNECTED")
        await expect(page.locator("#calm")).to_contain_text("1 of 1 session connected")
        await expect(page.locator(".gateway")).to_contain_text("reachable")
        await expect(page.locator(".gateway")).to_contain_text("1 of 32")

        await simulator.stop_listening()
        simulator.drop()
        await expect(rows(page)).to_contain_text("RECONNECTING")
        item = page.locator("#attention-items li")
        await expect(item).to_contain_text("Gateway default is unreachable")
        await expect(item).to_contain_text("Who acts:")
        await expect(item).to_contain_text("IB_CONN_001")
        await expect(item).to_contain_text("Nothing listens there")
        await expect(item.locator("button")).to_have_text(session.session_id[:8])
        await expect(page.locator("#calm")).to_be_hidden()
        await expect(page.locator(".gateway")).to_contain_text("unreachable")
        await expect(cell(page, "attempt")).to_contain_text("failed, next")
        seconds = cell(page, "for")
        was = await seconds.inner_text()
        await expect(seconds).not_to_have_text(was)

        await simulator.start_listening()
        await expect(rows(page)).to_contain_text("CONNECTED")
        await expect(cell(page, "generation")).to_have_text("2")
        # Subscriptions ended with the link: the owner must act.
        data = page.locator("#attention-items li", has_text="DATA_CONTINUOUS is FALSE")
        await expect(data).to_contain_text("The owner: subscribe anew")
        ask = pb.AcknowledgeDataRequest(session_id=session.session_id, generation=2)
        await client.sessions.AcknowledgeData(ask)
        await expect(page.locator("#calm")).to_contain_text("1 of 1 session connected")
        assert await page.evaluate("window.untouched") is True
        await page.close()


async def test_a_killed_broker_is_said_loudly_and_its_successor_is_found(
    simulator: SimulatedGateway, database_url: str, open_page: OpenPage
) -> None:
    address = free_address()
    listen = {"GATEWAY_BROKER_HTTP_LISTEN": address}
    async with process(simulator, database_url, **listen) as (broker, client):
        session = await client.open(client_id=7)
        page = await open_page(f"http://{address}/", expect=GONE)
        await page.evaluate("window.untouched = true")
        await expect(rows(page)).to_contain_text("CONNECTED")
        banner = page.locator("#banner")
        await expect(banner).to_be_hidden()
        await killed(broker)
        await expect(banner).to_contain_text("Disconnected from the broker")
        await expect(banner).to_contain_text("it may be wrong now")
        await expect(banner).to_contain_text("Trying")
        await expect(page.locator("body")).to_have_class(re.compile("stale"))
        await expect(page).to_have_title(re.compile("^DISCONNECTED"))
        # What was known last stays, and stands still.
        await expect(rows(page)).to_contain_text("CONNECTED")
    async with process(simulator, database_url, **listen) as (_, client):
        await expect(banner).to_be_hidden(timeout=20_000)
        await expect(page.locator("#link")).to_have_text("Live")
        await expect(page.locator("body")).not_to_have_class(re.compile("stale"))
        await expect(page.locator("#events")).to_contain_text("BROKER_RESTARTED")
        await expect(rows(page)).to_contain_text("CONNECTED")
        await expect(cell(page, "generation")).to_have_text("2")
        await expect(rows(page)).to_have_count(1)
        assert session.session_id[:8] in await cell(page, "history").inner_text()
        assert await page.evaluate("window.untouched") is True


async def test_a_broker_that_falls_silent_is_taken_for_dead(
    simulator: SimulatedGateway, database_url: str, open_page: OpenPage
) -> None:
    address = free_address()
    listen = {"GATEWAY_BROKER_HTTP_LISTEN": address}
    async with process(simulator, database_url, **listen) as (broker, _):
        page = await open_page(f"http://{address}/", expect=GONE)
        await expect(page.locator("#calm")).to_be_visible()
        broker.send_signal(signal.SIGSTOP)
        await expect(page.locator("#link")).to_contain_text("Quiet for")
        await expect(page.locator("#banner")).to_contain_text("nothing was heard", timeout=15_000)
        broker.send_signal(signal.SIGCONT)
        await expect(page.locator("#banner")).to_be_hidden(timeout=15_000)


async def test_what_callers_write_stays_text(
    simulator: SimulatedGateway, database_url: str, open_page: OpenPage
) -> None:
    async with serving(simulator, database_url, http_listen="127.0.0.1:0") as client:
        ask = pb.OpenSessionRequest(
            client_id=7, labels={HOSTILE[:60]: HOSTILE, "bidi": "\u202egnp.exe", "empty": ""}
        )
        await client.sessions.OpenSession(ask, metadata=(("x-broker-owner", HOSTILE),))
        drain = gateway_service_pb2.DrainGatewayRequest(reason=HOSTILE)
        await client.gateways.DrainGateway(drain, metadata=(("x-broker-owner", HOSTILE),))
        simulator.notify(2103, f"Market data farm connection is broken:{HOSTILE}")
        page = await open_page(url(client))
        await expect(page.locator("#attention-items")).to_contain_text("is drained by <img")
        await expect(cell(page, "owner")).to_contain_text(HOSTILE)
        await rows(page).locator("button").click()
        await expect(page.locator("#timeline")).to_contain_text(f"drained by '{HOSTILE[:20]}")
        await expect(page.locator("#history-facts")).to_contain_text(HOSTILE)
        assert await page.locator("img, main script, aside script").count() == 0
        assert "owned" not in await page.title()
        await page.close()


async def test_one_sessions_history_is_read_by_keyboard_page_by_page_and_goes_on(
    simulator: SimulatedGateway, database_url: str, open_page: OpenPage
) -> None:
    async with serving(simulator, database_url, http_listen="127.0.0.1:0") as client:
        session = await client.open(client_id=7)
        for number in range(60):
            simulator.notify(2103 if number % 2 else 2104, "Market data farm connection:usfarm")
        page = await open_page(url(client))
        await expect(page.locator("#events")).to_contain_text("MARKET_DATA_FARM/usfarm")
        await page.keyboard.press("/")
        await expect(page.locator("#filter")).to_be_focused()
        await page.keyboard.type("nobody-has-this")
        await expect(page.locator("#no-sessions")).to_have_text("No session matches the filter.")
        await page.keyboard.press("Escape")
        await expect(rows(page)).to_have_count(1)
        await page.keyboard.type(f"local {session.session_id[:6]}")
        await expect(rows(page)).to_have_count(1)
        await page.keyboard.press("Tab")  # the choice of states
        button = rows(page).locator("button")
        for _ in range(3):
            if not await button.evaluate("(node) => node === document.activeElement"):
                await page.keyboard.press("Tab")
        await expect(button).to_be_focused()
        await page.keyboard.press("Enter")
        await expect(page.locator("#history-title")).to_be_focused()
        entries = page.locator("#timeline .event")
        newest = (await client.get(session.session_id)).sequence
        assert newest > 55
        more = page.locator("#history-more")
        while await more.is_visible():
            before = await entries.count()
            await more.click()
            await expect(entries).not_to_have_count(before)
        await expect(entries).to_have_count(newest)
        await expect(entries.last).to_contain_text("CONNECTING")
        simulator.drop()
        await expect(entries.first).to_contain_text(re.compile("CONNECTED|DATA_CONTINUOUS"))
        await expect(page.locator("#timeline")).to_contain_text("PEER_CLOSED")
        await page.keyboard.press("Escape")
        await expect(page.locator("#history")).to_be_hidden()
        await expect(button).to_be_focused()
        await page.close()


async def test_what_is_not_on_record_yet_says_so_until_it_is(
    simulator: SimulatedGateway, database_url: str, open_page: OpenPage
) -> None:
    async with serving(
        simulator, database_url, http_listen="127.0.0.1:0", store_timeout=1.0
    ) as client:
        await client.open(client_id=7)
        page = await open_page(url(client))
        await expect(rows(page)).to_contain_text("CONNECTED")
        async with away(database_url):
            simulator.drop()
            await expect(page.locator("#events")).to_contain_text("not on record yet")
            await expect(page.locator("#attention-items")).to_contain_text("The database is away")
        await expect(page.locator("#events")).not_to_contain_text("not on record yet")
        await expect(page.locator("#attention-items")).not_to_contain_text("The database is away")
        events = page.locator("#events li")
        keys = await events.evaluate_all("(nodes) => nodes.map((node) => node.dataset.key)")
        assert len(keys) == len(set(keys))
        await page.close()


async def test_sessions_that_have_ended_say_why_and_a_failed_one_asks_for_somebody(
    simulator: SimulatedGateway, database_url: str, open_page: OpenPage
) -> None:
    async with serving(simulator, database_url, http_listen="127.0.0.1:0") as client:
        simulator.arm(Fault.PAPER_DISCLAIMER, times=1)
        with pytest.raises(grpc.aio.AioRpcError):
            await client.open(client_id=21, max_attempts=1)
        closed = await client.open(client_id=7)
        await client.close(closed.session_id)
        page = await open_page(url(client))
        # Both had ended before the page was opened.
        await expect(rows(page)).to_have_count(2)
        await expect(rows(page).nth(0)).to_contain_text("FAILED")
        await expect(rows(page).nth(0)).to_contain_text("IB_CONN_005")
        await expect(rows(page).nth(1)).to_contain_text("CLOSE_REQUESTED")
        item = page.locator("#attention-items li")
        await expect(item).to_contain_text("Act")
        await expect(item).to_contain_text("A human at the Gateway")
        await expect(page).to_have_title("(1) gateway-broker")
        await page.locator("#states").select_option("open")
        await expect(page.locator("#no-sessions")).to_be_visible()
        await page.close()


async def test_a_page_that_stumbles_over_itself_says_so(
    client_with_page: tuple[Client, Page],
) -> None:
    _, page = client_with_page
    await page.evaluate("setTimeout(() => { throw new Error('stumbled'); })")
    await expect(page.locator("#banner")).to_contain_text("This page has failed")
    await expect(page.locator("#banner")).to_contain_text("stumbled")


@pytest.fixture
async def client_with_page(
    simulator: SimulatedGateway, database_url: str, open_page: OpenPage
) -> Any:
    async with serving(simulator, database_url, http_listen="127.0.0.1:0") as client:
        page = await open_page(url(client), expect="stumbled")
        await expect(page.locator("#calm")).to_be_visible()
        yield client, page
        await page.close()


async def test_every_code_says_who_must_act(client_with_page: tuple[Client, Page]) -> None:
    _, page = client_with_page
    told = await page.evaluate(
        """async (reasons) => {
            const { Model } = await import("/model.js");
            const { attention } = await import("/attention.js");
            return reasons.map((reason) => {
                const model = new Model();
                const last_failure = { reason, retryable: true, message: "m", hint: "h" };
                const session = (id, state) => model.sessions.set(id, {
                    session_id: id, state: `SESSION_STATE_${state}`, gateway_id: "a", client_id: 7,
                    owner: "o", attempt: 1, conditions: [], state_time: "2026-01-01T00:00:00Z",
                    last_failure,
                });
                session("1", "RECONNECTING");
                session("2", "CONNECTING");
                session("3", "CONNECTED");
                const soon = attention(model, Date.now());
                model.overdue.set("1", new Set(["RECONNECTING"]));
                const [late] = attention(model, Date.now());
                const [{ code, who, sessions }] = soon;
                return [soon.length, sessions.join(), code, who, late.level, late.who];
            });
        }""",
        [code.reason for code in ErrorCode],
    )
    for code, (items, sessions, shown, who, level, who_acts_late) in zip(
        ErrorCode, told, strict=True
    ):
        assert (items, sessions, shown) == (1, "1,2", code.reason)
        assert who not in ("", "An operator")
        assert level == "act"
        assert "Nobody" not in who_acts_late


async def test_a_stream_that_begins_anew_forgets_where_it_was_and_one_that_breaks_does_not(
    client_with_page: tuple[Client, Page],
) -> None:
    _, page = client_with_page
    told = await page.evaluate(
        """async () => {
            const { Stream } = await import("/stream.js");
            const asked = [];
            const bodies = [
                'id: a\\nevent: watch\\ndata: 1\\n\\nid: b\\nevent: watch\\nda',
                'event: broker\\ndata: 2\\n\\nid: c\\nevent: watch\\ndata: 3\\n\\n',
                'event: error\\ndata: {"message": "too slow"}\\n\\n',
            ];
            const heard = [];
            const real = window.fetch;
            window.fetch = async (path, { headers }) => {
                asked.push(headers["Last-Event-ID"] ?? "");
                if (asked.length <= bodies.length) return new Response(bodies[asked.length - 1]);
                window.fetch = real;
                return new Promise(() => {});
            };
            const reasons = [];
            const stream = new Stream("x", (kind, data) => {
                heard.push(data);
                if (data === 2) stream.beginAnew();
            }, ({ live, why, at }) => { if (at) reasons.push(why); });
            void stream.run();
            while (asked.length < 4) await new Promise((go) => setTimeout(go, 20));
            return [asked, heard, reasons];
        }"""
    )
    asked, heard, reasons = told
    assert asked == ["", "a", "", ""]
    assert heard == [1, 2]
    assert reasons[0] == "the broker ended the stream"
    assert "beginning anew" in reasons[1]
    assert reasons[2] == "too slow"


async def test_a_reset_forgets_what_is_not_there_any_more(
    client_with_page: tuple[Client, Page],
) -> None:
    _, page = client_with_page
    told = await page.evaluate(
        """async () => {
            const { Model } = await import("/model.js");
            const model = new Model();
            const session = (id, sequence, state) => ({
                session_id: id, sequence: String(sequence), state: `SESSION_STATE_${state}`,
                conditions: [], labels: {}, accounts: [], gateway_id: "default", attempt: 0,
            });
            const tell = (message) => model.accept("watch", message);
            const event = (id, sequence, persisted, state) => tell({ event: {
                session_id: id, sequence: String(sequence), persisted,
                session: session(id, sequence, state), updated: { fields: [], actor: "a" },
            } });
            const said = [];
            tell({ snapshot: session("a", 1, "CONNECTED") });
            said.push(model.complete);
            tell({ snapshot_complete: {} });
            event("a", 2, false, "RECONNECTING");
            event("a", 2, true, "RECONNECTING");
            said.push(model.events.length, model.events[0].persisted, model.gaps);
            event("a", 4, true, "CONNECTED");
            said.push(model.gaps);
            tell({ reset: { reason: "TOKEN_AHEAD" } });
            tell({ snapshot: session("b", 1, "CONNECTED") });
            said.push([...model.sessions.keys()].join());
            tell({ snapshot_complete: {} });
            said.push([...model.sessions.keys()].join(), model.events.length);
            model.accept("broker", { instance: "1" });
            event("b", 2, false, "RECONNECTING");
            said.push(model.accept("broker", { instance: "1" }));
            said.push(model.accept("broker", { instance: "2" }));
            for (let n = 3; n < 900; n += 1) event("b", n, true, "CONNECTED");
            said.push(model.events.length);
            const about = (more) => tell({ event: {
                session_id: "b", sequence: String(++last), persisted: true,
                session: session("b", last, "CONNECTED"), ...more,
            } });
            let last = 899;
            const { attention } = await import("/attention.js");
            const status = "CONDITION_STATUS_TRUE";
            const farm = { type: "MARKET_DATA_FARM", subject: "usfarm", status };
            about({ notice: { reason: "OVERDUE", subject: "MARKET_DATA_FARM/usfarm" } });
            about({ notice: { reason: "OVERDUE", subject: "UPSTREAM" } });
            about({ condition: farm });
            said.push([...model.overdue.get("b")].join());
            const [from, to] = ["SESSION_STATE_CONNECTED", "SESSION_STATE_RECONNECTING"];
            about({ transition: { from, to } });
            said.push(model.overdue.has("b"), attention(model, Date.now()).length);
            return said;
        }"""
    )
    assert told[:11] == [False, 1, True, 0, 1, "a", "b", 0, False, True, 500]
    assert told[11:] == ["UPSTREAM", False, 1]  # what is left is the gap
