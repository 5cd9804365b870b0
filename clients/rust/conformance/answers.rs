//! What the client gives, as the protocol of runners has it.

use ibgateway_client::prost_types::Duration;
use ibgateway_client::v1::session_event::Change;
use ibgateway_client::v1::watch_sessions_response::Message;
use ibgateway_client::v1::{
    ConnectionFailure, Gateway, Session, SessionEvent, WatchSessionsResponse,
};
use ibgateway_client::{BrokerError, ErrorKind};
use serde_json::{Value, json};

use crate::continuity::WatchGap;

/// The name of an enum's value, without the enum's.
pub fn name(full: &str, prefix: &str) -> String {
    full.strip_prefix(prefix).unwrap_or(full).to_owned()
}

pub fn seconds(duration: Option<&Duration>) -> Option<f64> {
    let duration = std::time::Duration::try_from(*duration?);
    duration.ok().map(|it| it.as_secs_f64())
}

pub fn session(session: Option<&Session>) -> Value {
    let Some(it) = session else { return Value::Null };
    json!({
        "session_id": it.session_id,
        "gateway_id": it.gateway_id,
        "client_id": it.client_id,
        "client_id_changed": it.client_id_changed,
        "readonly": it.readonly,
        "state": name(it.state().as_str_name(), "SESSION_STATE_"),
        "generation": it.generation,
        "sequence": it.sequence,
        "revision": it.revision,
        "owner": it.owner,
        "labels": it.labels,
        "accounts": it.accounts,
        "server_version": it.server_version,
        "close_reason": it.close_reason,
        "error_count": it.error_count,
        "lease_ttl": seconds(it.lease_ttl.as_ref()),
        "last_failure": failure(it.last_failure.as_ref()),
    })
}

pub fn failure(failure: Option<&ConnectionFailure>) -> Value {
    let Some(it) = failure else { return Value::Null };
    json!({
        "reason": it.reason,
        "retryable": it.retryable,
        "phase": it.phase,
        "tws_code": it.tws_code,
        "message": it.message,
        "hint": it.hint,
        "attempt": it.attempt,
    })
}

pub fn gateway(gateway: Option<&Gateway>) -> Value {
    let Some(it) = gateway else { return Value::Null };
    let breaker = it.circuit_breaker.unwrap_or_default();
    json!({
        "gateway_id": it.gateway_id,
        "reachable": it.reachable,
        "sessions_used": it.sessions_used,
        "session_limit": it.session_limit,
        "circuit_breaker": name(breaker.state().as_str_name(), "CIRCUIT_BREAKER_STATE_"),
        "drained": it.drain.is_some(),
    })
}

/// An item of the kind event; one of the history has no token.
pub fn event(event: &SessionEvent, token: Option<&str>) -> Value {
    json!({
        "kind": "event",
        "token": token,
        "session_id": event.session_id,
        "sequence": event.sequence,
        "revision": event.revision,
        "persisted": event.persisted,
        "session": session(event.session.as_ref()),
        "change": event.change.as_ref().map(change),
    })
}

fn change(change: &Change) -> Value {
    match change {
        Change::Transition(it) => json!({
            "kind": "transition",
            "from": name(it.from().as_str_name(), "SESSION_STATE_"),
            "to": name(it.to().as_str_name(), "SESSION_STATE_"),
            "reason": it.reason,
        }),
        Change::Attempt(it) => json!({
            "kind": "attempt",
            "number": it.number,
            "failure": failure(it.failure.as_ref()),
        }),
        Change::Condition(it) => json!({
            "kind": "condition",
            "type": it.r#type,
            "subject": it.subject,
            "status": name(it.status().as_str_name(), "CONDITION_STATUS_"),
            "reason": it.reason,
            "message": it.message,
        }),
        Change::Notice(it) => json!({
            "kind": "notice",
            "reason": it.reason,
            "subject": it.subject,
            "message": it.message,
        }),
        Change::Updated(it) => {
            json!({"kind": "updated", "fields": it.fields, "actor": it.actor})
        }
    }
}

/// An item of a watch.
pub fn told(response: &WatchSessionsResponse) -> Value {
    let token = response.resume_token.as_str();
    let plain = |kind: &str| json!({"kind": kind, "token": token});
    match &response.message {
        Some(Message::Snapshot(it)) => {
            json!({"kind": "snapshot", "token": token, "session": session(Some(it))})
        }
        Some(Message::Event(it)) => event(it, Some(token)),
        Some(Message::Reset(it)) => json!({"kind": "reset", "token": token, "reason": it.reason}),
        Some(Message::SnapshotComplete(_)) => plain("snapshot_complete"),
        Some(Message::Bookmark(_)) => plain("bookmark"),
        Some(Message::Draining(_)) => plain("draining"),
        None => plain("unknown"),
    }
}

pub fn error(error: &BrokerError) -> Value {
    let kind = match error.kind() {
        ErrorKind::UnknownReason => "BrokerError".to_owned(),
        kind => format!("{kind:?}"),
    };
    let violations: Vec<Value> = error
        .violations()
        .iter()
        .map(|it| json!({"field": it.field, "description": it.description}))
        .collect();
    json!({
        "type": kind,
        "reason": error.reason(),
        "message": error.message(),
        "hint": error.hint(),
        "metadata": error.metadata(),
        "retryable": error.is_retryable(),
        "retry_after": error.retry_after().map(|it| it.as_secs_f64()),
        "violations": violations,
        "failure": failure(error.failure()),
        "correlation_id": error.correlation_id(),
    })
}

pub fn gap(gap: &WatchGap) -> Value {
    json!({
        "type": "WatchGap",
        "message": gap.to_string(),
        "metadata": {
            "session_id": gap.session_id,
            "expected": gap.expected.to_string(),
            "received": gap.received.to_string(),
        },
    })
}
