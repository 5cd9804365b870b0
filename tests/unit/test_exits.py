"""The exit codes are one table, and nothing that can go wrong is missing in it."""

from __future__ import annotations

import pytest
from ibgateway.broker.v1 import error_pb2
from ibgateway.client import (
    BrokerError,
    BrokerUnreachableError,
    CallTimeoutError,
    UnexpectedAnswerError,
    WatchGapError,
)

from broker.cli.exits import REASONS, ExitCode, exit_code, rows

PREFIX = "ERROR_REASON_"


def test_every_reason_of_the_contract_has_a_code() -> None:
    reasons = {
        name.removeprefix(PREFIX) for name in error_pb2.ErrorReason.DESCRIPTOR.values_by_name
    }
    assert reasons - {"UNSPECIFIED"} <= REASONS.keys()
    for reason in reasons - {"UNSPECIFIED"}:
        assert exit_code(BrokerError("so it is", reason=reason)) not in {
            *(ExitCode.OK, ExitCode.FAILED, ExitCode.INTERRUPTED),
        }


def test_the_six_codes_are_twenty_and_their_number() -> None:
    for number in range(1, 7):
        assert exit_code(BrokerError("", reason=f"IB_CONN_{number:03}")) == 20 + number


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (BrokerUnreachableError("gone"), ExitCode.UNREACHABLE),
        (CallTimeoutError("late"), ExitCode.TIMED_OUT),
        (UnexpectedAnswerError("what", code="UNIMPLEMENTED"), ExitCode.BROKER_ERRED),
        (UnexpectedAnswerError("who", code="UNAUTHENTICATED"), ExitCode.DENIED),
        (UnexpectedAnswerError("no", code="PERMISSION_DENIED"), ExitCode.DENIED),
        (WatchGapError("gap"), ExitCode.BROKER_ERRED),
        (BrokerError("new", reason="OF_A_NEWER_BROKER"), ExitCode.FAILED),
    ],
)
def test_what_no_broker_says_has_a_code_too(error: BrokerError, code: ExitCode) -> None:
    assert exit_code(error) is code


def test_each_code_has_a_row_with_a_meaning_of_its_own() -> None:
    table = rows()
    assert [int(code) for code, _, _ in table] == [code.value for code in ExitCode]
    meanings = [meaning for _, meaning, _ in table]
    assert all(meanings)
    assert len(set(meanings)) == len(meanings)
