"""What becomes of a session whose Gateway goes wrong after the handshake, and within which time.

``docs/faults-while-connected.md`` is made from the cases below. To write it anew:
``UPDATE_DOCS=1 pytest tests/integration/test_fault_matrix.py``
The times on the page are those of that run; all else is checked whenever the tests run.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest
from ibgateway.broker.v1 import (
    error_pb2,
    gateway_service_pb2,
    session_event_pb2,
    session_pb2,
)
from ibgateway.broker.v1 import session_service_pb2 as pb

from broker.simulator.gateway import SimulatedGateway, SimulatorSettings
from broker.simulator.restart import Restart
from tests.harness import CONNECTED, RECONNECTING, Client, eventually, serving
from tests.integration.test_watch import Watch

DOCUMENT: Final = Path(__file__).parents[2] / "docs" / "faults-while-connected.md"
UPDATE: Final = bool(os.environ.get("UPDATE_DOCS"))
LIMIT: Final = 20.0
INTERVAL: Final = 1.2
TIMEOUT: Final = 0.3
WORDS: Final = 70
"""Characters of a hint or a message that the page shows."""

RATE: Final = "Max rate of messages per second has been exceeded:max=50 rec=51 (3)"
READ_ONLY: Final = (
    "Error validating request.-'bK' : cause - The API interface is currently in Read-Only mode."
)

Event = session_event_pb2.SessionEvent


@dataclass
class Scene:
    """One session whose Gateway is about to go wrong, and all that its watcher is told."""

    client: Client
    simulator: SimulatedGateway
    session: session_pb2.Session
    watch: Watch
    later: contextlib.AsyncExitStack
    events: list[tuple[float, Event]] = field(default_factory=list)

    async def told(self, wanted: Callable[[Event], Any]) -> float:
        """Wait until the watcher has been told so; returns when."""
        for moment, event in self.events:
            if wanted(event):
                return moment
        async with asyncio.timeout(LIMIT):
            while True:
                message = await anext(self.watch.messages)
                if message.WhichOneof("message") == "event":
                    self.events.append((time.monotonic(), message.event))
                    if wanted(message.event):
                        return self.events[-1][0]


Act = Callable[[Scene], Awaitable[object]]
Seen = Callable[[Event], Any]


# -- what happens, and what ends it ----------------------------------------------


def drop(**how: Any) -> Act:
    async def act(scene: Scene) -> None:
        assert scene.simulator.drop(**how) == 1

    return act


def notify(*notices: int | tuple[int, str]) -> Act:
    async def act(scene: Scene) -> None:
        for notice in notices:
            code, text = (notice, None) if isinstance(notice, int) else notice
            assert scene.simulator.notify(code, text) == 1

    return act


async def rate_exceeded(scene: Scene) -> None:
    scene.simulator.notify(100, RATE)
    scene.simulator.drop()


async def port_changed(scene: Scene) -> None:
    scene.simulator.reset_port(4003)


async def hang(scene: Scene) -> None:
    scene.simulator.mute(True)


async def answer_again(scene: Scene) -> None:
    scene.simulator.mute(False)


async def restart(scene: Scene) -> None:
    night = Restart(notices=2, notice_interval=0.05, down=0.5, first_connections=2)
    scene.simulator.start_restart(night)


async def leave_a_ghost(scene: Scene) -> None:
    scene.simulator.ghost(scene.session.client_id, 1.0)
    scene.simulator.drop(reset=True)


async def go_away(scene: Scene) -> None:
    await scene.simulator.stop_listening()
    scene.simulator.drop()


async def come_back(scene: Scene) -> None:
    await scene.simulator.start_listening()


async def drop_while_drained(scene: Scene) -> None:
    ask = gateway_service_pb2.DrainGatewayRequest(reason="upgrade")
    await scene.client.gateways.DrainGateway(ask)
    scene.simulator.drop()


async def resume(scene: Scene) -> None:
    await scene.client.gateways.ResumeGateway(gateway_service_pb2.ResumeGatewayRequest())


async def come_back_live(scene: Scene) -> None:
    await scene.simulator.stop_listening()
    settings = SimulatorSettings(port=scene.simulator.port, accounts=("U7654321",))
    await scene.later.enter_async_context(SimulatedGateway(settings))
    scene.simulator.drop()


async def acknowledge(scene: Scene) -> None:
    ask = pb.AcknowledgeDataRequest(session_id=scene.session.session_id, generation=1)
    await scene.client.sessions.AcknowledgeData(ask)


# -- what is told ----------------------------------------------------------------


def moved(name: str) -> Seen:
    return lambda event: event.HasField("transition") and _state(event.transition.to) == name


def condition(kind: str, status: str) -> Seen:
    return lambda event: (event.condition.type, _status(event.condition)) == (kind, status)


def tried(reason: str) -> Seen:
    return lambda event: event.attempt.failure.reason == reason


def continues(event: Event) -> bool:
    """The last that is told of a link that was made anew."""
    return bool(event.condition.reason == "NEW_GENERATION")


def _state(value: int) -> str:
    return session_pb2.SessionState.Name(value).removeprefix("SESSION_STATE_")


def _status(item: session_pb2.Condition) -> str:
    return session_pb2.ConditionStatus.Name(item.status).removeprefix("CONDITION_STATUS_")


@dataclass(frozen=True)
class Case:
    """One fault: it is noticed, it ends once ``until`` was told, and all is well (or over)
    when ``over`` was told.
    """

    what: str
    begin: Act
    noticed: Seen
    over: Seen
    until: Seen | None = None
    end: Act | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    budget: float | None = None
    """Seconds within which the watcher must know."""


def lost(what: str, begin: Act, **more: Any) -> Case:
    """A fault that costs the link."""
    return Case(what, begin, moved("RECONNECTING"), more.pop("over", continues), **more)


def told(what: str, code: int, kind: str, end: int, **more: Any) -> Case:
    """A fault that the Gateway tells of, and of whose end it tells, too."""
    wrong = condition(kind, "FALSE")
    return Case(
        what, notify(code), wrong, condition(kind, "TRUE"), wrong, notify(end), budget=1.0, **more
    )


CASES: Final = (
    lost("the Gateway closes the connection (FIN)", drop(), budget=1.0),
    lost("the Gateway resets the connection (RST)", drop(reset=True), budget=1.0),
    lost("cut off within a message", drop(mid_message=True), budget=1.0),
    lost(
        "the Gateway hangs, then answers again",
        hang,
        until=tried("IB_CONN_003"),
        end=answer_again,
        settings={"timeout": 1.0},
        budget=INTERVAL + TIMEOUT + 1.0,
    ),
    lost("error 1300: its port was changed, and at once changed back", port_changed, budget=1.0),
    lost("error 100, then FIN: too many messages", rate_exceeded, budget=1.0),
    lost("the id is held for the lost link (error 326) for 1 s", leave_a_ghost, budget=1.0),
    lost(
        "the port is closed, then open again",
        go_away,
        until=tried("IB_CONN_001"),
        end=come_back,
        budget=1.0,
    ),
    Case(
        "nightly restart: error 1100, RST, 0.5 s down, then error 10141 twice",
        restart,
        condition("UPSTREAM", "FALSE"),
        continues,
        settings={"auth_grace": 30.0},
        budget=1.0,
    ),
    lost(
        "the link is lost while the gateway is drained, then it is resumed",
        drop_while_drained,
        until=moved("RECONNECTING"),
        end=resume,
        budget=1.0,
    ),
    lost(
        "the Gateway comes back with a live account, declared paper",
        come_back_live,
        over=moved("FAILED"),
        settings={"kind": "paper"},
        budget=1.0,
    ),
    told("error 1100, then 1102", 1100, "UPSTREAM", 1102),
    Case(
        "error 1101, then the owner acknowledges",
        notify(1101),
        condition("DATA_CONTINUOUS", "FALSE"),
        condition("DATA_CONTINUOUS", "TRUE"),
        condition("DATA_CONTINUOUS", "FALSE"),
        acknowledge,
        budget=1.0,
    ),
    told("error 2110, then 1102", 2110, "UPSTREAM", 1102),
    told("error 2103, then 2104", 2103, "MARKET_DATA_FARM", 2104),
    told("error 2105, then 2106", 2105, "HISTORICAL_DATA_FARM", 2106),
    told("error 2105, then 2107", 2105, "HISTORICAL_DATA_FARM", 2107),
    told("error 2157, then 2158", 2157, "SECDEF_FARM", 2158),
    Case(
        "error 321: the API is read-only",
        notify((321, READ_ONLY)),
        condition("WRITABLE", "FALSE"),
        condition("WRITABLE", "FALSE"),
        budget=1.0,
    ),
    Case(
        "error 10197: the login is used elsewhere",
        notify(10197),
        condition("NO_COMPETING_LOGIN", "FALSE"),
        condition("NO_COMPETING_LOGIN", "FALSE"),
        budget=1.0,
    ),
)

COLUMNS: Final = (
    "what happens",
    "states",
    "what the watcher is told, in this order",
    "what it says of it",
    "told after",
    "well again after",
)
MEASURED: Final = 2
"""How many columns, the last ones, are times."""

HEADER: Final = f"""# Faults while connected

What happens to a session whose Gateway goes wrong after the handshake. The session keeps its
session_id and its client id in all of this, and nobody has to open another, unless it says
FAILED. Each row is provoked on real sockets by `tests/integration/test_fault_matrix.py`, from
which this page is made.

An attempt that is told once may have been made several times. Times are of one run on one
machine, with a heartbeat after {INTERVAL:g} s of silence that may take {TIMEOUT:g} s, and dials
0.05 to 0.2 s apart (defaults: 10 s, 5 s, and 1 to 32 s). "Well again" counts from the end of the
fault, or from when it was told if the fault ended by itself.

"""

rows: dict[str, str] = {}
"""What this run has found, by ``Case.what``."""


def line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def without_times(row: str) -> str:
    return row.rsplit("|", MEASURED + 1)[0].strip()


def describe(event: Event) -> str:
    """An event in a few words."""
    match event.WhichOneof("change"):
        case "transition":
            to, reason = _state(event.transition.to), event.transition.reason
            if event.session.state == CONNECTED:
                return f"{to} ({reason})"
            return f"{to} ({reason}, {_code(event.session.last_failure)})"
        case "attempt":
            return f"attempt ({_code(event.attempt.failure)})"
        case "condition":
            item = event.condition
            name = "/".join(filter(None, (item.type, item.subject)))
            return f"{name} {_status(item)} ({item.reason})"
        case "notice":
            return f"notice {event.notice.reason}"
    raise AssertionError(event)


def _code(failure: error_pb2.ConnectionFailure) -> str:
    return failure.reason + (f", error {failure.tws_code}" if failure.tws_code else "")


def words(event: Event) -> str:
    """How its advice begins, or the Gateway's own words."""
    match event.WhichOneof("change"):
        case "transition" if event.session.state != CONNECTED:
            text = event.session.last_failure.hint
        case "attempt":
            text = event.attempt.failure.hint
        case "condition":
            text = event.condition.message
        case _:
            return ""
    return text if len(text) <= WORDS else text[:WORDS].rpartition(" ")[0] + " …"


def duration(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.what)
async def test_a_fault_is_told_in_time_and_got_over_as_documented(
    simulator: SimulatedGateway, database_url: str, case: Case
) -> None:
    simulator.configure(hold_after_reset=0.0)
    settings = {
        "heartbeat_interval": INTERVAL,
        "heartbeat_timeout": TIMEOUT,
        "circuit_breaker_failure_threshold": 1000,
        **case.settings,
    }
    async with (
        serving(simulator, database_url, gateway_changes=settings) as client,
        contextlib.AsyncExitStack() as later,
    ):
        session = await client.open(client_id=7)
        watch = Watch(client)
        await watch.snapshot()
        scene = Scene(client, simulator, session, watch, later)
        begin = time.monotonic()
        await case.begin(scene)
        noticed = ended = await scene.told(case.noticed)
        if case.end is not None:
            assert case.until is not None
            await scene.told(case.until)
            ended = time.monotonic()
            await case.end(scene)
        over = await scene.told(case.over)
        assert case.budget is None or noticed - begin <= case.budget
    events = [event for _, event in scene.events]
    assert {event.session.client_id for event in events} == {7}
    for event in events:
        if event.session.state == RECONNECTING:
            assert event.session.last_failure.hint
            assert event.session.HasField("next_attempt_time") or "drain" in case.what
    row = _row(case, events, noticed - begin, over - ended)
    rows[case.what] = row
    if not UPDATE:
        page = [without_times(entry) for entry in DOCUMENT.read_text("utf-8").splitlines()]
        assert without_times(row) in page, "stale; see this module's first lines"


def _row(case: Case, events: list[Event], noticed: float, over: float) -> str:
    path = " → ".join(
        ["CONNECTED"] + [_state(e.transition.to) for e in events if e.HasField("transition")]
    )
    well = case.end is not None or continues(events[-1])
    return line(
        case.what,
        path,
        "<br>".join(dict.fromkeys(describe(event) for event in events)),
        "<br>".join(dict.fromkeys(filter(None, map(words, events)))),
        duration(noticed),
        duration(over) if well else "-",
    )


def test_the_page_of_faults_has_just_these_rows() -> None:
    if UPDATE:
        table = [line(*COLUMNS), "|" + "---|" * len(COLUMNS), *(rows[c.what] for c in CASES)]
        DOCUMENT.write_text(HEADER + "\n".join(table) + "\n", encoding="utf-8")
    text = DOCUMENT.read_text(encoding="utf-8")
    assert text.startswith(HEADER), "stale; see this module's first lines"
    title, rule, *found = text.removeprefix(HEADER).splitlines()
    assert title == line(*COLUMNS)
    assert rule.count("|") == len(COLUMNS) + 1
    assert [row.split(" | ")[0].removeprefix("| ") for row in found] == [c.what for c in CASES]


async def test_all_are_back_within_the_probers_wait_and_two_seconds(
    simulator: SimulatedGateway, database_url: str
) -> None:
    settings = {"retry_initial_delay": 0.1, "retry_max_delay": 2.0, "handshake_spacing": 0.05}
    async with serving(simulator, database_url, gateway_changes=settings) as client:
        sessions = [await client.open() for _ in range(10)]
        await simulator.stop_listening()
        simulator.drop()

        async def all_wait() -> bool:
            left = await client.list(states=[RECONNECTING])
            return len(left) == 10 and all(session.attempt >= 5 for session in left)

        await eventually(all_wait, LIMIT)
        await simulator.start_listening()
        begin, now = time.monotonic(), time.time()
        answer = await client.gateways.GetGateway(gateway_service_pb2.GetGatewayRequest())
        due = answer.gateway.next_attempt_time.ToNanoseconds() / 1e9
        assert due > now - 0.1, "the prober says when it dials"

        async def all_back() -> bool:
            left = await client.list(states=[CONNECTED])
            return {item.session_id for item in left} == {item.session_id for item in sessions}

        await eventually(all_back, LIMIT)
        assert time.monotonic() - begin <= max(due - now, 0.0) + 2.0
