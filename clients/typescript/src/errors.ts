/**
 * Every error of this library.
 *
 * ```text
 * BrokerError
 * ├── GatewayError                    a connection to IB Gateway failed; `failure` says more
 * │   ├── GatewayConnectionError      IB_CONN_001  refused, reset, closed by the Gateway
 * │   ├── ClientIdInUseError          IB_CONN_002  error 326, or the broker holds the id
 * │   ├── GatewayTimeoutError         IB_CONN_003  silence
 * │   ├── NetworkUnreachableError     IB_CONN_004  no route, no such host
 * │   ├── AuthenticationError         IB_CONN_005  a human must act at the Gateway
 * │   └── IncompatibleVersionError    IB_CONN_006  the Gateway is too old
 * ├── InvalidArgumentError            a field is wrong; `violations` says which
 * ├── SessionNotFoundError            no such session
 * ├── GatewayNotFoundError            no such gateway
 * ├── RequestIdReusedError            the requestId belongs to another open
 * ├── SessionEndedError               the session is over
 * ├── SessionNotConnectedError        the session has no link now
 * ├── SessionLimitError               all sessions are in use
 * ├── ClientIdsExhaustedError         the gateway's pool of client ids is empty
 * ├── UnauthenticatedError            the broker does not know who calls
 * ├── PermissionDeniedError           the caller may not do this
 * ├── SlowConsumerError               a watcher read too slowly
 * ├── CircuitBreakerOpenError         the gateway has failed repeatedly
 * ├── GatewayDrainingError            an operator takes the gateway out of use
 * ├── BrokerDrainingError             the broker stops
 * ├── StoreUnavailableError           the broker's database is away
 * ├── BrokerInternalError             the broker erred
 * ├── BrokerUnreachableError          no answer at all
 * │   └── CallTimeoutError            no answer within the time given
 * ├── UnexpectedAnswerError           what answers is no gateway-broker, or an older one
 * ├── WatchGapError                   a watch has proof that an event is missing
 * └── BrokerClosedError               the call was made, or cut, when the Broker was closed
 * ```
 *
 * A reason that this library does not know, of a newer broker, is a plain BrokerError. What no broker
 * was asked is no BrokerError: a TypeError or RangeError for arguments that cannot be meant, and the
 * reason of an AbortSignal.
 */

import type { ConnectionFailure } from "./gen/ibgateway/broker/v1/error_pb.js";
import type { Session as SessionInfo } from "./gen/ibgateway/broker/v1/session_pb.js";

/** What is known of an error beside its message. */
export interface Details {
  /** The ErrorReason without its prefix; that of the class unless given. */
  reason?: string | undefined;
  /** Every dynamic part of the message, for machines. */
  metadata?: Readonly<Record<string, string>> | undefined;
  /** What to do about it, and who must; that of the class unless given. */
  hint?: string | undefined;
  /** Seconds until the same request may succeed. */
  retryAfter?: number | undefined;
  /** What to look for in the broker's log and events. */
  correlationId?: string | undefined;
  /** The error that caused it, or that of the try before it. */
  cause?: unknown;
}

/** A call to the broker failed. */
export class BrokerError extends Error {
  /** What the broker calls it; empty if it is not the broker that says so. */
  static readonly REASON: string = "";
  /** What to do about it; `{name}` stands for that part of the metadata. */
  protected static readonly HINT: string = "";
  /** Whether it may pass by itself. */
  protected static readonly RETRYABLE: boolean = false;

  /** The ErrorReason without its prefix; empty if it is not the broker that says so. */
  readonly reason: string;
  /** Every dynamic part of the message, for machines. */
  readonly metadata: Readonly<Record<string, string>>;
  /** What to do about it, and who must. */
  readonly hint: string;
  /** Seconds until the same request may succeed; undefined if the broker did not say. */
  readonly retryAfter: number | undefined;
  /** What to look for in the broker's log and events. */
  readonly correlationId: string;

  constructor(message: string, details: Details = {}) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause });
    const kind = new.target;
    this.name = kind.name;
    this.reason = details.reason ?? kind.REASON;
    this.metadata = { ...details.metadata };
    this.hint =
      details.hint ?? kind.HINT.replace(/\{(\w+)\}/g, (_, name) => this.metadata[name] ?? "");
    this.retryAfter = details.retryAfter;
    this.correlationId = details.correlationId ?? "";
  }

  /** Whether the same request may succeed later without anybody's help. */
  get retryable(): boolean {
    return (this.constructor as typeof BrokerError).RETRYABLE;
  }

  /** All in one line: what happened, what to do, and what to look for. */
  override toString(): string {
    const said = this.reason ? `${this.reason}: ${this.message}` : this.message;
    const advised = this.hint ? `${said.replace(/\.+$/, "")}. Hint: ${this.hint}` : said;
    return this.correlationId ? `${advised} (correlation id ${this.correlationId})` : advised;
  }
}

/** An attempt to connect to IB Gateway, or a link to it, failed. */
export class GatewayError extends BrokerError {
  /** What the broker knows about it. */
  readonly failure: ConnectionFailure;

  constructor(failure: ConnectionFailure, details: Omit<Details, "reason" | "hint"> = {}) {
    super(failure.message, { ...details, reason: failure.reason, hint: failure.hint });
    this.failure = failure;
  }

  override get retryable(): boolean {
    return this.failure.retryable;
  }

  /** Where: `"tcp"`, `"handshake"`, `"start_api"`, `"connected"`, `"heartbeat"` or `"admission"`. */
  get phase(): string {
    return this.failure.phase;
  }

  /** The Gateway's own error number, 0 if it sent none. */
  get twsCode(): number {
    return this.failure.twsCode;
  }

  /** The number of the dial, from 1; 0 if there was none. */
  get attempt(): number {
    return this.failure.attempt;
  }
}

/** IB_CONN_001: refused, reset or closed by the Gateway. */
export class GatewayConnectionError extends GatewayError {
  static override readonly REASON = "IB_CONN_001";
}

/** IB_CONN_002: the Gateway said error 326, or the broker itself holds the id. */
export class ClientIdInUseError extends GatewayError {
  static override readonly REASON = "IB_CONN_002";
}

/** IB_CONN_003: silence; the phase says where. */
export class GatewayTimeoutError extends GatewayError {
  static override readonly REASON = "IB_CONN_003";
}

/** IB_CONN_004: no route to the host, or its name does not resolve. */
export class NetworkUnreachableError extends GatewayError {
  static override readonly REASON = "IB_CONN_004";
}

/** IB_CONN_005: the Gateway does not accept the session until a human acts. */
export class AuthenticationError extends GatewayError {
  static override readonly REASON = "IB_CONN_005";
}

/** IB_CONN_006: the Gateway must be upgraded. */
export class IncompatibleVersionError extends GatewayError {
  static override readonly REASON = "IB_CONN_006";
}

/** A field of a request, and what is wrong with it. */
export interface Violation {
  readonly field: string;
  readonly description: string;
}

/** The request was refused as written; nothing happened. */
export class InvalidArgumentError extends BrokerError {
  static override readonly REASON = "INVALID_ARGUMENT";

  /** Each field that is wrong. */
  readonly violations: readonly Violation[];

  constructor(message: string, details: Details & { violations?: readonly Violation[] } = {}) {
    super(message, details);
    this.violations = details.violations ?? [];
  }
}

/** No session has this id. */
export class SessionNotFoundError extends BrokerError {
  static override readonly REASON = "SESSION_NOT_FOUND";
}

/** No gateway is configured under this name. */
export class GatewayNotFoundError extends BrokerError {
  static override readonly REASON = "GATEWAY_NOT_FOUND";
}

/** The requestId belongs to another open. */
export class RequestIdReusedError extends BrokerError {
  static override readonly REASON = "REQUEST_ID_REUSED";
  protected static override readonly HINT =
    "send a new requestId for each open, and the same one only to repeat it unchanged";
}

/** The session is over: closed by somebody, its lease run out, or FAILED. */
export class SessionEndedError extends BrokerError {
  static override readonly REASON = "SESSION_CLOSED";
  protected static override readonly HINT = "open a new session";

  /** The session as it was last seen; undefined if it was not. */
  session: SessionInfo | undefined;

  constructor(message: string, details: Details & { session?: SessionInfo | undefined } = {}) {
    super(message, details);
    this.session = details.session;
  }

  /** The session. */
  get sessionId(): string {
    return this.metadata.session_id ?? "";
  }

  /** Who ended it, such as `"LEASE_EXPIRED"`; empty if it FAILED, or if that is unknown. */
  get closeReason(): string {
    return this.metadata.close_reason ?? "";
  }

  /** Why it FAILED; undefined if it was ended as somebody asked. */
  get failure(): ConnectionFailure | undefined {
    return this.closeReason ? undefined : this.session?.lastFailure;
  }
}

/** The session has no link now. */
export class SessionNotConnectedError extends BrokerError {
  static override readonly REASON = "SESSION_NOT_CONNECTED";
  protected static override readonly HINT = "watch it, or try again when it is CONNECTED";
  protected static override readonly RETRYABLE = true;
}

/** All sessions of the broker or of the gateway are in use; nothing was dialled. */
export class SessionLimitError extends BrokerError {
  static override readonly REASON = "SESSION_LIMIT";
}

/** Every client id of the gateway's pool is held. */
export class ClientIdsExhaustedError extends BrokerError {
  static override readonly REASON = "CLIENT_IDS_EXHAUSTED";
}

/** The broker does not know who calls: no token, or one that is unknown, revoked or expired. */
export class UnauthenticatedError extends BrokerError {
  static override readonly REASON = "UNAUTHENTICATED";
  protected static override readonly HINT =
    "connect(address, { token }) shows a token; whoever runs the broker gives them out";
}

/** The broker knows who calls, and does not let him do this. */
export class PermissionDeniedError extends BrokerError {
  static override readonly REASON = "PERMISSION_DENIED";
  protected static override readonly HINT =
    "ask somebody whose role is {needed_role}, or the owner of the session";

  /** Who may: `"viewer"`, `"trader"` or `"operator"`. */
  get neededRole(): string {
    return this.metadata.needed_role ?? "";
  }
}

/** A watcher read too slowly; its last token is still good. */
export class SlowConsumerError extends BrokerError {
  static override readonly REASON = "SLOW_CONSUMER";
  protected static override readonly HINT =
    "handle the items of a watch faster, or narrow its filter";
  protected static override readonly RETRYABLE = true;
}

/** The gateway has failed repeatedly; new sessions are refused until it was tried again. */
export class CircuitBreakerOpenError extends BrokerError {
  static override readonly REASON = "CIRCUIT_OPEN";
  protected static override readonly HINT =
    "`gateway-broker gateways explain {gateway_id}` says what is wrong; once that is repaired, " +
    "`gateway-broker gateways reset-breaker {gateway_id}` saves the wait";
  protected static override readonly RETRYABLE = true;
}

/** An operator takes the gateway out of use. */
export class GatewayDrainingError extends BrokerError {
  static override readonly REASON = "GATEWAY_DRAINING";
  protected static override readonly HINT =
    "`gateway-broker gateways resume {gateway_id}` puts it into use again";
  protected static override readonly RETRYABLE = true;
}

/** The broker stops; ask again when it is back. */
export class BrokerDrainingError extends BrokerError {
  static override readonly REASON = "BROKER_DRAINING";
  protected static override readonly RETRYABLE = true;
}

/** The broker's database did not take or give the record. */
export class StoreUnavailableError extends BrokerError {
  static override readonly REASON = "STORE_UNAVAILABLE";
  protected static override readonly HINT = "whoever runs the broker must see to its database";
  protected static override readonly RETRYABLE = true;
}

/** The broker erred; its log says more. */
export class BrokerInternalError extends BrokerError {
  static override readonly REASON = "INTERNAL";
  protected static override readonly HINT = "look for error_id {error_id} in the broker's log";
}

/** No broker answers. Whether it has done what was asked is unknown. */
export class BrokerUnreachableError extends BrokerError {
  protected static override readonly HINT: string =
    "is it running there? `gateway-broker serve` or `gateway-broker dev` starts one";
  protected static override readonly RETRYABLE = true;
}

/** No answer within the time given. Whether the broker has done what was asked is unknown. */
export class CallTimeoutError extends BrokerUnreachableError {
  protected static override readonly HINT =
    "give it more time with `timeout`, or see the broker's log";
}

/** Something answers, but not as this library expects of a broker. */
export class UnexpectedAnswerError extends BrokerError {
  protected static override readonly HINT =
    "it is no gateway-broker, an older one, or something between has answered";

  /** The name of the gRPC status, such as `"UNIMPLEMENTED"`. */
  readonly code: string;

  constructor(message: string, details: Details & { code: string }) {
    super(message, details);
    this.code = details.code;
  }
}

/** Where a watch has found its stream to be incomplete. */
export interface Gap {
  /** The session whose events are missing; empty if it is about the stream itself. */
  sessionId?: string;
  /** The sequence or revision that should have come. */
  expected?: bigint;
  /** The one that came. */
  received?: bigint;
}

/** A watch has proof that its stream is not complete: the broker, or something between, erred. */
export class WatchGapError extends BrokerError {
  protected static override readonly HINT =
    "begin a new watch without a token: its snapshot is complete. Report this";

  /** The session whose events are missing; empty if it is about the stream itself. */
  readonly sessionId: string;
  /** The sequence or revision that should have come. */
  readonly expected: bigint;
  /** The one that came. */
  readonly received: bigint;

  constructor(message: string, { sessionId = "", expected = 0n, received = 0n }: Gap = {}) {
    super(message);
    this.sessionId = sessionId;
    this.expected = expected;
    this.received = received;
  }
}

/** The Broker was closed, by `close()` or at the end of its block. */
export class BrokerClosedError extends BrokerError {
  protected static override readonly HINT = "end what uses a Broker before it is closed";
}
