"""The tree of errors is complete, and each says what happened and what to do."""

from __future__ import annotations

import inspect
import re

import pytest

import ibgateway.client
from ibgateway.broker.v1 import error_pb2
from ibgateway.client import (
    BrokerError,
    BrokerUnreachableError,
    CallTimeoutError,
    CircuitBreakerOpenError,
    ConnectionFailure,
    GatewayError,
    GatewayTimeoutError,
    SessionEndedError,
    SessionNotFoundError,
    errors,
)
from ibgateway.client.status import ERRORS

REASONS = {
    name.removeprefix("ERROR_REASON_")
    for name in error_pb2.ErrorReason.keys()  # noqa: SIM118 - not a dict
} - {"UNSPECIFIED"}
CLASSES = {
    name: value
    for name, value in vars(errors).items()
    if inspect.isclass(value) and issubclass(value, BrokerError)
}


def failure(**changes: object) -> ConnectionFailure:
    fields: dict[str, object] = {
        "reason": "IB_CONN_003",
        "retryable": True,
        "phase": "handshake",
        "tws_code": 0,
        "message": "the Gateway was silent for 30 s.",
        "hint": "look at its screen",
        "attempt": 2,
        "time": None,
    }
    return ConnectionFailure(**(fields | changes))  # type: ignore[arg-type]


def test_every_reason_of_the_contract_has_a_class_and_none_has_another() -> None:
    assert set(ERRORS) == REASONS


def test_every_class_with_a_reason_is_in_the_table_under_it() -> None:
    named = {value.REASON: value for value in CLASSES.values() if value.REASON}
    assert named == dict(ERRORS)


def test_the_six_codes_are_gateway_errors_and_nothing_else_is() -> None:
    six = {reason for reason, value in ERRORS.items() if issubclass(value, GatewayError)}
    assert six == {f"IB_CONN_{number:03d}" for number in range(1, 7)}


def test_the_tree_in_the_docstring_has_every_class_once_below_its_base() -> None:
    tree = re.findall(r"^([│├└─ ]*)(\w+Error)\b", errors.__doc__ or "", re.MULTILINE)
    assert sorted(name for _, name in tree) == sorted(CLASSES)
    above: list[str] = []
    for marks, name in tree:
        depth = len(marks) // 4
        assert [base.__name__ for base in CLASSES[name].__bases__] == (
            above[depth - 1 : depth] or ["Exception"]
        )
        above[depth:] = [name]


def test_every_error_is_exported_and_none_shadows_a_builtin() -> None:
    assert set(CLASSES) <= set(ibgateway.client.__all__)
    assert not set(CLASSES) & set(dir(__builtins__))


def test_a_message_shows_cause_hint_and_correlation_id() -> None:
    error = GatewayTimeoutError(failure(), correlation_id="c-1")
    assert str(error) == (
        "IB_CONN_003: the Gateway was silent for 30 s. Hint: look at its screen "
        "(correlation id c-1)"
    )
    assert (error.phase, error.tws_code, error.attempt) == ("handshake", 0, 2)
    assert error.retryable


def test_a_failure_that_needs_a_human_is_not_retryable() -> None:
    assert not ERRORS["IB_CONN_005"](failure(retryable=False)).retryable  # type: ignore[arg-type]


def test_a_hint_names_the_command_that_helps() -> None:
    error = CircuitBreakerOpenError("refused", metadata={"gateway_id": "paper"}, retry_after=3.0)
    assert "gateways reset-breaker paper" in str(error)
    assert error.retryable


@pytest.mark.parametrize(
    ("kind", "retryable"),
    [
        (SessionNotFoundError, False),
        (BrokerUnreachableError, True),
        (CallTimeoutError, True),
        (BrokerError, False),
    ],
)
def test_only_what_passes_by_itself_is_retryable(
    kind: type[BrokerError], *, retryable: bool
) -> None:
    assert kind("it failed").retryable is retryable


def test_an_ended_session_says_who_ended_it() -> None:
    error = SessionEndedError("gone", metadata={"session_id": "s", "close_reason": "LEASE_EXPIRED"})
    assert (error.session_id, error.close_reason, error.failure) == ("s", "LEASE_EXPIRED", None)
