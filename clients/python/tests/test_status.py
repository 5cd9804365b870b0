"""What a broker, a proxy or nobody answers becomes the error that says so."""

from __future__ import annotations

import asyncio
import uuid

import grpc
import pytest

from ibgateway.broker.v1 import error_pb2
from ibgateway.client import (
    AuthenticationError,
    BrokerError,
    BrokerUnreachableError,
    CallTimeoutError,
    ClientIDInUseError,
    InvalidArgumentError,
    SessionNotFoundError,
    UnexpectedAnswerError,
    connect,
)
from live_broker import free_port
from scripted_broker import Refusal, ScriptedBroker

NOT_FOUND = Refusal(
    grpc.StatusCode.NOT_FOUND,
    "SESSION_NOT_FOUND",
    "no session s",
    metadata={"session_id": "s"},
    correlation_id="the-broker-s",
)


async def refused(scripted: ScriptedBroker, refusal: Refusal) -> BrokerError:
    scripted.on("GetSession", refusal)
    async with connect(scripted.address, backoff=None) as broker:
        with pytest.raises(BrokerError) as caught:
            await broker.get_session("s", timeout=5)
    return caught.value


async def test_an_error_carries_all_that_the_broker_has_packed(scripted: ScriptedBroker) -> None:
    error = await refused(scripted, NOT_FOUND)
    assert type(error) is SessionNotFoundError
    assert error.reason == "SESSION_NOT_FOUND"
    assert error.message == "no session s"
    assert error.metadata == {"session_id": "s"}
    assert error.correlation_id == "the-broker-s"
    assert isinstance(error.__cause__, grpc.aio.AioRpcError)


async def test_a_gateway_error_has_the_facts_of_its_failure(scripted: ScriptedBroker) -> None:
    error = await refused(
        scripted,
        Refusal(
            grpc.StatusCode.ALREADY_EXISTS,
            "IB_CONN_002",
            "client id 7 is in use",
            failure=error_pb2.ConnectionFailure(
                code=error_pb2.ERROR_CODE_CLIENT_ID_IN_USE,
                reason="IB_CONN_002",
                retryable=True,
                phase="start_api",
                tws_code=326,
                message="client id 7 is in use",
                hint="close the other program",
                attempt=3,
            ),
        ),
    )
    assert isinstance(error, ClientIDInUseError)
    assert (error.phase, error.tws_code, error.attempt, error.retryable) == (
        *("start_api", 326, 3, True),
    )
    assert error.hint == "close the other program"


async def test_a_gateway_error_without_a_failure_still_has_its_class(
    scripted: ScriptedBroker,
) -> None:
    error = await refused(
        scripted, Refusal(grpc.StatusCode.FAILED_PRECONDITION, "IB_CONN_005", "a human must act")
    )
    assert isinstance(error, AuthenticationError)
    assert str(error).startswith("IB_CONN_005: a human must act")


async def test_violations_name_each_field(scripted: ScriptedBroker) -> None:
    error = await refused(
        scripted,
        Refusal(
            grpc.StatusCode.INVALID_ARGUMENT,
            "INVALID_ARGUMENT",
            violations=[("client_id", "must be between 1 and 9999, not 0"), ("labels", "too many")],
        ),
    )
    assert isinstance(error, InvalidArgumentError)
    assert error.violations == (
        ("client_id", "must be between 1 and 9999, not 0"),
        ("labels", "too many"),
    )


async def test_retry_info_is_in_seconds(scripted: ScriptedBroker) -> None:
    error = await refused(
        scripted, Refusal(grpc.StatusCode.UNAVAILABLE, "CIRCUIT_OPEN", retry_after=2.5)
    )
    assert error.retry_after == 2.5


async def test_a_reason_of_a_newer_broker_is_a_plain_broker_error(scripted: ScriptedBroker) -> None:
    error = await refused(scripted, Refusal(grpc.StatusCode.ABORTED, "MOON_IS_FULL", "no"))
    assert (type(error), error.reason) == (BrokerError, "MOON_IS_FULL")


@pytest.mark.parametrize(
    ("refusal", "kind"),
    [
        (Refusal(grpc.StatusCode.UNAVAILABLE), BrokerUnreachableError),
        (Refusal(grpc.StatusCode.CANCELLED), BrokerUnreachableError),
        (Refusal(grpc.StatusCode.UNIMPLEMENTED), UnexpectedAnswerError),
        (Refusal(grpc.StatusCode.UNKNOWN), UnexpectedAnswerError),
        (Refusal(grpc.StatusCode.NOT_FOUND, "X", domain="else.where"), UnexpectedAnswerError),
    ],
)
async def test_an_error_without_our_error_info_is_not_the_broker_s(
    scripted: ScriptedBroker, refusal: Refusal, kind: type[BrokerError]
) -> None:
    error = await refused(scripted, refusal)
    assert type(error) is kind
    assert error.reason == ""


async def test_no_broker_at_all_says_where_and_how_to_start_one() -> None:
    address = f"127.0.0.1:{free_port()}"
    async with connect(address, backoff=None) as broker:
        with pytest.raises(BrokerUnreachableError) as caught:
            await broker.get_session("s")
    assert address in str(caught.value)
    assert "gateway-broker serve" in str(caught.value)
    assert uuid.UUID(caught.value.correlation_id).version == 4


async def test_a_call_that_takes_too_long_says_how_long(scripted: ScriptedBroker) -> None:
    async def never(_: object, __: object) -> None:
        await asyncio.sleep(60)

    scripted.on("GetSession", never)
    async with connect(scripted.address) as broker:
        with pytest.raises(CallTimeoutError, match=r"within 0\.2 s"):
            await broker.get_session("s", timeout=0.2)


async def test_a_correlation_id_is_sent_and_returned(scripted: ScriptedBroker) -> None:
    mine = str(uuid.uuid4())
    scripted.on("GetSession", Refusal(grpc.StatusCode.NOT_FOUND, "SESSION_NOT_FOUND"))
    async with connect(scripted.address) as broker:
        with pytest.raises(SessionNotFoundError) as caught:
            await broker.get_session("s", correlation_id=mine)
    assert caught.value.correlation_id == mine
    assert scripted.asked[0].metadata["x-correlation-id"] == mine
