"""What a stranger tries at the door, by curl, which knows nothing of gRPC and its manners."""

from __future__ import annotations

import asyncio
import logging
import re
import shutil
import ssl
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from ibgateway.broker.v1 import broker_service_pb2

from broker.access import tokens
from broker.access.identity import Role
from broker.access.trial import Trial
from broker.rpc.audit import BURST, Audit
from broker.simulator.gateway import SimulatedGateway
from tests.access import calling, guarded, make, token_of
from tests.program import missing

SERVICE = "ibgateway.broker.v1.BrokerService"
CURL = shutil.which("curl")
OK = "0"
INTERNAL = "13"
UNAUTHENTICATED = "16"


@pytest.fixture
def trial(tmp_path: Path) -> Trial:
    return make(tmp_path)


@pytest.fixture
async def address(
    simulator: SimulatedGateway, database_url: str, trial: Trial
) -> AsyncIterator[str]:
    async with guarded(simulator, database_url, trial) as where:
        yield where


async def curl(
    address: str, trial: Trial, *headers: str, path: str = f"/{SERVICE}/GetBrokerInfo"
) -> str:
    """The gRPC status that an empty request with these headers gets; empty if it gets none."""
    if CURL is None:
        missing("curl is not installed")
    process = await asyncio.create_subprocess_exec(
        *(CURL, "--silent", "--http2", "--max-time", "10", "--include", "--noproxy", "*"),
        "--path-as-is",
        *("--cacert", str(trial.ca), "--data-binary", "@-", "--output", "-"),
        *("-H", "content-type: application/grpc", "-H", "te: trailers"),
        *(part for header in headers for part in ("-H", header)),
        f"https://{address}{path}",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate(struct.pack(">?I", False, 0))
    found = re.search(rb"grpc-status: (\d+)", out)
    return found[1].decode() if found else ""


async def test_curl_is_let_in_with_a_token_and_not_without(address: str, trial: Trial) -> None:
    token = token_of(trial, Role.VIEWER)
    assert await curl(address, trial, f"authorization: Bearer {token}") == OK
    assert await curl(address, trial, f"Authorization: bearer {token}") == OK
    assert await curl(address, trial) == UNAUTHENTICATED


@pytest.mark.parametrize(
    "headers",
    [
        ("authorization: Bearer {token}", "authorization: Bearer {token}"),
        ("authorization: Bearer {wrong}", "authorization: Bearer {token}"),
        ("authorization: Bearer {token}, Bearer {token}",),
        ("authorization: Basic {token}",),
        ("authorization: {token}",),
        ("authorization: Bearer",),
        ("authorization;",),
        ("authorization: Bearer  {token}",),
        ("authorization: Bearer {token} {token}",),
        ("authorization: Bearer {token}x",),
        ("authorization: Bearer {wrong}",),
        ("authorization-bin: QmVhcmVy",),
        ("proxy-authorization: Bearer {token}",),
        ("cookie: authorization=Bearer {token}",),
        ("x-broker-owner: operator",),
        ("x-forwarded-client-cert: CN=operator", "x-ssl-client-cn: operator"),
    ],
)
@pytest.mark.requirement("AC-015")
async def test_whatever_is_not_one_bearer_token_is_refused(
    address: str, trial: Trial, headers: tuple[str, ...]
) -> None:
    token, wrong = token_of(trial, Role.VIEWER), tokens.new_token()
    sent = [header.format(token=token, wrong=wrong) for header in headers]
    assert await curl(address, trial, *sent) == UNAUTHENTICATED


@pytest.mark.parametrize("size", [1_000, 7_000, 100_000])
async def test_a_huge_token_is_refused_and_the_broker_goes_on(
    address: str, trial: Trial, size: int
) -> None:
    assert await curl(address, trial, f"authorization: Bearer gwb_{'x' * size}") != OK
    good = f"authorization: Bearer {token_of(trial, Role.VIEWER)}"
    assert await curl(address, trial, good) == OK


@pytest.mark.parametrize(
    "path",
    [
        f"/{SERVICE}/getbrokerinfo",
        f"//{SERVICE}/GetBrokerInfo",
        f"/{SERVICE}/GetBrokerInfo/",
        f"/{SERVICE}/GetBrokerInfo?x",
        f"/{SERVICE}/Nothing",
        f"/grpc.health.v1.Health/../{SERVICE}/GetBrokerInfo",
        "/",
    ],
)
async def test_another_spelling_of_a_path_is_no_way_around(
    address: str, trial: Trial, path: str
) -> None:
    assert await curl(address, trial, path=path) not in {OK, INTERNAL}


async def test_who_speaks_plain_text_to_tls_is_told_nothing(address: str, trial: Trial) -> None:
    async with grpc.aio.insecure_channel(address) as channel:
        call: Any = channel.unary_unary(f"/{SERVICE}/GetBrokerInfo")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(b"", metadata=(("authorization", f"Bearer {token_of(trial, Role.VIEWER)}"),))
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
async def test_an_old_tls_is_not_spoken(
    address: str, trial: Trial, version: ssl.TLSVersion
) -> None:
    context = ssl.create_default_context(cafile=str(trial.ca))
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="deprecated"):
        context.minimum_version = context.maximum_version = version
    host, _, port = address.rpartition(":")
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await asyncio.open_connection(host, int(port), ssl=context)


@pytest.mark.requirement("AC-015")
async def test_no_token_and_no_digest_of_one_is_in_an_error_or_in_the_log(
    address: str, trial: Trial, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    wrong = tokens.new_token()
    async with calling(address, trial, wrong) as client:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.broker.GetBrokerInfo(broker_service_pb2.GetBrokerInfoRequest())
    said = "".join(
        [
            caught.value.details() or "",
            *(str(value) for _, value in caught.value.trailing_metadata() or ()),
            *(
                str(record.__dict__)
                for record in caplog.records
                if record.name.startswith("broker")
            ),
        ]
    )
    digest = tokens.digest(wrong)
    assert digest is not None
    assert wrong not in said
    assert wrong.removeprefix("gwb_") not in said
    assert digest.hex() not in said


@pytest.mark.requirement("AC-015")
def test_a_stranger_fills_no_disk_and_hides_nobody(caplog: pytest.LogCaptureFixture) -> None:
    clock = [0.0]
    audit = Audit(lambda: clock[0])
    for _ in range(10_000):
        audit.refused("", {"cause": "no token was sent"})
    audit.refused("momentum", {"method": "CloseSession"})
    assert len(caplog.records) == BURST + 1
    assert caplog.records[-1].__dict__["method"] == "CloseSession"
    clock[0] = 5.0
    audit.refused("", {"cause": "no token was sent"})
    assert caplog.records[-1].__dict__["held_back"] == 10_000 - BURST
    for number in range(100_000):
        audit.refused(f"name-{number}", {})
    assert len(audit._allowances) <= 1_001
