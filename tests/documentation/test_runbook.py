"""The runbook knows everything that the broker can say."""

from __future__ import annotations

import re

import pytest
from ibgateway.broker.v1 import error_pb2

from broker.cli import story
from broker.gateway.conditions import UPSTREAM
from broker.gateway.fault_table import FAULTS
from broker.session.machine import DATA_CONTINUOUS
from broker.session.model import CloseReason
from tests.documentation.pages import ROOT

RUNBOOK = (ROOT / "docs" / "runbooks" / "connection-troubleshooting.md").read_text()
REASONS = [
    name.removeprefix("ERROR_REASON_")
    for name in error_pb2.ErrorReason.DESCRIPTOR.values_by_name
    if name != "ERROR_REASON_UNSPECIFIED"
]
CONDITIONS = [
    *(UPSTREAM, DATA_CONTINUOUS, "WRITABLE", "NO_COMPETING_LOGIN"),
    *("MARKET_DATA_FARM", "HISTORICAL_DATA_FARM", "SECDEF_FARM"),
]
NOTICES = [
    *("OVERDUE", "MAINTENANCE_OVERRUN", "CIRCUIT_OPEN", "CIRCUIT_HALF_OPEN", "CIRCUIT_CLOSED"),
    *("GATEWAY_DRAINING", "GATEWAY_RESUMED"),
]
LOSSES = ["PEER_CLOSED", "HEARTBEAT_UNANSWERED", "BROKER_STOPPING", "BROKER_RESTARTED"]
ENDS = ["NOT_RETRYABLE", "ATTEMPTS_EXHAUSTED", "BROKER_ERROR"]


@pytest.mark.parametrize(
    "word", sorted({*REASONS, *CloseReason, *CONDITIONS, *NOTICES, *LOSSES, *ENDS})
)
def test_it_has_every_word_that_an_operator_may_see(word: str) -> None:
    if re.fullmatch(r"IB_CONN_00[1-6]", word):
        assert f"### {word}\n" in RUNBOOK
    assert re.search(rf"\b{word}\b", RUNBOOK)


def test_it_has_the_notices_that_the_command_line_knows() -> None:
    known = {name for name in story._STYLES if "_" in name or name == "OVERDUE"}
    assert known <= set(NOTICES)


@pytest.mark.parametrize("name", sorted({fault.error.__name__ for fault in FAULTS.values()}))
def test_it_has_the_error_type_of_each_kind_of_failure(name: str) -> None:
    # In logs and metrics the names are those of the plan: without what tells them from builtins.
    plain = {"GatewayConnectionError": "ConnectionError", "GatewayTimeoutError": "TimeoutError"}
    assert f"`error_type` {plain.get(name, name)}" in RUNBOOK


def test_each_section_says_what_it_means_what_to_do_and_when_it_is_over() -> None:
    for part in re.split(r"^### ", RUNBOOK, flags=re.MULTILINE)[1:]:
        heading, _, text = part.partition("\n")
        text = re.split(r"^## ", text, flags=re.MULTILINE)[0]
        assert "**Over when**" in text, heading
        if not heading.startswith("IB_CONN"):
            assert "**Means" in text, heading
