/**
 * From the status of a call to an error; nowhere else.
 *
 * The broker packs a google.rpc.Status into the trailing metadata. An error without our ErrorInfo in
 * it does not come from a broker.
 */

import { create } from "@bufbuild/protobuf";
import { type ServiceError, status } from "@grpc/grpc-js";
import { type BrokerDetails, unpack } from "./details.js";
import * as errors from "./errors.js";
import { ConnectionFailureSchema } from "./gen/ibgateway/broker/v1/error_pb.js";

export const CORRELATION_KEY = "x-correlation-id";
const DETAILS_KEY = "grpc-status-details-bin";

const GATEWAY_ERRORS = new Map(
  [
    errors.GatewayConnectionError,
    errors.ClientIdInUseError,
    errors.GatewayTimeoutError,
    errors.NetworkUnreachableError,
    errors.AuthenticationError,
    errors.IncompatibleVersionError,
  ].map((kind) => [kind.REASON as string, kind]),
);

const OTHER_ERRORS = new Map(
  [
    errors.InvalidArgumentError,
    errors.SessionNotFoundError,
    errors.GatewayNotFoundError,
    errors.RequestIdReusedError,
    errors.SessionEndedError,
    errors.SessionNotConnectedError,
    errors.SessionLimitError,
    errors.ClientIdsExhaustedError,
    errors.UnauthenticatedError,
    errors.PermissionDeniedError,
    errors.SlowConsumerError,
    errors.CircuitBreakerOpenError,
    errors.GatewayDrainingError,
    errors.BrokerDrainingError,
    errors.StoreUnavailableError,
    errors.BrokerInternalError,
  ].map((kind) => [kind.REASON as string, kind]),
);

/** What is known of a call that has failed. */
export interface Call {
  /** Whom was asked, for the message. */
  address: string;
  /** The seconds that the caller gave it; undefined if there was no limit. */
  timeout: number | undefined;
  /** What was sent as its id. */
  correlationId: string;
}

/** What the end of a call means. */
export function explain(end: ServiceError, call: Call): errors.BrokerError {
  const given = end.metadata?.get(CORRELATION_KEY)[0];
  const correlationId = typeof given === "string" ? given : call.correlationId;
  const packed = end.metadata?.get(DETAILS_KEY)[0];
  const details = packed instanceof Uint8Array ? unpack(packed) : undefined;
  return details === undefined
    ? foreign(end, { ...call, correlationId })
    : ours(details, end.details, correlationId);
}

function ours(details: BrokerDetails, message: string, correlationId: string): errors.BrokerError {
  const { reason, metadata, retryAfter, violations } = details;
  const gatewayError = GATEWAY_ERRORS.get(reason);
  if (gatewayError !== undefined) {
    // Of a failure of which nothing but the code is told, that is all.
    const failure = details.failure ?? create(ConnectionFailureSchema, { reason, message });
    return new gatewayError(failure, { metadata, retryAfter, correlationId });
  }
  const known = { reason, metadata, retryAfter, correlationId, violations };
  return new (OTHER_ERRORS.get(reason) ?? errors.BrokerError)(message, known);
}

function foreign(end: ServiceError, call: Call): errors.BrokerError {
  const { address, timeout, correlationId } = call;
  switch (end.code) {
    case status.DEADLINE_EXCEEDED: {
      const within = timeout === undefined ? "in time" : `within ${timeout} s`;
      return new errors.CallTimeoutError(`the broker at ${address} has not answered ${within}`, {
        correlationId,
      });
    }
    // A server that has too many calls waiting, and proxies, end a call with a bare CANCELLED.
    case status.UNAVAILABLE:
    case status.CANCELLED:
      return new errors.BrokerUnreachableError(`no broker answers at ${address}: ${end.details}`, {
        correlationId,
      });
    default: {
      const code = status[end.code] ?? String(end.code);
      return new errors.UnexpectedAnswerError(`${address} answered ${code}: ${end.details}`, {
        code,
        correlationId,
      });
    }
  }
}
