"""Every way in which a connect fails, on real sockets: told apart, quickly, and leaving nothing.

``docs/connect-faults.md`` is made from the cases below. To write it anew:
``UPDATE_DOCS=1 pytest tests/integration/test_connector.py -k documented``
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from broker.errors import ErrorCode, GatewayError, Phase
from broker.gateway.base import Link, Notice
from broker.gateway.fault_table import FAULTS, Symptom
from broker.gateway.ib import IBConnector
from broker.simulator.faults import Fault
from broker.simulator.gateway import SimulatedGateway, SimulatorSettings
from tests.integration.scripted_peer import (
    START,
    Do,
    ScriptedPeer,
    Step,
    full_backlog,
    message,
    nothing_listens,
    notice,
    on_both_loops,
)

DOCUMENT: Final = Path(__file__).parents[2] / "docs" / "connect-faults.md"
IN_USE: Final = "Unable to connect as the client id is already in use"
DISCLAIMER: Final = "Paper trading disclaimer must first be accepted for API connection"

AT_ONCE: Final = "milliseconds"
AT_TIMEOUT: Final = "the timeout"
TIMEOUT: Final = 0.5
"""Given to attempts that use it up; the others get ten times as much and must not need it."""


async def connect(
    port: int, host: str = "127.0.0.1", *, timeout: float = 5, notices: list[Notice] | None = None
) -> Link:
    """Connect as client 7."""
    seen = [] if notices is None else notices
    return await IBConnector().connect(
        host=host, port=port, client_id=7, timeout=timeout, on_notice=seen.append
    )


@contextlib.asynccontextmanager
async def no_such_name() -> AsyncIterator[tuple[str, int]]:
    """A name that cannot exist, by RFC 6761."""
    yield "gateway.invalid", 4002


def simulated(fault: Fault) -> Callable[[], AbstractAsyncContextManager[tuple[str, int]]]:
    """The simulated Gateway with a fault."""

    @contextlib.asynccontextmanager
    async def gateway() -> AsyncIterator[tuple[str, int]]:
        async with SimulatedGateway(SimulatorSettings()) as sim:
            sim.arm(fault)
            yield "127.0.0.1", sim.port

    return gateway


def scripted(*script: Step) -> Callable[[], AbstractAsyncContextManager[tuple[str, int]]]:
    """A peer that plays the script, and that must see the connection end."""

    @contextlib.asynccontextmanager
    async def peer() -> AsyncIterator[tuple[str, int]]:
        async with ScriptedPeer(*script) as server:
            yield "127.0.0.1", server.port
            if Do.DEAF not in script:
                await server.all_ended()

    return peer


@dataclass(frozen=True)
class Case:
    """One thing that is wrong with a Gateway, and what the connector makes of it."""

    wrong: str
    symptom: Symptom
    known: str
    place: Callable[[], AbstractAsyncContextManager[tuple[str, int]]]
    after: float = 0.0
    tws_code: int = 0


CASES: Final = (
    Case("nothing listens on the port", Symptom.REFUSED, AT_ONCE, nothing_listens),
    Case("the host name does not exist", Symptom.UNKNOWN_HOST, AT_ONCE, no_such_name),
    Case(
        "packets are dropped, or the listener's queue is full",
        Symptom.SILENT_TCP,
        AT_TIMEOUT,
        full_backlog,
    ),
    Case(
        "accepts, then silence",
        Symptom.SILENT_HANDSHAKE,
        AT_TIMEOUT,
        simulated(Fault.SILENT_AFTER_ACCEPT),
    ),
    Case("accepts, then silence, deaf", Symptom.SILENT_HANDSHAKE, AT_TIMEOUT, scripted(Do.DEAF)),
    Case(
        "accepts, then FIN",
        Symptom.CLOSED_IN_HANDSHAKE,
        AT_ONCE,
        simulated(Fault.CLOSE_AFTER_ACCEPT),
    ),
    Case("FIN before it reads", Symptom.CLOSED_IN_HANDSHAKE, AT_ONCE, scripted(Do.FIN)),
    Case(
        "accepts, then RST",
        Symptom.CLOSED_IN_HANDSHAKE,
        AT_ONCE,
        simulated(Fault.RESET_AFTER_ACCEPT),
    ),
    Case(
        "half of the version reply, then FIN",
        Symptom.CLOSED_IN_HANDSHAKE,
        AT_ONCE,
        simulated(Fault.CUT_VERSION_REPLY),
    ),
    Case("garbage", Symptom.NOT_TWS, AT_ONCE, simulated(Fault.GARBAGE)),
    Case("a web server", Symptom.NOT_TWS, AT_ONCE, simulated(Fault.HTTP)),
    Case("a greeting without NULs, framed", Symptom.NOT_TWS, AT_ONCE, scripted(b"\0\0\0\5hello")),
    Case("a frame longer than any", Symptom.NOT_TWS, AT_ONCE, scripted(Do.READ_HELLO, b"\1\0\0\0")),
    Case(
        "garbage that says it is short, then nothing",
        Symptom.SILENT_HANDSHAKE,
        AT_TIMEOUT,
        scripted(b"\0\0\1\0abc"),
    ),
    Case("server version 100", Symptom.TOO_OLD, AT_ONCE, simulated(Fault.OLD_SERVER_VERSION)),
    Case(
        "version, then FIN",
        Symptom.CLOSED_AFTER_START_API,
        AT_ONCE,
        simulated(Fault.CLOSE_AFTER_VERSION),
    ),
    Case(
        "FIN at once after startApi",
        Symptom.CLOSED_AFTER_START_API,
        AT_ONCE,
        simulated(Fault.CLOSE_AFTER_START),
    ),
    Case(
        "FIN 4 ms after startApi",
        Symptom.CLOSED_AFTER_START_API,
        AT_ONCE,
        simulated(Fault.CLOSE_AFTER_START_4_MS),
    ),
    Case(
        "FIN 500 ms after startApi",
        Symptom.CLOSED_AFTER_START_API,
        AT_ONCE + ", after the FIN",
        simulated(Fault.CLOSE_AFTER_START_500_MS),
        after=0.5,
    ),
    Case("RST after startApi", Symptom.CLOSED_AFTER_START_API, AT_ONCE, scripted(*START, Do.RESET)),
    Case(
        "a nextValidId that cannot be read",
        Symptom.UNREADABLE,
        AT_ONCE,
        scripted(*START, message(9, "x")),
    ),
    Case(
        "error 326, then FIN",
        Symptom.CLIENT_ID_IN_USE,
        AT_ONCE,
        simulated(Fault.CLIENT_ID_IN_USE),
        tws_code=326,
    ),
    Case(
        "error 326, FIN 500 ms later",
        Symptom.CLIENT_ID_IN_USE,
        AT_ONCE,
        simulated(Fault.CLIENT_ID_IN_USE_CLOSE_500_MS),
        tws_code=326,
    ),
    Case(
        "error 326, then silence",
        Symptom.CLIENT_ID_IN_USE,
        AT_ONCE,
        simulated(Fault.CLIENT_ID_IN_USE_NO_CLOSE),
        tws_code=326,
    ),
    Case(
        "error 326, deaf to our FIN",
        Symptom.CLIENT_ID_IN_USE,
        AT_ONCE,
        scripted(*START, notice(326, IN_USE), Do.DEAF),
        tws_code=326,
    ),
    Case(
        "error 326 500 ms after startApi",
        Symptom.CLIENT_ID_IN_USE,
        AT_ONCE + ", after the error",
        scripted(*START, 0.5, notice(326, IN_USE), Do.FIN),
        after=0.5,
        tws_code=326,
    ),
    Case(
        "error 10141, then FIN",
        Symptom.DISCLAIMER,
        AT_ONCE,
        simulated(Fault.PAPER_DISCLAIMER),
        tws_code=10141,
    ),
    Case(
        "error 10141 several times, no close",
        Symptom.DISCLAIMER,
        AT_ONCE,
        scripted(*START, notice(10141, DISCLAIMER) * 4),
        tws_code=10141,
    ),
    Case(
        "an empty account list",
        Symptom.NO_ACCOUNTS,
        "5 s",
        simulated(Fault.EMPTY_ACCOUNTS),
        after=5,
    ),
    Case(
        "startApi unanswered",
        Symptom.SILENT_START_API,
        AT_TIMEOUT,
        simulated(Fault.SILENT_AFTER_START),
    ),
    Case("no nextValidId", Symptom.SILENT_START_API, AT_TIMEOUT, simulated(Fault.NO_NEXT_VALID_ID)),
    Case(
        "no managedAccounts",
        Symptom.SILENT_START_API,
        AT_TIMEOUT,
        simulated(Fault.NO_MANAGED_ACCOUNTS),
    ),
    Case(
        "error 1300, then FIN",
        Symptom.PORT_CHANGED,
        AT_ONCE,
        scripted(*START, notice(1300, "Please reconnect on the new port - 4005"), Do.FIN),
        tws_code=1300,
    ),
    Case(
        "error 100, then FIN",
        Symptom.RATE_EXCEEDED,
        AT_ONCE,
        scripted(*START, notice(100, "Max rate of messages per second has been exceeded"), Do.FIN),
        tws_code=100,
    ),
)

REQUIREMENT: Final = {ErrorCode.AUTHENTICATION: "AC-004", ErrorCode.TIMEOUT: "AC-006"}


def proving(case: Case) -> object:
    """Mark the case with the requirement that it proves."""
    requirement = REQUIREMENT.get(FAULTS[case.symptom].error.code)
    return pytest.param(
        case, id=case.wrong, marks=[pytest.mark.requirement(requirement)] if requirement else []
    )


@pytest.mark.parametrize("case", [proving(case) for case in CASES])
@on_both_loops
async def test_a_failed_connect_is_told_apart_as_soon_as_the_wire_tells(case: Case) -> None:
    loop = asyncio.get_running_loop()
    at_timeout = case.known == AT_TIMEOUT
    async with case.place() as (host, port):
        began = loop.time()
        with pytest.raises(GatewayError) as caught:
            await connect(port, host, timeout=TIMEOUT if at_timeout else TIMEOUT * 10 + case.after)
        took = loop.time() - began
    row, error = FAULTS[case.symptom], caught.value
    if case.symptom is Symptom.UNKNOWN_HOST:  # without a name server, the resolver cannot know
        assert error.metadata["symptom"] in (Symptom.UNKNOWN_HOST, Symptom.RESOLVER_DOWN)
    else:
        assert error.metadata["symptom"] == case.symptom
    assert error.code is row.error.code
    assert error.tws_code == case.tws_code
    assert error.answered is row.answered
    assert error.phase is phase_of(case)
    assert error.hint
    expected = TIMEOUT if at_timeout else case.after
    assert expected - 0.05 <= took < expected + 1


NOT_PROVOKED: Final = {
    Symptom.RESET: ("RST while dialling", AT_ONCE),
    Symptom.UNREACHABLE: ("no route to the host", AT_ONCE),
    Symptom.KERNEL_TIMEOUT: ("the kernel gives up dialling", "minutes, if the timeout is longer"),
    Symptom.RESOLVER_DOWN: ("no name server answers", "the resolver's timeout"),
    Symptom.DIAL_FAILED: ("the broker's host cannot dial", AT_ONCE),
    Symptom.OWN_GHOST: ("error 326 for an id that was the session's own", AT_ONCE),
    Symptom.WRONG_KIND: ("live accounts on a paper gateway, or the reverse", AT_ONCE),
}

WHILE_CONNECTED: Final = {Symptom.OWN_GHOST}
"""What only a session meets that had a link: see faults-while-connected.md."""


def phase_of(case: Case) -> Phase:
    """Where a connect fails; rows of a link keep their symptom but happen earlier here."""
    phase = FAULTS[case.symptom].phase
    return Phase.START_API if phase is Phase.CONNECTED else phase


def test_connect_faults_are_documented_as_they_are() -> None:
    text = document()
    if os.environ.get("UPDATE_DOCS"):
        DOCUMENT.write_text(text, encoding="utf-8")
    assert DOCUMENT.read_text(encoding="utf-8") == text, "stale; see this module's first lines"


def document() -> str:
    """The table of connect faults, with those that cannot be provoked on one machine at its end."""
    lines = [
        "# Connect faults",
        "",
        "What can be wrong with a Gateway when a session connects, and what the caller is told.",
        "Each row is provoked on real sockets by `tests/integration/test_connector.py`, from which",
        "this page is made; only those marked * are not: one machine alone cannot provoke them, or",
        "it takes a whole session to tell.",
        "",
        "| what is wrong | code | phase | known after | message and hint |",
        "|---|---|---|---|---|",
    ]

    def line(wrong: str, symptom: Symptom, phase: Phase, known: str) -> str:
        code = FAULTS[symptom].error.code.reason
        return f"| {wrong} | {code} | {phase} | {known} | [{symptom}](#{symptom}) |"

    lines += [line(case.wrong, case.symptom, phase_of(case), case.known) for case in CASES]
    run = {case.symptom for case in CASES}
    lines += [
        line(wrong + " *", symptom, FAULTS[symptom].phase, known)
        for symptom, (wrong, known) in NOT_PROVOKED.items()
    ]
    assert not [
        symptom
        for symptom, row in FAULTS.items()
        if row.phase in (Phase.TCP, Phase.HANDSHAKE, Phase.START_API)
        and symptom not in run | NOT_PROVOKED.keys() | WHILE_CONNECTED
    ], "a connect fault is missing from this page"
    lines += ["", "## What the caller is told", ""]
    for symptom, row in FAULTS.items():
        code = f" Error {row.tws_code} of the Gateway." if row.tws_code else ""
        lines += [
            f"### {symptom}",
            "",
            f"{row.error.code.reason}: `{row.message}`{code}",
            "",
            row.hint,
            "",
        ]
    return "\n".join(lines)
