"""Sessions and events as JSON, and back.

A session's JSON is flat and its keys are the columns of ``gateway_connections``: the
same text is the payload of the event and, in the same statement, the row. So the row
cannot drift from the fold of the events, and one decoder reads both.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from broker.errors import ErrorCode, Phase
from broker.session.model import (
    Attempt,
    Change,
    ClientIdPolicy,
    Condition,
    ConditionChange,
    ConditionStatus,
    Failure,
    Session,
    SessionEvent,
    SessionNotice,
    SessionSpec,
    SessionState,
    Transition,
    Update,
)

_DUMPS: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_UNSTORABLE: Final = {0: "\ufffd"} | dict.fromkeys(range(0xD800, 0xE000), "\ufffd")

KINDS: Final[Mapping[type[Change], str]] = {
    Transition: "transition",
    Attempt: "attempt",
    ConditionChange: "condition",
    Update: "updated",
    SessionNotice: "notice",
}


def storable(text: str) -> str:
    """The text as PostgreSQL can hold it: NUL and lone surrogates become U+FFFD."""
    return text if text.isascii() and "\0" not in text else text.translate(_UNSTORABLE)


def encode_labels(labels: Mapping[str, str]) -> str:
    """Labels as the database holds and compares them."""
    return _storable_json(labels)


def encode_event(event: SessionEvent) -> str:
    """The payload: the change, and the session after it."""
    return _storable_json({"change": _change(event.change), "session": _session(event)})


def decode_session(row: Mapping[str, Any]) -> Session:
    """A session from its row, or from the payload of an event, which may be older than the newest
    columns.
    """
    requested, failure = row["requested_client_id"], row["last_failure"]
    # Events that were written before migration 0003 have neither lease nor request.
    lease, request = row.get("lease_ttl"), row.get("request_id")
    return Session(
        spec=SessionSpec(
            session_id=UUID(row["session_id"]),
            gateway_id=row["gateway_id"],
            host=row["host"],
            port=row["port"],
            owner=row["owner"],
            requested_client_id=requested,
            client_id_policy=ClientIdPolicy(row["client_id_policy"]),
            readonly=row["readonly"],
            timeout=float(row["timeout"]),
            max_attempts=row["max_attempts"],
            reconnect_max_attempts=row["reconnect_max_attempts"],
            return_immediately=row["return_immediately"],
            labels=row["labels"],
            request_id=None if request is None else UUID(request),
            request_hash=row.get("request_hash"),
        ),
        state=SessionState(row["state"]),
        client_id=row["client_id"],
        create_time=datetime.fromisoformat(row["created_at"]),
        state_time=datetime.fromisoformat(row["state_time"]),
        sequence=row["sequence"],
        revision=row["revision"],
        generation=row["generation"],
        attempt=row["attempt"],
        client_id_moves=row["client_id_moves"],
        error_count=row["error_count"],
        server_version=row["server_version"],
        accounts=tuple(row["accounts"]),
        conditions=tuple(_decode_condition(item) for item in row["conditions"]),
        next_attempt_time=_time(row["next_attempt_time"]),
        last_failure=None if failure is None else _decode_failure(failure),
        close_reason=row["close_reason"],
        connect_time=_time(row["connection_time"]),
        disconnect_time=_time(row["disconnection_time"]),
        lease_ttl=None if lease is None else float(lease),
    )


def decode_event(
    payload: str, *, revision: int, time: datetime, correlation_id: UUID
) -> SessionEvent:
    """An event from its row."""
    parts = json.loads(payload)
    session = decode_session(parts["session"] | {"revision": revision})
    return SessionEvent(
        session_id=session.spec.session_id,
        sequence=session.sequence,
        time=time,
        correlation_id=correlation_id,
        change=_decode_change(parts["change"]),
        session=session,
        revision=revision,
    )


def _storable_json(value: object) -> str:
    text = _DUMPS(value)
    # ensure_ascii=False still escapes NUL, as \u0000; to look for it is cheaper than
    # to clean every string of every event.
    if "\\u0000" in text or not text.isascii():
        text = _DUMPS(_cleaned(value))
    return text


def _cleaned(value: object) -> object:
    if isinstance(value, str):
        return storable(value)
    if isinstance(value, Mapping):
        return {storable(key): _cleaned(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_cleaned(item) for item in value]
    return value


def _iso(time: datetime | None) -> str | None:
    return None if time is None else time.isoformat()


def _time(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


def _session(event: SessionEvent) -> dict[str, object]:
    session = event.session
    spec, failure = session.spec, session.last_failure
    return {
        "session_id": str(spec.session_id),
        "gateway_id": spec.gateway_id,
        "host": spec.host,
        "port": spec.port,
        "owner": spec.owner,
        "labels": dict(spec.labels),
        "requested_client_id": spec.requested_client_id,
        "client_id_policy": spec.client_id_policy.value,
        "readonly": spec.readonly,
        "timeout": spec.timeout,
        "max_attempts": spec.max_attempts,
        "reconnect_max_attempts": spec.reconnect_max_attempts,
        "return_immediately": spec.return_immediately,
        "request_id": None if spec.request_id is None else str(spec.request_id),
        "request_hash": spec.request_hash,
        "state": session.state.value,
        "final_state": session.state.value if session.state.is_final else None,
        "client_id": session.client_id,
        "sequence": session.sequence,
        "generation": session.generation,
        "attempt": session.attempt,
        "client_id_moves": session.client_id_moves,
        "error_count": session.error_count,
        "server_version": session.server_version,
        "accounts": list(session.accounts),
        "conditions": [_condition(item) for item in session.conditions],
        "next_attempt_time": _iso(session.next_attempt_time),
        "last_failure": None if failure is None else _failure(failure),
        "close_reason": session.close_reason,
        "connection_time": _iso(session.connect_time),
        "disconnection_time": _iso(session.disconnect_time),
        "lease_ttl": session.lease_ttl,
        "state_time": _iso(session.state_time),
        "created_at": _iso(session.create_time),
        "updated_at": _iso(event.time),
    }


def _failure(failure: Failure) -> dict[str, object]:
    return {
        "code": int(failure.code),
        "phase": failure.phase.value,
        "message": failure.message,
        "hint": failure.hint,
        "time": _iso(failure.time),
        "tws_code": failure.tws_code,
        "attempt": failure.attempt,
        "since": _iso(failure.since),
    }


def _decode_failure(item: Mapping[str, Any]) -> Failure:
    return Failure(
        code=ErrorCode(item["code"]),
        phase=Phase(item["phase"]),
        message=item["message"],
        hint=item["hint"],
        time=datetime.fromisoformat(item["time"]),
        tws_code=item["tws_code"],
        attempt=item["attempt"],
        # Failures that were written before migration 0002 have none.
        since=_time(item.get("since")),
    )


def _condition(condition: Condition) -> dict[str, object]:
    return {
        "type": condition.type,
        "subject": condition.subject,
        "status": condition.status.value,
        "reason": condition.reason,
        "message": condition.message,
        "transition_time": _iso(condition.transition_time),
        "tws_code": condition.tws_code,
    }


def _decode_condition(item: Mapping[str, Any]) -> Condition:
    return Condition(
        type=item["type"],
        subject=item["subject"],
        status=ConditionStatus(item["status"]),
        reason=item["reason"],
        message=item["message"],
        transition_time=datetime.fromisoformat(item["transition_time"]),
        tws_code=item["tws_code"],
    )


def _change(change: Change) -> dict[str, object]:
    match change:
        case Transition():
            return {
                "kind": "transition",
                "number": change.number,
                "source": change.source.value,
                "target": change.target.value,
                "reason": change.reason,
            }
        case Attempt():
            return {
                "kind": "attempt",
                "number": change.number,
                "failure": _failure(change.failure),
                "next_attempt_time": _iso(change.next_attempt_time),
            }
        case ConditionChange():
            return {"kind": "condition", "condition": _condition(change.condition)}
        case Update():
            return {"kind": "updated", "fields": list(change.fields), "actor": change.actor}
        case SessionNotice():
            return {
                "kind": "notice",
                "reason": change.reason,
                "subject": change.subject,
                "message": change.message,
                "hint": change.hint,
                "since": _iso(change.since),
            }


def _decode_change(item: Mapping[str, Any]) -> Change:
    match item["kind"]:
        case "transition":
            return Transition(
                number=item["number"],
                source=SessionState(item["source"]),
                target=SessionState(item["target"]),
                reason=item["reason"],
            )
        case "attempt":
            return Attempt(
                number=item["number"],
                failure=_decode_failure(item["failure"]),
                next_attempt_time=_time(item["next_attempt_time"]),
            )
        case "condition":
            return ConditionChange(condition=_decode_condition(item["condition"]))
        case "updated":
            return Update(fields=tuple(item["fields"]), actor=item["actor"])
        case "notice":
            return SessionNotice(
                reason=item["reason"],
                subject=item["subject"],
                message=item["message"],
                hint=item["hint"],
                since=datetime.fromisoformat(item["since"]),
            )
        case kind:
            raise ValueError(f"an event of kind {kind!r} was written by a newer broker")
