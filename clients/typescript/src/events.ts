/**
 * What a watch tells, item by item; `kind` tells them apart.
 *
 * Each item has a `token`: the place in the log up to which whoever has handled it knows everything. A
 * process that keeps the last one continues from there. It is empty where nothing can be continued:
 * before a snapshot is complete, and in histories.
 */

import { create } from "@bufbuild/protobuf";
import type { Timestamp } from "@bufbuild/protobuf/wkt";

import type { BrokerError } from "./errors.js";
import type { SessionEvent as EventMessage } from "./gen/ibgateway/broker/v1/session_event_pb.js";
import {
  type Session as SessionInfo,
  SessionSchema,
  SessionState,
} from "./gen/ibgateway/broker/v1/session_pb.js";
import type { WatchSessionsResponse } from "./gen/ibgateway/broker/v1/session_service_pb.js";

/** A session as it is now: how a watch without a token begins. */
export interface Snapshot {
  readonly kind: "snapshot";
  /** Empty; the snapshot is not complete. */
  readonly token: string;
  readonly session: SessionInfo;
}

/** All sessions that match were told; what happens from now on follows. */
export interface SnapshotComplete {
  readonly kind: "snapshotComplete";
  readonly token: string;
  /** That of the newest event that the snapshot holds. */
  readonly revision: bigint;
}

/** One entry of a session's log. */
export interface SessionEvent {
  readonly kind: "event";
  readonly token: string;
  readonly sessionId: string;
  /** Its place in its session's log, from 1, without gap. */
  readonly sequence: bigint;
  /** Broker-wide, growing with each event; 0 while it is not persisted. */
  readonly revision: bigint;
  /**
   * Whether it is in the database. While that is away an event is told before; it comes again once it
   * is kept, and supersedes what was told with the same session and sequence.
   */
  readonly persisted: boolean;
  /** When it happened, by the broker's clock. */
  readonly time: Timestamp | undefined;
  /** That of the request or the outage that caused it. */
  readonly correlationId: string;
  /** The session as it is after the event. */
  readonly session: SessionInfo;
  /** What happened; its `case` is undefined if this library does not know it. */
  readonly change: EventMessage["change"];
}

/** Nothing else that matches has happened up to here; sent while all is quiet. */
export interface Bookmark {
  readonly kind: "bookmark";
  readonly token: string;
  /** Up to where. */
  readonly revision: bigint;
  /** The oldest event that the broker still has: a token of an older one can no longer be continued. */
  readonly oldestRevision: bigint;
}

/** What is known is void: the snapshot that follows replaces all of it. */
export interface Reset {
  readonly kind: "reset";
  /** Empty; the snapshot is not complete. */
  readonly token: string;
  /**
   * `"TOKEN_TOO_OLD"`, `"TOKEN_OF_ANOTHER_STORE"`, `"TOKEN_AHEAD"`, `"EVENTS_EXPIRED"`, or
   * `"SNAPSHOT_INCOMPLETE"` if the watch was interrupted before its snapshot was complete.
   */
  readonly reason: string;
  /** The oldest event that the broker still has; 0 if it did not say. */
  readonly oldestRevision: bigint;
}

/** The broker is about to stop. The watch continues with its successor by itself. */
export interface Draining {
  readonly kind: "draining";
  readonly token: string;
  /** When it stops at the latest. */
  readonly stopTime: Timestamp | undefined;
}

/**
 * The stream was lost: nothing is known until {@link Resumed}, which comes by itself. Told once for
 * each loss, again when the cause changes, and before each wait of more than 30 s. A watch waits as long
 * as the broker asks, for an hour at most.
 */
export interface Interrupted {
  readonly kind: "interrupted";
  /** Where the watch will continue; empty if it must begin anew. */
  readonly token: string;
  /** Why, with a hint. */
  readonly error: BrokerError;
  /** Seconds until the next try. */
  readonly retryIn: number;
}

/** The stream is open again after an interruption; what was missed follows. */
export interface Resumed {
  readonly kind: "resumed";
  /** Where the watch continues; empty if it begins anew. */
  readonly token: string;
}

/** What a watch tells. */
export type WatchItem =
  | Snapshot
  | SnapshotComplete
  | SessionEvent
  | Bookmark
  | Reset
  | Draining
  | Interrupted
  | Resumed;

/** Whether a session in this state has ended. */
export function isFinal(session: SessionInfo): boolean {
  return session.state === SessionState.DISCONNECTED || session.state === SessionState.FAILED;
}

/** An event as the broker has sent it. */
export function eventOf(message: EventMessage, token: string): SessionEvent {
  const { sessionId, sequence, revision, persisted, time, correlationId, change } = message;
  const session = message.session ?? create(SessionSchema);
  const fields = { sessionId, sequence, revision, persisted, time, correlationId, session, change };
  return { kind: "event", token, ...fields };
}

/** A message as the broker has sent it; undefined if this library does not know its kind. */
export function itemOf(sent: WatchSessionsResponse): WatchItem | undefined {
  const { resumeToken: token, revision, message } = sent;
  switch (message.case) {
    case "snapshot":
      return { kind: "snapshot", token: "", session: message.value };
    case "snapshotComplete":
      return { kind: "snapshotComplete", token, revision };
    case "event":
      return eventOf(message.value, token);
    case "bookmark":
      return { kind: "bookmark", token, revision, oldestRevision: message.value.oldestRevision };
    case "reset": {
      const { reason, oldestRevision } = message.value;
      return { kind: "reset", token: "", reason, oldestRevision };
    }
    case "draining":
      return { kind: "draining", token, stopTime: message.value.stopTime };
    case undefined:
      return undefined;
  }
}
