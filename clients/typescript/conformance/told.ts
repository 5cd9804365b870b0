/** What the client gives, as the protocol of runners has it. */

import {
  type BrokerError,
  CircuitBreakerState,
  ConditionStatus,
  type ConnectionFailure,
  type Gateway,
  GatewayError,
  InvalidArgumentError,
  type SessionEvent,
  type SessionInfo,
  SessionState,
  seconds,
  type WatchItem,
} from "ibgateway-client";

export type Json = Record<string, unknown>;

export function session(info: SessionInfo): Json {
  return {
    session_id: info.sessionId,
    gateway_id: info.gatewayId,
    client_id: info.clientId,
    client_id_changed: info.clientIdChanged,
    readonly: info.readonly,
    state: SessionState[info.state],
    generation: Number(info.generation),
    sequence: Number(info.sequence),
    revision: Number(info.revision),
    owner: info.owner,
    labels: info.labels,
    accounts: info.accounts,
    server_version: info.serverVersion,
    close_reason: info.closeReason,
    error_count: info.errorCount,
    lease_ttl: seconds(info.leaseTtl) ?? null,
    last_failure: failure(info.lastFailure),
  };
}

export function failure(found: ConnectionFailure | undefined): Json | null {
  if (found === undefined) {
    return null;
  }
  const { reason, retryable, phase, twsCode, message, hint, attempt } = found;
  return { reason, retryable, phase, tws_code: twsCode, message, hint, attempt };
}

export function gateway(found: Gateway): Json {
  return {
    gateway_id: found.gatewayId,
    reachable: found.reachable ?? null,
    sessions_used: found.sessionsUsed,
    session_limit: found.sessionLimit,
    circuit_breaker: CircuitBreakerState[found.circuitBreaker?.state ?? 0],
    drained: found.drain !== undefined,
  };
}

export function event(found: SessionEvent): Json {
  return {
    kind: "event",
    token: found.token,
    session_id: found.sessionId,
    sequence: Number(found.sequence),
    revision: Number(found.revision),
    persisted: found.persisted,
    session: session(found.session),
    change: change(found.change),
  };
}

export function item(found: WatchItem): Json {
  const { token } = found;
  switch (found.kind) {
    case "event":
      return event(found);
    case "snapshot":
      return { kind: "snapshot", token, session: session(found.session) };
    case "snapshotComplete":
      return { kind: "snapshot_complete", token };
    case "reset":
      return { kind: "reset", token, reason: found.reason };
    case "interrupted":
      return { kind: "interrupted", token, error: error(found.error) };
    default:
      return { kind: found.kind, token };
  }
}

export function error(thrown: BrokerError): Json {
  return {
    type: thrown.name,
    reason: thrown.reason,
    message: thrown.message,
    hint: thrown.hint,
    metadata: thrown.metadata,
    retryable: thrown.retryable,
    retry_after: thrown.retryAfter ?? null,
    correlation_id: thrown.correlationId,
    violations: thrown instanceof InvalidArgumentError ? thrown.violations : [],
    failure: thrown instanceof GatewayError ? failure(thrown.failure) : null,
  };
}

function change(found: SessionEvent["change"]): Json | null {
  switch (found.case) {
    case "transition": {
      const { from, to, reason } = found.value;
      return { kind: found.case, from: SessionState[from], to: SessionState[to], reason };
    }
    case "attempt":
      return {
        kind: found.case,
        number: found.value.number,
        failure: failure(found.value.failure),
      };
    case "condition": {
      const { type, subject, status, reason, message } = found.value;
      return { kind: found.case, type, subject, status: ConditionStatus[status], reason, message };
    }
    case "notice": {
      const { reason, subject, message } = found.value;
      return { kind: found.case, reason, subject, message };
    }
    case "updated":
      return { kind: found.case, fields: found.value.fields, actor: found.value.actor };
    case undefined:
      return null;
  }
}
