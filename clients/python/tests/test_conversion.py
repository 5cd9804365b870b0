"""Nothing of what the broker tells is lost on the way to a value, and absence stays absence."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import pytest

from ibgateway.broker.v1 import (
    broker_service_pb2,
    error_pb2,
    gateway_pb2,
    session_event_pb2,
    session_pb2,
    session_service_pb2,
)
from ibgateway.client import (
    Attempt,
    BrokerAccess,
    BrokerInfo,
    BrokerLimits,
    CircuitBreaker,
    CircuitState,
    ClientIdHolder,
    ClientIdPolicy,
    Condition,
    ConditionStatus,
    ConnectionFailure,
    Drain,
    Gateway,
    GatewayKind,
    Notice,
    QuarantinedClientId,
    Role,
    SessionEvent,
    SessionInfo,
    SessionState,
    Transition,
    Update,
    Verification,
    conversion,
)

MESSAGES: list[tuple[Any, Any, dict[str, str]]] = [
    (session_pb2.Session, SessionInfo, {}),
    (session_pb2.Condition, Condition, {}),
    (error_pb2.ConnectionFailure, ConnectionFailure, {"code": ""}),  # reason says it
    (session_event_pb2.Transition, Transition, {"from": "from_state", "to": "to_state"}),
    (session_event_pb2.Attempt, Attempt, {}),
    (session_event_pb2.Notice, Notice, {}),
    (session_event_pb2.Update, Update, {}),
    (session_service_pb2.VerifySessionResponse, Verification, {}),
    (gateway_pb2.Gateway, Gateway, {}),
    (gateway_pb2.ClientIdHolder, ClientIdHolder, {}),
    (gateway_pb2.QuarantinedClientId, QuarantinedClientId, {}),
    (gateway_pb2.CircuitBreaker, CircuitBreaker, {}),
    (gateway_pb2.Drain, Drain, {}),
    (broker_service_pb2.GetBrokerInfoResponse, BrokerInfo, {}),
    (broker_service_pb2.BrokerLimits, BrokerLimits, {}),
    (broker_service_pb2.BrokerAccess, BrokerAccess, {}),
]


@pytest.mark.parametrize(
    ("message", "value", "names"), MESSAGES, ids=[value.__name__ for _, value, _ in MESSAGES]
)
def test_a_value_has_every_field_of_its_message(
    message: Any, value: Any, names: dict[str, str]
) -> None:
    fields = {names.get(name, name) for name in message.DESCRIPTOR.fields_by_name} - {""}
    assert fields == {field.name for field in dataclasses.fields(value)}


def test_an_event_has_every_field_and_every_change() -> None:
    descriptor = session_event_pb2.SessionEvent.DESCRIPTOR
    changes = {field.name for field in descriptor.oneofs_by_name["change"].fields}
    fields = set(descriptor.fields_by_name) - changes | {"change", "token"}
    assert fields == {field.name for field in dataclasses.fields(SessionEvent)}
    for change in changes:
        message = session_event_pb2.SessionEvent()
        getattr(message, change).SetInParent()
        assert conversion.event(message).change is not None


@pytest.mark.parametrize(
    ("generated", "members"),
    [
        (session_pb2.SessionState, SessionState),
        (session_pb2.ConditionStatus, ConditionStatus),
        (gateway_pb2.GatewayKind, GatewayKind),
        (broker_service_pb2.Role, Role),
        (gateway_pb2.CircuitBreakerState, CircuitState),
        (session_service_pb2.ClientIdPolicy, ClientIdPolicy),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_an_enum_has_every_member(generated: Any, members: type[StrEnum]) -> None:
    names = {name for name, number in generated.items() if number}
    [prefix] = {name[: -len("UNSPECIFIED")] for name, number in generated.items() if not number}
    assert {name.removeprefix(prefix) for name in names} == set(members.__members__) - (
        {"UNKNOWN"} if f"{prefix}UNKNOWN" not in names else set()
    )


def test_what_is_absent_is_none() -> None:
    info = conversion.session(session_pb2.Session())
    nothing = {field for field, value in dataclasses.asdict(info).items() if value is None}
    assert nothing == {
        field.name
        for field in session_pb2.Session.DESCRIPTOR.fields
        if field.message_type is not None and field.name not in {"conditions", "labels"}
    }
    assert conversion.gateway(gateway_pb2.Gateway()).reachable is None


def test_times_are_in_utc_and_durations_in_seconds() -> None:
    info = conversion.session(
        session_pb2.Session(
            create_time={"seconds": 1_700_000_000, "nanos": 500_000_000},
            lease_ttl={"seconds": 1, "nanos": 500_000_000},
        )
    )
    assert info.create_time == datetime.fromtimestamp(1_700_000_000.5, UTC)
    assert info.lease_ttl == 1.5
    wanted = conversion.duration(0.1)
    assert wanted is not None
    assert wanted.ToNanoseconds() == 100_000_000


def test_what_a_newer_broker_says_is_unknown_and_no_error() -> None:
    session = session_pb2.Session(state=99, conditions=[{"status": 99}])  # type: ignore[arg-type]
    info = conversion.session(session)
    assert info.state is SessionState.UNKNOWN
    assert not info.is_final
    assert info.conditions[0].status is ConditionStatus.UNKNOWN
    breaker = {"state": 99}
    message = gateway_pb2.Gateway(kind=99, circuit_breaker=breaker)  # type: ignore[arg-type]
    gateway = conversion.gateway(message)
    assert gateway.kind is GatewayKind.UNKNOWN
    assert gateway.circuit_breaker.state is CircuitState.UNKNOWN


def test_values_are_frozen_and_become_plain_data() -> None:
    info = conversion.session(session_pb2.Session(labels={"desk": "fx"}, accounts=["DU1"]))
    with pytest.raises(dataclasses.FrozenInstanceError):
        info.client_id = 8  # type: ignore[misc]
    plain = dataclasses.asdict(info)
    assert (plain["labels"], plain["accounts"]) == ({"desk": "fx"}, ("DU1",))


def test_a_closing_session_is_not_final() -> None:
    closing = conversion.session(
        session_pb2.Session(state="SESSION_STATE_CONNECTED", close_reason="CLOSE_REQUESTED")
    )
    assert (closing.is_closing, closing.is_final) == (True, False)
