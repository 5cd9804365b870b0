"""What the client gives, as the protocol of runners has it."""

from __future__ import annotations

import dataclasses
from typing import Any

from ibgateway.client import (
    Attempt,
    BrokerError,
    Condition,
    ConnectionFailure,
    Gateway,
    GatewayError,
    Interrupted,
    InvalidArgumentError,
    Notice,
    Reset,
    SessionEvent,
    SessionInfo,
    Snapshot,
    Transition,
    Update,
)

Json = dict[str, Any]
_NAMES = {"from_state": "from", "to_state": "to"}
_KINDS: dict[type, str] = {
    Transition: "transition",
    Attempt: "attempt",
    Condition: "condition",
    Notice: "notice",
    Update: "updated",
}


def told(value: Any, *names: str) -> Json:
    """Some attributes of a value, by their names."""
    return {name: _plain(getattr(value, name)) for name in names}


def session(info: SessionInfo) -> Json:
    """A session."""
    return told(
        info,
        *("session_id", "gateway_id", "client_id", "client_id_changed", "readonly", "state"),
        *("generation", "sequence", "revision", "owner", "labels", "accounts", "server_version"),
        *("close_reason", "error_count", "lease_ttl", "last_failure"),
    )


def failure(found: ConnectionFailure) -> Json:
    """Why an attempt or a link failed."""
    return told(found, "reason", "retryable", "phase", "tws_code", "message", "hint", "attempt")


def gateway(found: Gateway) -> Json:
    """A gateway."""
    return {
        **told(found, "gateway_id", "reachable", "sessions_used", "session_limit"),
        "circuit_breaker": found.circuit_breaker.state,
        "drained": found.drain is not None,
    }


def event(found: SessionEvent) -> Json:
    """An item of the kind event."""
    change = found.change
    return {
        "kind": "event",
        "token": found.token,
        **told(found, "session_id", "sequence", "revision", "persisted"),
        "session": session(found.session),
        "change": None if change is None else {"kind": _KINDS[type(change)], **_fields(change)},
    }


def item(found: Any) -> Json:
    """An item of a watch."""
    match found:
        case SessionEvent():
            return event(found)
        case Snapshot():
            return {"kind": "snapshot", "token": found.token, "session": session(found.session)}
        case Interrupted():
            return {"kind": "interrupted", "token": found.token, "error": error(found.error)}
        case Reset():
            return {"kind": "reset", "token": found.token, "reason": found.reason}
    # SnapshotComplete is snapshot_complete.
    name = "".join(f"_{c.lower()}" if c.isupper() else c for c in type(found).__name__)
    return {"kind": name.lstrip("_"), "token": found.token}


def error(raised: BrokerError) -> Json:
    """An error."""
    return {
        "type": type(raised).__name__,
        **told(raised, "reason", "message", "hint", "metadata", "retryable", "retry_after"),
        "correlation_id": raised.correlation_id,
        "violations": [
            {"field": field, "description": description}
            for field, description in (
                raised.violations if isinstance(raised, InvalidArgumentError) else ()
            )
        ],
        "failure": failure(raised.failure) if isinstance(raised, GatewayError) else None,
    }


def _fields(change: Any) -> Json:
    return {
        _NAMES.get(field.name, field.name): _plain(getattr(change, field.name))
        for field in dataclasses.fields(change)
        if not field.name.endswith("_time")
    }


def _plain(value: Any) -> Any:
    """Of frozen values what JSON has."""
    if isinstance(value, ConnectionFailure):
        return failure(value)
    if isinstance(value, tuple):
        return list(value)
    return dict(value) if hasattr(value, "keys") else value
