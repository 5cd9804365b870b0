"""Bad requests: each field is named, nothing is written, nothing is dialled."""

from __future__ import annotations

import uuid
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.duration_pb2 import Duration
from ibgateway.broker.v1 import gateway_service_pb2
from ibgateway.broker.v1 import session_service_pb2 as pb

from broker.simulator.gateway import SimulatedGateway
from tests.harness import Client, refusal

LONG = "x" * 1000
OPEN: dict[str, tuple[dict[str, Any], str]] = {
    "client_id zero": ({"client_id": 0}, "client_id"),
    "client_id negative": ({"client_id": -1}, "client_id"),
    "client_id too large": ({"client_id": 10_000}, "client_id"),
    "client_id largest int": ({"client_id": 2**31 - 1}, "client_id"),
    "policy unknown": ({"client_id_policy": 99}, "client_id_policy"),
    "gateway_id too long": ({"gateway_id": LONG}, "gateway_id"),
    "gateway_id with NUL": ({"gateway_id": "a\0b"}, "gateway_id"),
    "timeout zero": ({"timeout": Duration()}, "timeout"),
    "timeout negative": ({"timeout": Duration(seconds=-5)}, "timeout"),
    "timeout too long": ({"timeout": Duration(seconds=601)}, "timeout"),
    "timeout absurd": ({"timeout": Duration(seconds=2**62)}, "timeout"),
    "max_attempts zero": ({"max_attempts": 0}, "max_attempts"),
    "max_attempts negative": ({"max_attempts": -3}, "max_attempts"),
    "max_attempts too many": ({"max_attempts": 101}, "max_attempts"),
    "label key empty": ({"labels": {"": "x"}}, "labels"),
    "label key too long": ({"labels": {LONG: "x"}}, "labels"),
    "label value too long": ({"labels": {"a": LONG}}, "labels"),
    "label value with NUL": ({"labels": {"a": "\0"}}, "labels"),
    "too many labels": ({"labels": {str(n): "" for n in range(33)}}, "labels"),
}


@pytest.mark.requirement("AC-013")
@pytest.mark.requirement("AC-015")
@pytest.mark.parametrize(("fields", "named"), OPEN.values(), ids=OPEN.keys())
@pytest.mark.parametrize("validate_only", [False, True])
async def test_a_bad_open_is_refused_by_field_and_nothing_happens(
    client: Client,
    simulator: SimulatedGateway,
    fields: dict[str, Any],
    named: str,
    validate_only: bool,
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await client.open(**fields, validate_only=validate_only)
    said = refusal(caught.value)
    assert (said.status, said.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT")
    assert set(said.fields) == {named}
    assert said.metadata.keys() == {named}
    assert await client.list(include_final=True) == []
    assert simulator.statistics.accepts == 0


async def test_all_that_is_wrong_is_told_at_once(client: Client) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await client.open(client_id=0, max_attempts=0, timeout=Duration())
    assert set(refusal(caught.value).fields) == {"client_id", "max_attempts", "timeout"}


async def test_an_unknown_gateway_is_not_found_and_the_known_ones_are_named(
    client: Client,
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await client.open(gateway_id="live")
    said = refusal(caught.value)
    assert (said.status, said.reason) == (grpc.StatusCode.NOT_FOUND, "GATEWAY_NOT_FOUND")
    assert said.metadata == {"gateway_id": "live", "gateways": "default"}
    request = gateway_service_pb2.GetGatewayRequest(gateway_id="live")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await client.gateways.GetGateway(request)
    assert refusal(caught.value).reason == "GATEWAY_NOT_FOUND"


@pytest.mark.parametrize("session_id", ["", "nonsense", LONG, "\0", "'; drop table x; --"])
@pytest.mark.parametrize("rpc", ["GetSession", "CloseSession", "VerifySession"])
async def test_a_session_id_that_is_none_is_refused(
    client: Client, rpc: str, session_id: str
) -> None:
    request = getattr(pb, f"{rpc}Request")(session_id=session_id)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await getattr(client.sessions, rpc)(request)
    said = refusal(caught.value)
    assert (said.status, said.fields) == (grpc.StatusCode.INVALID_ARGUMENT, ["session_id"])


@pytest.mark.parametrize("rpc", ["GetSession", "CloseSession", "VerifySession"])
async def test_a_session_that_never_was_is_not_found(client: Client, rpc: str) -> None:
    session_id = str(uuid.uuid4())
    request = getattr(pb, f"{rpc}Request")(session_id=session_id)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await getattr(client.sessions, rpc)(request)
    said = refusal(caught.value)
    assert (said.status, said.reason) == (grpc.StatusCode.NOT_FOUND, "SESSION_NOT_FOUND")
    assert said.metadata == {"session_id": session_id}


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"session_ids": ["x"]}, "session_ids"),
        ({"session_ids": [str(uuid.uuid4())] * 101}, "session_ids"),
        ({"gateway_id": LONG}, "gateway_id"),
        ({"owner": LONG}, "owner"),
        ({"states": [77]}, "states"),
        ({"labels": {"": ""}}, "labels"),
    ],
)
async def test_a_bad_filter_is_refused_by_list_and_by_watch(
    client: Client, fields: dict[str, Any], named: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await client.list(**fields)
    assert set(refusal(caught.value).fields) == {named}
    stream = client.sessions.WatchSessions(pb.WatchSessionsRequest(**fields))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await anext(aiter(stream))
    assert set(refusal(caught.value).fields) == {named}


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"page_size": -1}, "page_size"),
        ({"page_token": "?"}, "page_token"),
        ({"page_token": "QUJD"}, "page_token"),
    ],
)
async def test_a_bad_page_is_refused(client: Client, fields: dict[str, Any], named: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await client.list(**fields)
    assert refusal(caught.value).fields == [named]


async def test_pages_give_every_session_once_with_and_without_final_ones(client: Client) -> None:
    opened = [(await client.open()).session_id for _ in range(5)]
    await client.close(opened[1])
    for include_final, expected in ((True, opened), (False, opened[:1] + opened[2:])):
        found: list[str] = []
        token = ""
        while True:
            response = await client.sessions.ListSessions(
                pb.ListSessionsRequest(page_size=2, page_token=token, include_final=include_final)
            )
            found += [session.session_id for session in response.sessions]
            token = response.next_page_token
            if not token:
                break
        assert found == expected
    assert len(await client.list(page_size=10**9, include_final=True)) == 5


LARGEST = {f"{n:02}" + "👾" * 61: "👾" * 256 for n in range(32)}
"""Labels of 40 KB: as many and as long as may be."""
ANSWER = 4 * 2**20
"""The longest answer that gRPC's clients take, unless they are told to."""


async def test_no_page_is_longer_than_what_a_client_takes(client: Client) -> None:
    session = await client.open(labels=LARGEST, lease_ttl=Duration(seconds=60))
    for seconds in range(100, 205):
        await client.sessions.RenewSession(
            pb.RenewSessionRequest(
                session_id=session.session_id, lease_ttl=Duration(seconds=seconds)
            )
        )
    sequences: list[int] = []
    token = ""
    while True:
        page = await client.sessions.ListSessionEvents(
            pb.ListSessionEventsRequest(
                session_id=session.session_id, page_size=1000, page_token=token
            )
        )
        assert page.ByteSize() < ANSWER / 2
        sequences += [event.sequence for event in page.events]
        token = page.next_page_token
        if not token:
            break
    assert sequences == list(range(1, 108))


async def test_a_reason_that_is_too_long_closes_nothing(client: Client) -> None:
    session = await client.open()
    request = pb.CloseSessionRequest(session_id=session.session_id, reason=LONG)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await client.sessions.CloseSession(request)
    assert refusal(caught.value).fields == ["reason"]
    assert await client.get(session.session_id) == session


async def test_validate_only_opens_nothing_and_holds_nothing(
    client: Client, simulator: SimulatedGateway
) -> None:
    response = await client.sessions.OpenSession(
        pb.OpenSessionRequest(client_id=7, validate_only=True)
    )
    assert not response.HasField("session")
    assert not response.created
    assert simulator.statistics.accepts == 0
    assert (await client.open(client_id=7)).client_id == 7


async def test_the_owner_is_whom_the_metadata_names(client: Client) -> None:
    response = await client.sessions.OpenSession(
        pb.OpenSessionRequest(), metadata=(("x-broker-owner", "alice"),)
    )
    assert response.session.owner == "alice"
    assert len(await client.list(owner="alice")) == 1
    assert await client.list(owner="bob") == []
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await client.sessions.OpenSession(
            pb.OpenSessionRequest(), metadata=(("x-broker-owner", "a" * 129),)
        )
    assert refusal(caught.value).fields == ["metadata x-broker-owner"]


async def test_the_correlation_id_comes_back_and_stands_in_the_events(client: Client) -> None:
    given = str(uuid.uuid4())
    watch = client.sessions.WatchSessions(pb.WatchSessionsRequest())
    assert (await anext(aiter(watch))).HasField("snapshot_complete")
    call = client.sessions.OpenSession(
        pb.OpenSessionRequest(), metadata=(("x-correlation-id", given),)
    )
    await call
    assert ("x-correlation-id", given) in [tuple(pair) for pair in await call.trailing_metadata()]
    assert (await anext(aiter(watch))).event.correlation_id == given
    watch.cancel()


async def test_a_correlation_id_is_made_when_absent_and_refused_when_bad(client: Client) -> None:
    call = client.sessions.ListSessions(pb.ListSessionsRequest())
    await call
    [made] = [value for key, value in await call.trailing_metadata() if key == "x-correlation-id"]
    assert uuid.UUID(str(made)).version == 4
    for bad in ("nonsense", str(uuid.uuid1())):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.sessions.ListSessions(
                pb.ListSessionsRequest(), metadata=(("x-correlation-id", bad),)
            )
        assert refusal(caught.value).fields == ["metadata x-correlation-id"]
