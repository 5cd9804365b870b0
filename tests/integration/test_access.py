"""Who may come in: over real TLS, with real files that change while the broker runs."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from ibgateway.broker.v1 import broker_service_pb2, gateway_service_pb2
from ibgateway.broker.v1 import session_service_pb2 as pb

from broker.access import roster
from broker.access.identity import Role
from broker.access.trial import Trial
from broker.simulator.gateway import SimulatedGateway
from tests.access import bearer, calling, give_token, guarded, make, settings, token_of
from tests.harness import CONNECTED, Client, Refusal, eventually, refusal, serving
from tests.program import missing

UNAUTHENTICATED = grpc.StatusCode.UNAUTHENTICATED
PERMISSION_DENIED = grpc.StatusCode.PERMISSION_DENIED


@pytest.fixture
def trial(tmp_path: Path) -> Trial:
    return make(tmp_path)


@pytest.fixture
def momentum(trial: Trial) -> str:
    """The token of a trader with this name."""
    return give_token(trial, "momentum")


@pytest.fixture
async def address(
    simulator: SimulatedGateway, database_url: str, trial: Trial, momentum: str
) -> AsyncIterator[str]:
    async with guarded(simulator, database_url, trial) as where:
        yield where


async def refused(call: Any) -> Refusal:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return refusal(caught.value)


async def info(client: Client) -> Any:
    return await client.broker.GetBrokerInfo(broker_service_pb2.GetBrokerInfoRequest())


async def is_let_in(client: Client) -> bool:
    try:
        await info(client)
    except grpc.aio.AioRpcError as error:
        if error.code() is not UNAUTHENTICATED:
            raise
        return False
    return True


async def end_of(stream: Any) -> tuple[list[Any], Refusal]:
    """What a stream says until it is refused, and that."""
    seen = []
    try:
        while (message := await stream.read()) is not grpc.aio.EOF:
            seen.append(message)
    except grpc.aio.AioRpcError as error:
        return seen, refusal(error)
    raise AssertionError("the stream has ended well")


# -- who one is --------------------------------------------------------------------


async def test_a_token_is_who_one_is_and_owns_what_it_opens(
    address: str, trial: Trial, momentum: str
) -> None:
    async with calling(address, trial, momentum) as client:
        access = (await info(client)).access
        assert (access.caller, access.role, access.problem) == (
            "momentum",
            broker_service_pb2.ROLE_TRADER,
            "",
        )
        session = await client.open()
        assert (session.owner, session.state) == ("momentum", CONNECTED)


@pytest.mark.requirement("AC-015")
async def test_nothing_is_told_to_who_shows_nothing(address: str, trial: Trial) -> None:
    async with calling(address, trial) as client:
        said = await refused(info(client))
    assert (said.status, said.reason) == (UNAUTHENTICATED, "UNAUTHENTICATED")
    assert said.metadata == {
        "cause": "no token was sent",
        "method": "/ibgateway.broker.v1.BrokerService/GetBrokerInfo",
        "needed_role": "viewer",
    }


async def test_health_is_told_to_everybody(address: str, trial: Trial) -> None:
    async with calling(address, trial) as client:
        stub: Any = health_pb2_grpc.HealthStub(client.channel)
        response = await stub.Check(health_pb2.HealthCheckRequest())
    assert response.status == health_pb2.HealthCheckResponse.SERVING


async def test_a_name_that_is_not_ones_own_is_refused_not_ignored(
    address: str, trial: Trial
) -> None:
    trader = token_of(trial, Role.TRADER)
    async with calling(address, trial, trader, more=(("x-broker-owner", "trader"),)) as client:
        assert (await client.open()).owner == "trader"
    async with calling(address, trial, trader, more=(("x-broker-owner", "momentum"),)) as client:
        said = await refused(client.open())
    assert (said.status, said.metadata["caller"]) == (PERMISSION_DENIED, "trader")
    assert "leave x-broker-owner out" in said.message


async def test_a_certificate_is_who_one_is_and_the_access_file_what_it_may(
    simulator: SimulatedGateway, database_url: str, tmp_path: Path
) -> None:
    trial = make(tmp_path, risk=Role.VIEWER, desk=Role.OPERATOR)
    async with guarded(simulator, database_url, trial, **settings(trial, mutual=True)) as address:
        async with calling(address, trial, client="risk") as client:
            access = (await info(client)).access
            assert (access.caller, access.role) == ("risk", broker_service_pb2.ROLE_VIEWER)
            assert (await refused(client.open())).status is PERMISSION_DENIED
        # A token beside it says who one is, and a wrong one is no reason to look at the rest.
        trader = token_of(trial, Role.TRADER)
        async with calling(address, trial, trader, client="risk") as client:
            assert (await client.open()).owner == "trader"
        async with calling(address, trial, "gwb_" + "x" * 43, client="desk") as client:
            assert (await refused(info(client))).status is UNAUTHENTICATED
        # Without one the handshake fails, whatever the token.
        async with calling(address, trial, trader) as client:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await info(client)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        # One of the CA that is in no line is let through the handshake, and refused.
        roster.revoke(trial.access_file, "risk", None)
        async with calling(address, trial, client="risk") as client:
            await eventually(lambda: _is_refused(client))


async def _is_refused(client: Client) -> bool:
    return not await is_let_in(client)


async def test_without_an_access_file_a_certificate_has_the_role_of_the_setting(
    simulator: SimulatedGateway, database_url: str, tmp_path: Path
) -> None:
    trial = make(tmp_path, risk=Role.VIEWER)
    told = settings(trial, mutual=True) | {"access_file": None}
    for setting, role in (
        ({}, broker_service_pb2.ROLE_VIEWER),
        ({"tls_client_role": "operator"}, broker_service_pb2.ROLE_OPERATOR),
    ):
        async with (
            guarded(simulator, database_url, trial, **told, **setting) as address,
            calling(address, trial, client="risk") as client,
        ):
            assert (await info(client)).access.role == role
            # There is no token that could be right.
            said = await refused(
                client.broker.GetBrokerInfo(
                    broker_service_pb2.GetBrokerInfoRequest(),
                    metadata=(bearer(token_of(trial, Role.OPERATOR)),),
                )
            )
            assert said.status is UNAUTHENTICATED


async def test_of_a_certificate_with_alternative_names_the_common_name_does_not_count(
    simulator: SimulatedGateway, database_url: str, tmp_path: Path
) -> None:
    trial = make(tmp_path, desk=Role.OPERATOR, risk=Role.VIEWER)
    certificate, key = trial.client("both")
    await openssl(
        *("req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
        *("-subj", "/CN=desk", "-addext", "subjectAltName=DNS:nobody,URI:risk"),
        *("-keyout", str(key), "-out", str(tmp_path / "request.pem")),
    )
    await openssl(
        *("x509", "-req", "-in", str(tmp_path / "request.pem"), "-copy_extensions", "copy"),
        *("-CA", str(trial.ca), "-CAkey", str(trial.directory / "ca-key.pem")),
        *("-days", "2", "-out", str(certificate)),
    )
    async with (
        guarded(simulator, database_url, trial, **settings(trial, mutual=True)) as address,
        calling(address, trial, client="both") as client,
    ):
        access = (await info(client)).access
        assert (access.caller, access.role) == ("risk", broker_service_pb2.ROLE_VIEWER)
        roster.revoke(trial.access_file, "risk", None)
        await eventually(lambda: _is_refused(client))


async def openssl(*arguments: str) -> None:
    program = shutil.which("openssl")
    if program is None:
        missing("openssl is not installed")
    process = await asyncio.create_subprocess_exec(
        program, *arguments, stderr=asyncio.subprocess.PIPE
    )
    _, said = await process.communicate()
    assert process.returncode == 0, said.decode()


async def test_a_certificate_of_another_authority_is_refused(
    simulator: SimulatedGateway, database_url: str, tmp_path: Path
) -> None:
    trial = make(tmp_path, risk=Role.VIEWER)
    other = make(tmp_path / "other", risk=Role.OPERATOR)
    async with (
        guarded(simulator, database_url, trial, **settings(trial, mutual=True)) as address,
        calling(address, other, client="risk", ca=trial.ca.read_bytes()) as client,
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await info(client)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_on_loopback_tokens_need_no_tls_and_callers_without_a_file_no_token(
    simulator: SimulatedGateway, database_url: str, trial: Trial
) -> None:
    async with serving(simulator, database_url, access_file=trial.access_file) as client:
        assert (await refused(info(client))).status is UNAUTHENTICATED
        metadata = (bearer(token_of(trial, Role.VIEWER)),)
        await client.broker.GetBrokerInfo(
            broker_service_pb2.GetBrokerInfoRequest(), metadata=metadata
        )
    async with serving(simulator, database_url) as client:
        assert (await info(client)).access == broker_service_pb2.BrokerAccess()


# -- what is whose -----------------------------------------------------------------


@pytest.mark.requirement("AC-015")
async def test_a_trader_ends_its_own_sessions_and_an_operator_everybodys(
    address: str, trial: Trial, momentum: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "broker.rpc.audit")
    async with (
        calling(address, trial, token_of(trial, Role.TRADER)) as owner,
        calling(address, trial, momentum) as other,
        calling(address, trial, token_of(trial, Role.OPERATOR)) as operator,
    ):
        session = await owner.open()
        said = await refused(other.close(session.session_id))
        assert said.status is PERMISSION_DENIED
        assert said.metadata == {
            "caller": "momentum",
            "role": "trader",
            "needed_role": "operator",
            "method": "/ibgateway.broker.v1.SessionService/CloseSession",
            "session_id": session.session_id,
            "owner": "trader",
        }
        # It sees it all the same: whoever may come in may watch over everything.
        assert (await other.get(session.session_id)).state == CONNECTED
        await operator.close(session.session_id)
        page = await owner.sessions.ListSessionEvents(
            pb.ListSessionEventsRequest(session_id=session.session_id)
        )
        assert "operator" in {event.updated.actor for event in page.events}
        # Who did not own it is told so also once it has ended, and whoever did closes it twice.
        assert (await refused(other.close(session.session_id))).status is PERMISSION_DENIED
        await owner.close(session.session_id)
    [denied, *_] = [record for record in caplog.records if record.message == "access_refused"]
    assert denied.__dict__["caller"] == "momentum"
    assert denied.__dict__["needed_role"] == "operator"
    assert uuid.UUID(denied.__dict__["correlation_id"]).version == 4
    [acted] = [record for record in caplog.records if record.message == "operator_action"]
    assert acted.__dict__["caller"] == "operator"
    assert acted.__dict__["session_id"] == session.session_id


@pytest.mark.requirement("AC-015")
async def test_what_an_operator_does_to_a_gateway_is_recorded_with_its_name(
    address: str, trial: Trial, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "broker.rpc.audit")
    async with calling(address, trial, token_of(trial, Role.OPERATOR)) as operator:
        response = await operator.gateways.DrainGateway(gateway_service_pb2.DrainGatewayRequest())
        assert response.gateway.drain.actor == "operator"
        await operator.gateways.ResetCircuitBreaker(
            gateway_service_pb2.ResetCircuitBreakerRequest()
        )
    acted = [record for record in caplog.records if record.message == "operator_action"]
    assert [record.__dict__["method"].rpartition("/")[2] for record in acted] == [
        "DrainGateway",
        "ResetCircuitBreaker",
    ]


@pytest.mark.requirement("AC-015")
async def test_nobody_takes_over_or_sees_through_anothers_request_id(
    address: str, trial: Trial
) -> None:
    async with (
        calling(address, trial, token_of(trial, Role.TRADER)) as owner,
        calling(address, trial, token_of(trial, Role.OPERATOR)) as other,
    ):
        request = pb.OpenSessionRequest(request_id=str(uuid.uuid4()))
        first = await owner.sessions.OpenSession(request)
        theirs = await other.sessions.OpenSession(request)
        again = await owner.sessions.OpenSession(request)
    assert first.created
    assert theirs.created
    assert not again.created
    assert again.session.session_id == first.session.session_id != theirs.session.session_id
    assert (first.session.owner, theirs.session.owner) == ("trader", "operator")


# -- what changes meanwhile --------------------------------------------------------


@pytest.mark.requirement("AC-015")
async def test_a_revoked_token_loses_its_stream_and_a_new_one_resumes_it(
    address: str, trial: Trial, momentum: str
) -> None:
    trader = token_of(trial, Role.TRADER)
    async with (
        calling(address, trial, momentum) as client,
        calling(address, trial, trader) as owner,
    ):
        stream = client.sessions.WatchSessions(pb.WatchSessionsRequest())
        message = await stream.read()
        kept = owner.sessions.WatchSessions(pb.WatchSessionsRequest())
        await kept.read()
        began = asyncio.get_running_loop().time()
        roster.revoke(trial.access_file, "momentum", None)
        more, said = await end_of(stream)
        token_to_resume = [message, *more][-1].resume_token
        assert asyncio.get_running_loop().time() - began < 5
        assert said.status is UNAUTHENTICATED
        assert "'momentum'" in said.message
        assert (await refused(info(client))).status is UNAUTHENTICATED
        # Whoever else watches has noticed nothing.
        session = await owner.open()
        assert (await kept.read()).event.session.session_id == session.session_id
        fresh = give_token(trial, "momentum", Role.VIEWER)
        async with calling(address, trial, fresh) as back:
            await eventually(lambda: is_let_in(back))
            resumed = back.sessions.WatchSessions(
                pb.WatchSessionsRequest(resume_token=token_to_resume)
            )
            assert (await resumed.read()).event.session.session_id == session.session_id


async def test_a_token_that_expires_ends_its_stream(address: str, trial: Trial) -> None:
    until = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=5)
    token = give_token(trial, "momentum", Role.VIEWER, until=until)
    async with calling(address, trial, token) as client:
        await eventually(lambda: is_let_in(client))
        stream = client.sessions.WatchSessions(pb.WatchSessionsRequest())
        _, said = await end_of(stream)
        assert said.status is UNAUTHENTICATED
        assert until <= datetime.now(UTC) < until + timedelta(seconds=5)
        said = await refused(info(client))
    assert said.metadata["cause"] == "the token has expired"


async def test_a_stream_that_nobody_reads_gets_no_more_than_was_on_its_way(
    address: str, trial: Trial, momentum: str
) -> None:
    async with (
        calling(address, trial, momentum) as client,
        calling(address, trial, token_of(trial, Role.TRADER)) as owner,
    ):
        stream = client.sessions.WatchSessions(pb.WatchSessionsRequest())
        assert (await stream.read()).HasField("snapshot_complete")
        # What fills the connection: nobody reads.
        labels = {f"padding-{number}": "x" * 256 for number in range(32)}
        for _ in range(10):
            session = await owner.open(labels=labels)
            await owner.close(session.session_id)
        roster.revoke(trial.access_file, "momentum", None)
        await eventually(lambda: _is_refused(client))
        later = await owner.open()
        seen, said = await end_of(stream)
    assert said.status is UNAUTHENTICATED
    assert later.session_id not in {message.event.session.session_id for message in seen}


async def test_another_role_counts_from_the_next_call_on(address: str, trial: Trial) -> None:
    async with calling(address, trial, token_of(trial, Role.VIEWER)) as client:
        assert (await refused(client.open())).status is PERMISSION_DENIED
        text = trial.access_file.read_text()
        trial.access_file.write_text(text.replace("viewer  viewer", "viewer  trader"))

        async def is_trader() -> bool:
            return bool((await info(client)).access.role == broker_service_pb2.ROLE_TRADER)

        await eventually(is_trader)
        assert (await client.open()).owner == "viewer"


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        ("words", "NAME ROLE UNTIL KEY"),
        ("empty", "is empty"),
        ("gone", "No such file"),
        ("open", "can be changed by others"),
        ("pipe", "is not a file"),
    ],
)
@pytest.mark.requirement("AC-015")
async def test_a_broken_access_file_keeps_the_last_good_one_and_says_so(
    address: str, trial: Trial, caplog: pytest.LogCaptureFixture, harm: str, said: str
) -> None:
    path = trial.access_file
    good = path.read_bytes()
    async with calling(address, trial, token_of(trial, Role.VIEWER)) as client:
        stub: Any = health_pb2_grpc.HealthStub(client.channel)

        async def status() -> Any:
            return (await stub.Check(health_pb2.HealthCheckRequest(service="access"))).status

        await eventually(lambda: _is(status, health_pb2.HealthCheckResponse.SERVING))
        stream = client.sessions.WatchSessions(pb.WatchSessionsRequest())
        await stream.read()
        match harm:
            case "words":
                path.write_bytes(b"what is this\n")
            case "empty":
                path.write_bytes(b"")
            case "gone":
                path.unlink()
            case "open":
                path.chmod(0o666)
            case "pipe":
                path.unlink()
                os.mkfifo(path)
        await eventually(lambda: _is(status, health_pb2.HealthCheckResponse.NOT_SERVING))
        assert said in (await info(client)).access.problem
        assert not stream.done()
        if path.exists():
            path.unlink()
        path.write_bytes(good)
        path.chmod(0o600)
        await eventually(lambda: _is(status, health_pb2.HealthCheckResponse.SERVING))
        assert (await info(client)).access.problem == ""
    errors = [record for record in caplog.records if record.levelname == "ERROR"]
    assert [record.getMessage() for record in errors] == ["access_unusable"]
    assert said in vars(errors[0])["error"]


async def _is(status: Any, wanted: Any) -> bool:
    return bool(await status() == wanted)


async def test_a_new_certificate_is_shown_without_a_restart(
    simulator: SimulatedGateway, database_url: str, tmp_path: Path
) -> None:
    trial, other = make(tmp_path), make(tmp_path / "other")
    token = token_of(trial, Role.VIEWER)
    async with guarded(simulator, database_url, trial) as address:  # noqa: SIM117 # reads better
        async with calling(address, trial, token) as before:
            await info(before)
            # Half of a pair is never shown.
            trial.key.write_bytes(other.key.read_bytes())

            async def problem() -> bool:
                return "is not the key of" in (await info(before)).access.problem

            await eventually(problem)
            async with calling(address, trial, token) as client:
                await info(client)
            trial.certificate.write_bytes(other.certificate.read_bytes())

            async def is_shown() -> bool:
                async with calling(address, other, token) as client:
                    try:
                        await info(client)
                    except grpc.aio.AioRpcError as error:
                        if error.code() is not grpc.StatusCode.UNAVAILABLE:
                            raise
                        return False
                return True

            await eventually(is_shown)
            # Connections that were there stay.
            assert (await info(before)).access.problem == ""


async def test_a_new_authority_of_callers_counts_without_a_restart(
    simulator: SimulatedGateway, database_url: str, tmp_path: Path
) -> None:
    trial, other = make(tmp_path, risk=Role.VIEWER), make(tmp_path / "other", risk=Role.VIEWER)
    trusted = trial.ca.read_bytes()
    async with guarded(simulator, database_url, trial, **settings(trial, mutual=True)) as address:

        async def is_taken(caller: Trial) -> bool:
            async with calling(address, caller, client="risk", ca=trusted) as client:
                try:
                    await info(client)
                except grpc.aio.AioRpcError as error:
                    if error.code() is not grpc.StatusCode.UNAVAILABLE:
                        raise
                    return False
            return True

        assert (await is_taken(trial), await is_taken(other)) == (True, False)
        trial.ca.write_bytes(other.ca.read_bytes())
        await eventually(lambda: is_taken(other))
        assert not await is_taken(trial)
