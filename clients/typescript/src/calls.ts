/** The calls about sessions that name them by their id. */

import { create } from "@bufbuild/protobuf";

import type { CallOptions, Connection } from "./connection.js";
import { eventOf, type SessionEvent } from "./events.js";
import { type Filter, fieldsOf } from "./filters.js";
import {
  type Session as SessionInfo,
  SessionSchema,
} from "./gen/ibgateway/broker/v1/session_pb.js";
import {
  SessionService,
  type VerifySessionResponse,
} from "./gen/ibgateway/broker/v1/session_service_pb.js";
import { duration, limit } from "./time.js";
import { Watch, type WatchOptions } from "./watch.js";

/** Seconds for a call that does not wait for a Gateway. */
export const TIMEOUT = 10;
/** Seconds for a probe: longer than the broker itself waits for the Gateway. */
const VERIFY_TIMEOUT = 30;
/** Seconds for a session to end: longer than the broker itself waits for its link. */
export const CLOSE_TIMEOUT = 30;
const PAGE = 500;

const rpc = SessionService.method;

/** What a paged list can be given; `timeout` is for each page. */
export interface PageOptions extends CallOptions {
  /** How many are fetched at once, at most 1000; 500 by default. */
  pageSize?: number | undefined;
}

/**
 * Finds, watches, probes, renews and ends sessions by their id.
 *
 * Each method takes {@link CallOptions} and may throw any BrokerError; only those with a meaning of
 * their own are listed. Calls are repeated within their timeout if the broker cannot be reached, or
 * says that it could not serve them now; see `connect`. An abort of their signal cancels them at once.
 */
export class SessionCalls {
  protected readonly connection: Connection;

  constructor(connection: Connection) {
    this.connection = connection;
  }

  /**
   * One session, also one that has ended.
   *
   * @throws SessionNotFoundError: there is no record of it.
   */
  async getSession(sessionId: string, options: CallOptions = {}): Promise<SessionInfo> {
    return sessionOf(
      await this.connection.call(rpc.getSession, { sessionId }, repeatable(options)),
    );
  }

  /**
   * The sessions that match, oldest first, fetched page by page.
   *
   * @param options - all of the filter must match.
   */
  async *listSessions(options: Filter & PageOptions = {}): AsyncGenerator<SessionInfo, void, void> {
    const filter = fieldsOf(options);
    const { pageSize = PAGE } = options;
    let pageToken = "";
    do {
      const page = await this.connection.call(
        rpc.listSessions,
        { ...filter, pageSize, pageToken },
        repeatable(options),
      );
      yield* page.sessions;
      pageToken = page.nextPageToken;
    } while (pageToken);
  }

  /**
   * The recorded history of a session, oldest first, fetched page by page. Events older than the
   * broker's retention are gone: the sequence of the first says how many.
   *
   * @throws SessionNotFoundError: there is no record of it.
   */
  async *sessionEvents(
    sessionId: string,
    options: PageOptions = {},
  ): AsyncGenerator<SessionEvent, void, void> {
    const { pageSize = PAGE } = options;
    let pageToken = "";
    do {
      const page = await this.connection.call(
        rpc.listSessionEvents,
        { sessionId, pageSize, pageToken },
        repeatable(options),
      );
      yield* page.events.map((event) => eventOf(event, ""));
      pageToken = page.nextPageToken;
    } while (pageToken);
  }

  /**
   * End a session; answers when its link has ended. One that has ended stays as it is.
   *
   * To cancel it ends the wait; once the broker has the request, the session closes all the same.
   *
   * @param options - `reason` is for the broker's log, at most 256 characters; `timeout` is 30 s by
   *   default.
   * @throws SessionNotFoundError: there is no record of it.
   */
  async closeSession(
    sessionId: string,
    options: CallOptions & { reason?: string | undefined } = {},
  ): Promise<SessionInfo> {
    const { reason = "" } = options;
    return sessionOf(
      await this.connection.call(
        rpc.closeSession,
        { sessionId, reason },
        repeatable(options, CLOSE_TIMEOUT),
      ),
    );
  }

  /**
   * Let the lease of a session begin anew. A `Session` does it by itself.
   *
   * @param options - `leaseTtl` is how many seconds the lease lasts from now on, 1 to 86400; as before
   *   unless given. The broker may shorten it: see the answer.
   * @throws SessionNotFoundError: there is no record of it.
   * @throws SessionEndedError: it has ended, or is closing.
   * @throws InvalidArgumentError: it has no lease and none is asked for.
   */
  async renewSession(
    sessionId: string,
    options: CallOptions & { leaseTtl?: number | undefined } = {},
  ): Promise<SessionInfo> {
    const leaseTtl = options.leaseTtl === undefined ? undefined : duration(options.leaseTtl);
    return sessionOf(
      await this.connection.call(rpc.renewSession, { sessionId, leaseTtl }, repeatable(options)),
    );
  }

  /**
   * Ask the Gateway, over the session's own link, for its time.
   *
   * A session that is not CONNECTED is not healthy, which is no error. A probe that is not answered
   * counts as the loss of the link. It is not repeated: what matters is how it is now. To cancel it
   * ends the wait; the probe is out all the same.
   *
   * @param options - `timeout` is 30 s by default.
   * @throws SessionNotFoundError: there is no record of it.
   */
  async verifySession(
    sessionId: string,
    options: CallOptions = {},
  ): Promise<VerifySessionResponse> {
    return this.connection.call(
      rpc.verifySession,
      { sessionId },
      { ...repeatable(options, VERIFY_TIMEOUT), isIdempotent: false },
    );
  }

  /**
   * Say that whatever was interrupted is subscribed anew: DATA_CONTINUOUS is TRUE again. To say it
   * again is no error.
   *
   * @param options - `generation` is that of the session when you subscribed, as the event said that
   *   told you to. Not the newest: the link may have been lost again since.
   * @throws SessionNotFoundError: there is no record of it.
   * @throws SessionNotConnectedError: it has no link now.
   * @throws InvalidArgumentError: its link was made anew meanwhile.
   */
  async acknowledgeData(
    sessionId: string,
    options: CallOptions & { generation: bigint },
  ): Promise<SessionInfo> {
    const { generation } = options;
    return sessionOf(
      await this.connection.call(
        rpc.acknowledgeData,
        { sessionId, generation },
        repeatable(options),
      ),
    );
  }

  /**
   * Follow the sessions that match: their snapshot, then whatever happens to them.
   *
   * The watch resumes by itself after any loss of its stream, for as long as it takes; that it is
   * interrupted is told as an item. Nothing is sent before the first item is asked for.
   *
   * @param options - all of the filter must match; an event is told if its session matched before or
   *   after it.
   * @throws TypeError: a single id or state, where several are expected.
   */
  watch(options: Filter & WatchOptions = {}): Watch {
    return new Watch(this.connection, options);
  }
}

/** The options of a call that may be repeated when nobody has answered. */
export function repeatable(options: CallOptions, standard = TIMEOUT) {
  const timeout = limit("timeout", options.timeout, standard);
  return { ...options, timeout, isIdempotent: true };
}

/** The session in an answer. */
export function sessionOf(answer: { session?: SessionInfo | undefined }): SessionInfo {
  return answer.session ?? create(SessionSchema);
}
