"""What `gateways explain` answers at 3 a.m., for each fault that the documentation lists."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest
from ibgateway.broker.v1 import gateway_pb2, gateway_service_pb2
from ibgateway.broker.v1 import session_service_pb2 as pb

from broker.simulator.faults import Fault
from broker.simulator.gateway import SimulatedGateway, SimulatorSettings
from broker.simulator.restart import Restart
from tests.harness import CONNECTED, CONNECTING, FAILED, RECONNECTING, Client, eventually, serving
from tests.integration.test_database_away import away
from tests.program import ask

PATIENT: dict[str, Any] = {
    "timeout": 1.5,
    "heartbeat_interval": 1.2,
    "heartbeat_timeout": 0.3,
    "retry_initial_delay": 30.0,
    "retry_max_delay": 30.0,
    "auth_grace": 300.0,
    "kind": "paper",
}
"""An attempt fails soon, though not because the machine is slow, and the next one is far away:
there is time to ask.
"""

EXACT = pb.CLIENT_ID_POLICY_EXACT


@dataclass(frozen=True)
class Told:
    """What the answer must say."""

    status: str
    code: str
    phase: str
    acts: str
    hint: str
    waits: bool = True
    """Whether the session that was opened still waits; else it has FAILED."""


STUCK = "Whoever can see the Gateway's screen."
PASSING = "Nobody yet if it is restarting; if it lasts for minutes, whoever runs it."
OPERATOR = "An operator, unless it is just starting."
HOLDER = "Whoever holds the client id"
HUMAN = "A human at the Gateway"

CAUSES = "Three causes look the same on the wire"
LIMIT = "has reached its limit of 32 clients"
ALIEN = "Another program listens on that port."
HANGS = "A Gateway that hangs needs a restart"
STARTS = "The Gateway is up but has not finished its own login"
HELD = "Another client holds the id"

FAULTS = {
    Fault.SILENT_AFTER_ACCEPT: Told("DOWN", "IB_CONN_003", "handshake", STUCK, HANGS),
    Fault.CLOSE_AFTER_ACCEPT: Told("DOWN", "IB_CONN_001", "handshake", OPERATOR, CAUSES),
    Fault.RESET_AFTER_ACCEPT: Told("DOWN", "IB_CONN_001", "handshake", OPERATOR, CAUSES),
    Fault.GARBAGE: Told("DOWN", "IB_CONN_001", "handshake", OPERATOR, ALIEN),
    Fault.HTTP: Told("DOWN", "IB_CONN_001", "handshake", OPERATOR, ALIEN),
    Fault.OLD_SERVER_VERSION: Told(
        *("REFUSING", "IB_CONN_006", "handshake", "Whoever can upgrade", "is too old"), waits=False
    ),
    Fault.CUT_VERSION_REPLY: Told("DOWN", "IB_CONN_001", "handshake", OPERATOR, CAUSES),
    Fault.CLOSE_AFTER_VERSION: Told("REFUSING", "IB_CONN_001", "start_api", PASSING, LIMIT),
    Fault.CLOSE_AFTER_START: Told("REFUSING", "IB_CONN_001", "start_api", PASSING, LIMIT),
    Fault.CLOSE_AFTER_START_4_MS: Told("REFUSING", "IB_CONN_001", "start_api", PASSING, LIMIT),
    Fault.CLOSE_AFTER_START_500_MS: Told("REFUSING", "IB_CONN_001", "start_api", PASSING, LIMIT),
    Fault.SILENT_AFTER_START: Told("REFUSING", "IB_CONN_003", "start_api", STUCK, STARTS),
    Fault.CLIENT_ID_IN_USE: Told("REFUSING", "IB_CONN_002", "start_api", HOLDER, HELD),
    Fault.CLIENT_ID_IN_USE_CLOSE_500_MS: Told("REFUSING", "IB_CONN_002", "start_api", HOLDER, HELD),
    Fault.CLIENT_ID_IN_USE_NO_CLOSE: Told("REFUSING", "IB_CONN_002", "start_api", HOLDER, HELD),
    Fault.PAPER_DISCLAIMER: Told(
        "REFUSING", "IB_CONN_005", "start_api", HUMAN, "must accept the paper trading disclaimer"
    ),
    Fault.EMPTY_ACCOUNTS: Told(
        *("REFUSING", "IB_CONN_005", "start_api", HUMAN, "not fully logged in"), waits=False
    ),
    Fault.NO_MANAGED_ACCOUNTS: Told("REFUSING", "IB_CONN_003", "start_api", STUCK, STARTS),
    Fault.NO_NEXT_VALID_ID: Told("REFUSING", "IB_CONN_003", "start_api", STUCK, STARTS),
}
HARMLESS = {Fault.NEWS_BEFORE_VERSION, Fault.SPLIT_SEGMENTS, Fault.ONE_SEGMENT}


def flat(text: str) -> str:
    return " ".join(text.split())


async def explained(client: Client) -> str:
    said = await ask("gateways", "explain", "--broker", client.running.grpc_address)
    assert (said.code, said.err) == (0, "")
    return flat(said.out)


def test_every_fault_of_the_connect_phase_is_explained() -> None:
    assert set(Fault) == FAULTS.keys() | HARMLESS


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.label)
async def test_a_fault_of_the_connect_phase_is_named_with_who_must_act(
    simulator: SimulatedGateway, database_url: str, fault: Fault
) -> None:
    wanted = FAULTS[fault]
    async with serving(simulator, database_url, gateway_changes=PATIENT) as client:
        simulator.arm(fault)
        session = await client.open(
            client_id=7, client_id_policy=EXACT, return_immediately=True, max_attempts=100
        )

        async def failed() -> bool:
            now = await client.get(session.session_id)
            return now.attempt > 0 if wanted.waits else now.state == FAILED

        await eventually(failed, timeout=20)
        said = await explained(client)
    assert {"DOWN": "is DOWN: it does not answer", "REFUSING": "is REFUSING: it answers"}[
        wanted.status
    ] in said
    assert f"Why {wanted.code} in phase {wanted.phase}" in said
    assert f"Who acts {wanted.acts}" in said
    assert wanted.hint in said
    who = f"{session.session_id[:8]} (client 7"
    if wanted.waits:
        assert re.search(
            rf"Since \d{{4}}-.* ago\): session {re.escape(who)}\) was asked for then", said
        )
        assert "not CONNECTED yet; 1 attempt has failed since" in said
        assert re.search(r"Next It is dialled again at \d{4}-\S+ \S+, in \d+ s;", said)
        assert f"The only one suffers: {who}, local) is CONNECTING for" in said
    else:
        assert "No session waits for it: it is dialled when one is opened." in said
        assert "No session uses it." in said


@pytest.mark.parametrize("fault", sorted(HARMLESS, key=str), ids=lambda fault: fault.label)
async def test_what_does_no_harm_is_none(client: Client, simulator: SimulatedGateway, fault: Fault):
    simulator.arm(fault)
    await client.open(client_id=7)
    said = await explained(client)
    assert re.search(r"is UP: it last answered at .* ago\), with server version 178\.", said)
    assert "Who acts Nobody." in said
    assert "1 session is CONNECTED; none suffers." in said
    assert "Why" not in said


async def test_a_gateway_that_nobody_has_tried_is_not_called_down(client: Client) -> None:
    said = await explained(client)
    assert "is not known yet: no attempt to reach it has ended." in said
    assert "No session uses it." in said


async def test_a_refused_connection_opens_the_circuit_and_both_are_told(
    simulator: SimulatedGateway, database_url: str
) -> None:
    changes = {**PATIENT, "circuit_breaker_failure_threshold": 1}
    async with serving(simulator, database_url, gateway_changes=changes) as client:
        await simulator.stop_listening()
        await client.open(client_id=7, return_immediately=True)

        async def is_refused() -> bool:
            return "CIRCUIT_OPEN" in await explained(client)

        await eventually(is_refused, timeout=20)
        said = await explained(client)
    assert "is DOWN: it does not answer" in said
    assert "Why IB_CONN_001 in phase tcp" in said
    assert "after 1 failure in a row, until a trial at " in said
    assert "`gateway-broker gateways reset-breaker default` saves the wait." in said


Act = Callable[[Client, SimulatedGateway], Awaitable[object]]


async def close(client: Client, simulator: SimulatedGateway) -> None:
    await simulator.stop_listening()
    simulator.drop()


async def mute(client: Client, simulator: SimulatedGateway) -> None:
    simulator.mute(True)


async def hold(client: Client, simulator: SimulatedGateway) -> None:
    simulator.ghost(7, 60)
    simulator.drop(reset=True)


async def restart(client: Client, simulator: SimulatedGateway) -> None:
    simulator.start_restart(Restart(notices=1, down=60))


async def change_port(client: Client, simulator: SimulatedGateway) -> None:
    await simulator.stop_listening()
    simulator.reset_port(4003)


async def flood(client: Client, simulator: SimulatedGateway) -> None:
    await simulator.stop_listening()
    simulator.notify(100, "Max rate of messages per second has been exceeded:max=50 rec=51 (3)")
    simulator.drop()


LOSSES = {
    "closed": (
        close,
        "IB_CONN_001: .* closed the connection",
        ["DOWN", "IB_CONN_001 in phase tcp"],
    ),
    "hung": (mute, "IB_CONN_003: .* did not answer", ["IB_CONN_003 in phase", STUCK]),
    "held": (hold, "IB_CONN_001: .* reset the", ["REFUSING", "IB_CONN_002", "Nobody needs to act"]),
    "restarts": (restart, "IB_CONN_001: .* reset the", ["DOWN", "refused the connection", PASSING]),
    "moved": (
        change_port,
        "IB_CONN_001: .* now listens on port 4003",
        ["DOWN", "must set the new port"],
    ),
    "rated": (flood, "IB_CONN_001: .* too many messages a second", ["DOWN", "fewer messages"]),
}


@pytest.mark.parametrize("name", LOSSES)
async def test_a_session_that_lost_its_link_says_since_when_and_how(
    simulator: SimulatedGateway, database_url: str, name: str
) -> None:
    act, how, says = LOSSES[name]
    changes = {**PATIENT, "retry_initial_delay": 1.0, "retry_jitter": 0.0}
    async with serving(simulator, database_url, gateway_changes=changes) as client:
        session = await client.open(client_id=7, client_id_policy=EXACT)
        await act(client, simulator)

        async def has_tried() -> bool:
            now = await client.get(session.session_id)
            return now.state == RECONNECTING and now.error_count > 1

        await eventually(has_tried, timeout=20)
        said = await explained(client)
    lost = rf"Since \d{{4}}-.*: session {session.session_id[:8]} \(client 7\) lost its link then \("
    assert re.search(rf"{lost}{how}.*\); 1 attempt has failed since\.", said)
    for words in says:
        assert words in said
    assert "is RECONNECTING for" in said


async def test_a_link_that_was_just_lost_is_not_called_refused(
    simulator: SimulatedGateway, database_url: str
) -> None:
    async with serving(simulator, database_url, gateway_changes=PATIENT) as client:
        session = await client.open(client_id=7)
        simulator.drop()

        async def is_lost() -> bool:
            return (await client.get(session.session_id)).state == RECONNECTING

        await eventually(is_lost)
        said = await explained(client)
    assert "has LOST the links of all its sessions, and none is back." in said
    assert "Why IB_CONN_001 in phase connected" in said
    assert re.search(r"It is dialled again at \d{4}-\S+ \S+, in \d+ s", said)


async def test_a_link_that_was_lost_does_not_condemn_the_others(
    simulator: SimulatedGateway, database_url: str
) -> None:
    async with serving(simulator, database_url, gateway_changes=PATIENT) as client:
        session = await client.open(client_id=7)
        await client.open(client_id=8)
        simulator.drop(client_id=7)

        async def is_lost() -> bool:
            return (await client.get(session.session_id)).state == RECONNECTING

        await eventually(is_lost)
        said = await explained(client)
    assert "is UP, but 1 session is without a link." in said
    assert "Who acts Nobody yet: a session that lost its link dials by itself." in said
    assert f"1 of 2 suffers: {session.session_id[:8]} (client 7, local) is RECONNECTING" in said


@pytest.mark.parametrize(
    ("code", "fact"),
    [
        (1100, "UPSTREAM is FALSE (1100)"),
        (2110, "UPSTREAM is FALSE (2110)"),
        (2103, "MARKET_DATA_FARM/usfarm is FALSE (2103)"),
        (2105, "HISTORICAL_DATA_FARM/ushmds is FALSE (2105)"),
        (2157, "SECDEF_FARM/secdefil is FALSE (2157)"),
        (10197, "NO_COMPETING_LOGIN is FALSE (10197)"),
        (1101, "DATA_CONTINUOUS is FALSE (1101)"),
    ],
)
async def test_trouble_behind_a_gateway_that_is_up_is_told_as_such(
    client: Client, simulator: SimulatedGateway, code: int, fact: str
) -> None:
    session = await client.open(client_id=7)
    simulator.notify(code)

    async def is_noticed() -> bool:
        return "not all is well" in await explained(client)

    await eventually(is_noticed, timeout=20)
    said = await explained(client)
    assert f"Why {fact}" in said
    owner = "Who acts local subscribes anew" if code == 1101 else "Who acts Nobody at the broker"
    assert owner in said
    acknowledge = f"gateway-broker sessions acknowledge {session.session_id}"
    assert (acknowledge in said) == (code == 1101)


async def test_a_wrong_kind_of_account_is_for_whoever_configures(
    database_url: str,
) -> None:
    settings = SimulatorSettings(host="127.0.0.1", port=0, accounts=("U7654321",))
    async with (
        SimulatedGateway(settings) as live,
        serving(live, database_url, gateway_changes=PATIENT) as client,
    ):
        session = await client.open(client_id=7, return_immediately=True)

        async def failed() -> bool:
            return (await client.get(session.session_id)).state == FAILED

        await eventually(failed)
        said = await explained(client)
    assert "is REFUSING" in said
    assert "Why IB_CONN_005 in phase start_api" in said
    assert "or whoever configures the broker" in said


async def test_a_drained_gateway_names_who_drains_it_and_how_it_comes_back(
    client: Client, simulator: SimulatedGateway
) -> None:
    await client.open(client_id=7)
    await client.gateways.DrainGateway(gateway_service_pb2.DrainGatewayRequest(reason="upgrade"))
    said = await explained(client)
    assert re.search(
        r"is DRAINED: local takes it out of use, since .* ago\): upgrade; it answered", said
    )
    assert "until `gateway-broker gateways resume default`." in said
    assert "Who acts local, or another operator, by resuming it." in said
    assert "dialled again" not in said


async def test_in_a_maintenance_window_nobody_must_act(
    simulator: SimulatedGateway, database_url: str
) -> None:
    changes = {**PATIENT, "maintenance": ["00:00-23:59 UTC", "23:58-00:01 UTC"]}
    async with serving(simulator, database_url, gateway_changes=changes) as client:
        await simulator.stop_listening()
        session = await client.open(client_id=7, return_immediately=True)

        async def failed() -> bool:
            return (await client.get(session.session_id)).attempt > 0

        await eventually(failed)
        said = await explained(client)
    assert "It is in a maintenance window, in which a loss is expected, until " in said
    assert "Who acts Nobody before the window ends." in said


async def test_it_is_explained_while_the_database_is_away_too(
    simulator: SimulatedGateway, database_url: str
) -> None:
    changes = {**PATIENT, "retry_initial_delay": 1.0}
    async with serving(
        simulator, database_url, gateway_changes=changes, store_timeout=1.0
    ) as client:
        await client.open(client_id=7)
        await close(client, simulator)
        async with away(database_url):

            async def is_noticed() -> bool:
                return "database is away (STORE_UNAVAILABLE)" in await explained(client)

            await eventually(is_noticed, timeout=20)
            said = await explained(client)
    assert "is RECONNECTING for" in said
    assert "Why IB_CONN_001" in said


async def test_a_failure_that_is_over_is_told_as_over(
    client: Client, simulator: SimulatedGateway
) -> None:
    simulator.arm(Fault.CLOSE_AFTER_ACCEPT, times=1)
    session = await client.open(client_id=7, return_immediately=True)

    async def is_connected() -> bool:
        return (await client.get(session.session_id)).state == CONNECTED

    await eventually(is_connected)
    said = await explained(client)
    assert "is UP" in said
    assert re.search(r"The last failure, IB_CONN_001 at \d{4}-.* ago\), is over\.", said)


async def test_an_outage_that_is_over_does_not_condemn_a_gateway_without_sessions(
    simulator: SimulatedGateway, database_url: str
) -> None:
    changes = {**PATIENT, "retry_initial_delay": 0.2, "sentinel": True}
    async with serving(simulator, database_url, gateway_changes=changes) as client:
        session = await client.open(client_id=7)
        await close(client, simulator)

        async def failed() -> bool:
            return (await client.get(session.session_id)).error_count > 1

        await eventually(failed)
        await simulator.start_listening()
        await client.gateways.ResetCircuitBreaker(gateway_service_pb2.ResetCircuitBreakerRequest())

        async def is_connected() -> bool:
            return (await client.get(session.session_id)).state == CONNECTED

        await eventually(is_connected)
        await client.close(session.session_id)
        await eventually(lambda: [record.client_id for record in simulator.clients] == [9999])
        said = await explained(client)
    assert "is UP" in said
    assert "The last failure, IB_CONN_001 at " in said
    assert "No session uses it." in said


@pytest.mark.parametrize(
    "waits",
    [
        {"health_check_interval": 40.0, "retry_initial_delay": 0.1},
        {"health_check_interval": 0.1, "retry_initial_delay": 40.0, "retry_max_delay": 40.0},
    ],
    ids=["its-interval", "the-gateways-own-wait"],
)
async def test_a_gateway_that_only_the_sentinel_dials_says_when(
    simulator: SimulatedGateway, database_url: str, waits: dict[str, float]
) -> None:
    changes = {**PATIENT, "retry_jitter": 0.0, "sentinel": True, **waits}
    async with serving(simulator, database_url, gateway_changes=changes) as client:

        async def known() -> gateway_pb2.Gateway:
            answer = await client.gateways.GetGateway(gateway_service_pb2.GetGatewayRequest())
            gateway: gateway_pb2.Gateway = answer.gateway
            return gateway

        async def is_dialled() -> bool:
            return (await known()).HasField("reachable")

        async def is_down() -> bool:
            return not (await known()).reachable

        # Not before its handshake is over: a link that is lost is dialled anew at once.
        await eventually(is_dialled)
        await close(client, simulator)
        await eventually(is_down)
        gateway = await known()
        said = await explained(client)
        await client.gateways.DrainGateway(gateway_service_pb2.DrainGatewayRequest(reason="no"))
        drained = await known()
    due = gateway.next_attempt_time.ToNanoseconds() - gateway.last_failure.time.ToNanoseconds()
    assert due / 1e9 == pytest.approx(40.0, abs=1.0)
    assert "is DOWN: it does not answer." in said
    assert re.search(r"Next It is dialled again at \d{4}-\S+ \S+, in \d+ s; nobody need ask", said)
    assert not drained.HasField("next_attempt_time"), "nobody dials it before it is resumed"


async def test_a_gateway_that_nobody_dials_says_so(
    simulator: SimulatedGateway, database_url: str
) -> None:
    async with serving(simulator, database_url, gateway_changes=PATIENT) as client:
        await simulator.stop_listening()
        session = await client.open(client_id=7, return_immediately=True)

        async def failed() -> bool:
            return (await client.get(session.session_id)).attempt > 0

        await eventually(failed)
        await client.close(session.session_id)
        said = await explained(client)
    assert "is DOWN: it does not answer." in said
    assert "It has no sentinel: nobody dials it before a session is opened." in said


async def test_sessions_that_live_on_a_gateway_that_takes_no_more_are_not_called_down(
    client: Client, simulator: SimulatedGateway
) -> None:
    await client.open(client_id=7)
    await simulator.stop_listening()
    waits = await client.open(client_id=8, return_immediately=True)

    async def failed() -> bool:
        return (await client.get(waits.session_id)).attempt > 0

    await eventually(failed)
    said = await explained(client)
    assert "is DOWN for new connections" in said
    assert "1 session is still CONNECTED" in said
    assert "1 of 2 suffers:" in said


async def test_an_id_in_quarantine_is_mentioned(
    client: Client, simulator: SimulatedGateway
) -> None:
    session = await client.open(client_id=7)
    await simulator.stop_listening()
    simulator.drop(reset=True)

    async def is_lost() -> bool:
        return (await client.get(session.session_id)).state == RECONNECTING

    await eventually(is_lost)
    await client.close(session.session_id)
    said = await explained(client)
    assert "client ids 7 (LINK_LOST)" in said


async def test_the_answer_is_json_for_programs(client: Client, simulator: SimulatedGateway) -> None:
    simulator.arm(Fault.CLOSE_AFTER_ACCEPT)
    session = await client.open(client_id=7, return_immediately=True, max_attempts=100)

    async def failed() -> bool:
        now = await client.get(session.session_id)
        return now.state == CONNECTING and now.attempt > 0

    await eventually(failed)
    at = ("--broker", client.running.grpc_address)
    said = json.loads((await ask("gateways", "explain", "--output", "json", *at)).out)
    assert (said["gateway_id"], said["status"]) == ("default", "DOWN")
    assert said["why"][0].startswith("IB_CONN_001 in phase handshake: ")
    assert set(said) == {
        *("gateway_id", "status", "verdict", "why", "since", "next", "act", "suffers"),
    }
