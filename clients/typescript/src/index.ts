/**
 * Sessions with Interactive Brokers Gateway, brokered by a gateway-broker.
 *
 * {@link connect} gives a {@link Broker}, {@link Broker.openSession} a {@link Session}, and the `watch` of
 * either an async iterable of {@link WatchItem}s. Every duration that is given to or by these is in
 * seconds. The messages are the generated ones: their 64-bit integers are bigint, and their durations and
 * times those of protobuf, for which there are {@link seconds} and {@link timestampDate}.
 *
 * @module
 */

export { timestampDate } from "@bufbuild/protobuf/wkt";
export {
  Broker,
  type ConnectOptions,
  connect,
  type OpenOptions,
  type TlsCredentials,
} from "./broker.js";
export type { PageOptions, SessionCalls } from "./calls.js";
export type { CallOptions, Logger } from "./connection.js";
export * from "./errors.js";
export type {
  Bookmark,
  Draining,
  Interrupted,
  Reset,
  Resumed,
  SessionEvent,
  Snapshot,
  SnapshotComplete,
  WatchItem,
} from "./events.js";
export { isFinal } from "./events.js";
export type { Filter } from "./filters.js";
export type { Gateways } from "./gateways.js";
export {
  type GetBrokerInfoResponse as BrokerInfo,
  Role,
} from "./gen/ibgateway/broker/v1/broker_service_pb.js";
export type { ConnectionFailure } from "./gen/ibgateway/broker/v1/error_pb.js";
export {
  CircuitBreakerState,
  type Gateway,
  GatewayKind,
} from "./gen/ibgateway/broker/v1/gateway_pb.js";
export {
  type Condition,
  ConditionStatus,
  type Session as SessionInfo,
  SessionState,
} from "./gen/ibgateway/broker/v1/session_pb.js";
export {
  ClientIdPolicy,
  type VerifySessionResponse as Verification,
} from "./gen/ibgateway/broker/v1/session_service_pb.js";
export { Backoff } from "./retry.js";
export { Session } from "./session.js";
export { seconds } from "./time.js";
export type { Watch, WatchOptions } from "./watch.js";
