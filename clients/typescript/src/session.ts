/** A handle on one session. */

import type { PageOptions, SessionCalls } from "./calls.js";
import type { CallOptions, Connection } from "./connection.js";
import { type BrokerError, SessionEndedError, SessionNotFoundError } from "./errors.js";
import type { SessionEvent } from "./events.js";
import { type Session as SessionInfo, SessionState } from "./gen/ibgateway/broker/v1/session_pb.js";
import type { VerifySessionResponse } from "./gen/ibgateway/broker/v1/session_service_pb.js";
import type { Lifeline } from "./lifeline.js";
import { Watch, type WatchOptions } from "./watch.js";

/** Seconds that closing may take at the end of a block. */
export const LEAVE_TIMEOUT = 15;

/**
 * One session: what it is now, and what can be done with it.
 *
 * Made by `Broker.openSession` and `Broker.attach`. It stays current by itself, and renews the lease of
 * its session, until it is closed, or its Broker is.
 *
 * That the session has ended, by whomever, is told in each of these ways: {@link ended},
 * {@link waitEnded}, SessionEndedError from whatever needs a session, the end of {@link watch}; and if it
 * was not this handle, by {@link signal} and a line in the log.
 *
 * An end is told at once and for good. If it was void, because the broker died before it was on record
 * (see `persisted` of SessionEvent), the session that lives is closed while its Broker is open, unless
 * it is detached; only {@link watch} goes on until then.
 *
 * At the end of an `await using` block it is closed, unless it was detached.
 */
export class Session implements AsyncDisposable {
  /** Whether the open has created the session, or found it by its requestId or sessionId. */
  readonly created: boolean;
  readonly #connection: Connection;
  readonly #calls: SessionCalls;
  readonly #lifeline: Lifeline;

  constructor(connection: Connection, calls: SessionCalls, lifeline: Lifeline, created: boolean) {
    this.#connection = connection;
    this.#calls = calls;
    this.#lifeline = lifeline;
    this.created = created;
  }

  /** The session as it was last seen; not to be changed. */
  get info(): SessionInfo {
    return this.#lifeline.info;
  }

  /** The id that the broker has given. */
  get sessionId(): string {
    return this.info.sessionId;
  }

  /** The gateway. */
  get gatewayId(): string {
    return this.info.gatewayId;
  }

  /** The effective client id, which owns the session's orders. */
  get clientId(): number {
    return this.info.clientId;
  }

  /** The managed accounts; empty before the first handshake. */
  get accounts(): readonly string[] {
    return this.info.accounts;
  }

  /** As given when it was opened. */
  get labels(): Readonly<Record<string, string>> {
    return this.info.labels;
  }

  /** The one state. */
  get state(): SessionState {
    return this.info.state;
  }

  /** Grows by one with each link; subscriptions belong to it. */
  get generation(): bigint {
    return this.info.generation;
  }

  /** Whether the session has ended. */
  get ended(): boolean {
    return this.#lifeline.isOver;
  }

  /**
   * Aborted with a SessionEndedError once somebody else has ended the session: an operator, a lease that
   * ran out, a Gateway that was given up. For whatever should not outlive it.
   */
  get signal(): AbortSignal {
    return this.#lifeline.signal;
  }

  /**
   * Why nothing is known of the session for now, so that {@link info} is as it was before: the broker
   * cannot be reached, or refuses the caller; or the handle, or the Broker, was closed, and the session
   * lives. Undefined while it is followed.
   */
  get interruption(): BrokerError | undefined {
    return this.#lifeline.interruption;
  }

  /**
   * Why the last renewal of the lease failed; undefined if it did not. It is tried again until it
   * succeeds, or the session is known to have ended.
   */
  get renewalError(): BrokerError | undefined {
    return this.#lifeline.renewalError;
  }

  /**
   * Wait until the session has ended, by whomever; gives how.
   *
   * @throws BrokerClosedError: the handle, or the Broker, was closed, and the session lives.
   * @throws the signal's reason.
   */
  async waitEnded(options: { signal?: AbortSignal | undefined } = {}): Promise<SessionInfo> {
    await this.#lifeline.wait(() => this.ended, options.signal);
    return this.info;
  }

  /**
   * Wait until the session is known to be CONNECTED; without limit, but for the signal
   * (`AbortSignal.timeout(ms)` is one).
   *
   * @throws SessionEndedError: it has ended.
   * @throws BrokerClosedError: as {@link waitEnded}.
   * @throws the signal's reason.
   */
  async waitConnected(options: { signal?: AbortSignal | undefined } = {}): Promise<SessionInfo> {
    const isConnected = () =>
      this.state === SessionState.CONNECTED && this.interruption === undefined;
    await this.#lifeline.wait(() => this.ended || isConnected(), options.signal);
    this.#require();
    return this.info;
  }

  /**
   * Ask the broker for the session as it is now, also if it has ended.
   *
   * @throws SessionEndedError: the broker has no record of it.
   */
  async refresh(options: CallOptions = {}): Promise<SessionInfo> {
    return this.#learn(await this.#call(this.#calls.getSession(this.sessionId, options)));
  }

  /**
   * Ask the Gateway, over the session's own link, for its time: see `verifySession`.
   *
   * @throws SessionEndedError: the session has ended.
   */
  async verify(options: CallOptions = {}): Promise<VerifySessionResponse> {
    this.#require();
    return this.#call(this.#calls.verifySession(this.sessionId, options));
  }

  /**
   * Let the lease begin anew, or begin; it is renewed by itself from then on.
   *
   * @param options - `leaseTtl` is how many seconds it lasts; as before unless given.
   * @throws SessionEndedError: the session has ended.
   * @throws InvalidArgumentError: it has no lease and none is asked for.
   */
  async renew(options: CallOptions & { leaseTtl?: number | undefined } = {}): Promise<SessionInfo> {
    this.#require();
    this.#lifeline.renewed(await this.#call(this.#calls.renewSession(this.sessionId, options)));
    return this.info;
  }

  /**
   * Say that whatever was interrupted is subscribed anew: DATA_CONTINUOUS is TRUE again.
   *
   * @param options - `generation` is that of the session when you subscribed.
   * @throws SessionEndedError: the session has ended.
   * @throws SessionNotConnectedError: it has no link now.
   * @throws InvalidArgumentError: its link was made anew meanwhile.
   */
  async acknowledgeData(options: CallOptions & { generation: bigint }): Promise<SessionInfo> {
    this.#require();
    return this.#learn(await this.#call(this.#calls.acknowledgeData(this.sessionId, options)));
  }

  /** Its recorded history, oldest first, also when it has ended; `timeout` is for each page. */
  events(options: PageOptions = {}): AsyncGenerator<SessionEvent, void, void> {
    return this.#calls.sessionEvents(this.sessionId, options);
  }

  /** Follow the session: as it is now, then whatever happens to it, until its end is on record. */
  watch(options: WatchOptions = {}): Watch {
    const filter = { sessionIds: [this.sessionId], includeFinal: true };
    return new Watch(
      this.#connection,
      { ...options, ...filter },
      {
        ended: () => (this.#lifeline.isSettled ? this.info : undefined),
        told: (session) => this.#lifeline.learn(session),
      },
    );
  }

  /**
   * Leave the session open when the block, or the Broker, ends.
   *
   * Its lease, if it has one, is not renewed any more then: it ends the session unless somebody attaches
   * to it in time.
   */
  detach(): void {
    this.#lifeline.keepOpen = true;
  }

  /**
   * End the session; answers when its link has ended. Closing twice is no error.
   *
   * To cancel it ends the wait; once the broker has the request, the session closes all the same. An end
   * that was told before it is on record may still prove void: it has the rest of the timeout for that.
   *
   * @param options - `reason` is for the broker's log; `timeout` is 30 s by default.
   * @throws SessionNotFoundError: the broker has no record of it.
   */
  async close(options: CallOptions & { reason?: string | undefined } = {}): Promise<SessionInfo> {
    await this.#lifeline.close(options);
    return this.info;
  }

  /**
   * The end of an `await using` block: close the session unless it was detached.
   *
   * @throws BrokerError: it could not be closed within 15 s.
   */
  [Symbol.asyncDispose](): Promise<void> {
    return this.#lifeline.leave(LEAVE_TIMEOUT);
  }

  #require(): void {
    if (this.ended) {
      throw this.#lifeline.endedError();
    }
  }

  #learn(info: SessionInfo): SessionInfo {
    this.#lifeline.learn(info);
    return this.info;
  }

  /** Make a call that finds out if the session is over. */
  async #call<T>(call: Promise<T>): Promise<T> {
    try {
      return await call;
    } catch (error) {
      if (error instanceof SessionNotFoundError) {
        this.#lifeline.lose();
        throw this.#lifeline.endedError(error);
      }
      if (error instanceof SessionEndedError) {
        error.session = this.info;
      }
      throw error;
    }
  }
}
