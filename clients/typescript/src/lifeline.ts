/** Keeps a handle current, and the lease of its session alive, by two loops of its own. */

import { setMaxListeners } from "node:events";

import { CLOSE_TIMEOUT, type SessionCalls } from "./calls.js";
import { type CallOptions, type Logger, now } from "./connection.js";
import {
  BrokerClosedError,
  BrokerError,
  InvalidArgumentError,
  SessionEndedError,
  SessionNotFoundError,
} from "./errors.js";
import { isFinal } from "./events.js";
import { type Session as SessionInfo, SessionState } from "./gen/ibgateway/broker/v1/session_pb.js";
import { Backoff } from "./retry.js";
import { seconds } from "./time.js";
import { LATE, sleep, unless, within } from "./waiting.js";

/** Renewals within the time of one lease. */
const RENEWALS = 3;
/** Seconds for a renewal, at most. */
const RENEWAL_TIMEOUT = 10;
const BACKOFF = new Backoff({ initial: 0.5, maximum: 5 });

/**
 * What is known of a session, and who hears when it ends.
 *
 * Two loops, until {@link stop} or the session's end: one follows the session, one renews its lease at
 * a third of the time that was granted. Neither gives up while it is unknown whether the session lives:
 * a broker that restarts takes its sessions up, and their leases begin anew.
 *
 * An end is told at once and stays told, but the session is followed until that is on record. If the
 * broker dies before, the session lives in the next one, where nobody uses it: it is closed.
 */
export class Lifeline {
  /** Whether {@link leave} leaves the session open. */
  keepOpen: boolean;
  /** Why the last renewal failed; undefined if it did not. */
  renewalError: BrokerError | undefined;
  readonly #calls: SessionCalls;
  readonly #logger: Logger | undefined;
  readonly #forget: (lifeline: Lifeline) => void;
  readonly #ended = new AbortController();
  readonly #stopping = new AbortController();
  readonly #waiting = new Set<() => void>();
  #interruption: BrokerError | undefined;
  #loops: Promise<unknown> = Promise.resolve();
  #info: SessionInfo;
  #renewedAt = now();
  /** Ends the wait for the next renewal. */
  #lease = new AbortController();
  #isGone = false;
  /** How many of our closes are under way or have succeeded. */
  #closes = 0;
  /** Its end was told by an event that was not persisted. */
  #mayLive = false;
  /** The broker has it, though its end was told. */
  #livesOn = false;
  /** Its end was told by what is persisted. */
  #isOnRecord = false;
  /** Events that were not persisted are void when the broker dies. */
  #mayFallBack = false;

  /**
   * @param info - the session as the broker has just answered.
   * @param forget - called once nothing is left to be done at the end of the Broker.
   */
  constructor(
    calls: SessionCalls,
    info: SessionInfo,
    options: {
      keepOpen: boolean;
      logger: Logger | undefined;
      forget: (lifeline: Lifeline) => void;
    },
  ) {
    this.#calls = calls;
    this.#info = info;
    this.keepOpen = options.keepOpen;
    this.#logger = options.logger;
    this.#forget = options.forget;
    // As many may wait at once as like to, and hear of the end.
    setMaxListeners(0, this.#ended.signal, this.#stopping.signal);
  }

  /** The session as it was last seen. */
  get info(): SessionInfo {
    return this.#info;
  }

  /** Whether the session has ended, or the broker has no record of it. */
  get isOver(): boolean {
    return this.#isGone || isFinal(this.#info);
  }

  /** Whether nothing will follow about the session, or nobody looks: its end is on record. */
  get isSettled(): boolean {
    const isKept = this.#isOnRecord || (this.#stopping.signal.aborted && !this.#mayLive);
    return this.#isGone || (isFinal(this.#info) && isKept);
  }

  /** Why nothing is known of the session now; undefined if it is followed. */
  get interruption(): BrokerError | undefined {
    const { aborted, reason } = this.#stopping.signal;
    return aborted && !this.isOver ? (reason as BrokerClosedError) : this.#interruption;
  }

  /** Aborted with a SessionEndedError once somebody else has ended the session. */
  get signal(): AbortSignal {
    return this.#ended.signal;
  }

  /** Why nothing can be done with the session any more. */
  endedError(cause?: unknown): SessionEndedError {
    const { sessionId, closeReason, lastFailure, state } = this.#info;
    let end = "has ended: the broker has no record of it";
    let hint: string | undefined;
    if (isFinal(this.#info)) {
      end = `has ended: ${closeReason || SessionState[state]}`;
      if (!closeReason && lastFailure !== undefined) {
        end = `has FAILED: ${lastFailure.message}`;
        hint = lastFailure.hint;
      }
    }
    if (closeReason === "LEASE_EXPIRED") {
      hint = "its lease was not renewed in time: was this process, or its event loop, blocked?";
    }
    return new SessionEndedError(`session ${sessionId} ${end}`, {
      metadata: { session_id: sessionId, close_reason: closeReason },
      hint,
      session: this.#info,
      cause,
    });
  }

  /** Begin, just after the broker's answer. */
  start(): void {
    const loops = [this.#loop(this.#renew()), this.#loop(this.#follow())];
    this.#loops = Promise.all(loops).then(() => {
      if (this.isOver) {
        this.#forget(this);
      }
    });
  }

  /** End both loops; whoever waits is told. Stopping twice is no error. */
  async stop(): Promise<void> {
    this.#stopping.abort(
      new BrokerClosedError(
        `session ${this.#info.sessionId} is followed no longer: it, or its Broker, was closed`,
      ),
    );
    this.#lease.abort();
    this.#forget(this);
    await this.#loops;
  }

  /** End the session; see `Session.close`. It is followed on, until that is on record or {@link stop}. */
  async close(options: CallOptions & { reason?: string | undefined }): Promise<void> {
    const deadline = now() + (options.timeout ?? CLOSE_TIMEOUT);
    this.#closes += 1;
    try {
      this.learn(await this.#calls.closeSession(this.#info.sessionId, options));
    } catch (error) {
      // Nobody knows whether it closes: whatever ends it from now on is news.
      this.#closes -= 1;
      if (error instanceof SessionNotFoundError) {
        this.lose();
      }
      throw error;
    }
    await this.#settle(deadline - now(), options.signal);
    if (this.isSettled) {
      await this.stop();
    }
  }

  /**
   * What the end of a block, or of the Broker, does: close the session unless it is to stay open. One
   * whose end is not on record is followed on, until {@link stop}.
   *
   * @param timeout - seconds that this may take.
   * @throws BrokerError: it could not be closed. Nothing is left behind here all the same.
   */
  async leave(timeout: number): Promise<void> {
    try {
      if ((this.keepOpen && !this.#livesOn) || this.#stopping.signal.aborted) {
        return;
      }
      if (this.isOver) {
        // A close of our own has waited for its record already.
        const mayWait = this.#closes === 0 || this.#livesOn;
        await this.#settle(mayWait ? timeout : 0);
      } else {
        await this.close({ reason: "its block has ended", timeout });
      }
    } catch (error) {
      if (!(error instanceof SessionNotFoundError)) {
        throw error;
      }
    } finally {
      const isLeft = !this.isOver || (this.keepOpen && this.#closes === 0);
      if (isLeft || this.isSettled) {
        await this.stop();
      }
    }
  }

  /** Take what a call has answered or a watch has told, unless something newer is known. */
  learn(info: SessionInfo): void {
    // Nothing comes after an end that was answered, whatever was told that a broker has forgotten.
    if (info.sequence >= this.#info.sequence || isFinal(info)) {
      this.#set(info);
    }
  }

  /** The lease begins anew, as the broker has just answered. */
  renewed(info: SessionInfo): void {
    this.learn(info);
    this.#setLease(info);
    this.#renewedAt = now();
    this.#lease.abort();
  }

  /** The broker has no record of the session. */
  lose(): void {
    const wasOver = this.isOver;
    this.#isGone = true;
    this.#livesOn = false;
    this.#pulse();
    if (!wasOver) {
      this.#tellEnd();
    }
  }

  /**
   * Wait until something is so.
   *
   * @throws BrokerClosedError: the session is followed no longer.
   * @throws the signal's reason.
   */
  async wait(check: () => boolean, signal?: AbortSignal): Promise<void> {
    signal?.throwIfAborted();
    while (!check()) {
      this.#stopping.signal.throwIfAborted();
      let wake = () => {};
      const changed = new Promise<void>((resolve) => {
        wake = resolve;
      });
      this.#waiting.add(wake);
      try {
        await unless(unless(changed, this.#stopping.signal), signal);
      } finally {
        this.#waiting.delete(wake);
        wake();
      }
    }
  }

  /** Give an end that may be void some seconds to get on record, or the session to be closed. */
  async #settle(seconds: number, signal?: AbortSignal): Promise<void> {
    if (!this.#mayLive && !this.#livesOn) {
      return;
    }
    const settled = this.wait(() => this.isSettled, signal);
    const result = await within(
      settled.catch((error) => {
        if (!(error instanceof BrokerClosedError)) {
          throw error;
        }
      }),
      seconds,
    );
    if (result === LATE) {
      this.#logger?.warn(
        `session ${this.#info.sessionId} may live: its end is not on record yet, and not waited for`,
      );
    }
  }

  /** A loop that dies of a bug of ours is heard, and one that was stopped has just ended. */
  async #loop(loop: Promise<void>): Promise<void> {
    try {
      await loop;
    } catch (error) {
      if (!this.#stopping.signal.aborted && !(error instanceof BrokerClosedError)) {
        this.#logger?.error(`session ${this.#info.sessionId} is kept no longer`, error);
      }
    }
  }

  #set(info: SessionInfo): void {
    const wasOver = this.isOver;
    if (wasOver && !isFinal(info)) {
      // Its end was not on record when the broker died: it was told all the same, and stays so.
      return;
    }
    const before = this.#info;
    this.#info = info;
    if (info.leaseExpireTime === undefined && info.leaseTtl !== undefined && !isFinal(info)) {
      // Events do not say it: renewals are none.
      this.#setLease({ ...info, leaseExpireTime: before.leaseExpireTime });
    }
    if (seconds(info.leaseTtl) !== seconds(before.leaseTtl)) {
      this.#lease.abort();
    }
    this.#pulse();
    if (this.isOver && !wasOver) {
      this.#tellEnd();
    }
  }

  #setLease({
    leaseTtl,
    leaseExpireTime,
  }: Pick<SessionInfo, "leaseTtl" | "leaseExpireTime">): void {
    this.#info = { ...this.#info, leaseTtl, leaseExpireTime };
  }

  #tellEnd(): void {
    this.#pulse();
    this.#lease.abort();
    if (this.#closes > 0 && this.#info.closeReason === "CLOSE_REQUESTED") {
      return;
    }
    const error = this.endedError();
    this.#logger?.error(String(error));
    this.#ended.abort(error);
  }

  #pulse(): void {
    for (const wake of [...this.#waiting]) {
      wake();
    }
  }

  /** Follow the session until its end is on record. */
  async #follow(): Promise<void> {
    const { sessionId } = this.#info;
    for (let failures = 0; !this.isSettled; ) {
      try {
        await this.#watch(sessionId);
      } catch (error) {
        if (!(error instanceof BrokerError) || error instanceof BrokerClosedError) {
          throw error;
        }
        // A gap, or a watch that is refused: as with a token that was revoked, and is given back.
        if (this.#interruption?.constructor !== error.constructor) {
          this.#logger?.error(`session ${sessionId} is not followed; trying again: ${error}`);
        }
        this.#interruption = error;
        // The snapshot of the next watch is what is so.
        this.#mayFallBack = true;
        this.#pulse();
        failures += 1;
        await this.#pause(failures);
      }
    }
  }

  async #watch(sessionId: string): Promise<void> {
    const watch = this.#calls.watch({
      sessionIds: [sessionId],
      includeFinal: true,
      signal: this.#stopping.signal,
    });
    for await (const item of watch) {
      this.#interruption = watch.interruption;
      switch (item.kind) {
        case "snapshot":
          await this.#told(item.session, true);
          break;
        case "event":
          await this.#told(item.session, item.persisted);
          break;
        case "snapshotComplete":
          if (!watch.sessions.has(sessionId)) {
            this.lose();
          }
          break;
        case "interrupted":
          this.#mayFallBack = true;
          break;
      }
      this.#pulse();
      if (this.isSettled) {
        return;
      }
    }
  }

  async #told(info: SessionInfo, onRecord: boolean): Promise<void> {
    const isEnd = isFinal(info);
    if (!(isEnd && onRecord) && !this.#mayFallBack && info.sequence < this.#info.sequence) {
      return;
    }
    this.#mayFallBack = false;
    const comesBack = this.isOver && !isEnd;
    this.#mayLive ||= isEnd && !onRecord;
    this.#isOnRecord ||= isEnd && onRecord;
    this.#set(info);
    // Of one that was detached it is for others to say, unless it was closed all the same.
    if (comesBack && (!this.keepOpen || this.#closes > 0)) {
      await this.#closeAgain();
    }
  }

  /**
   * Close the session if it lives though it was told that it has ended. An event from before its end,
   * told late, says nothing: the broker is asked.
   */
  async #closeAgain(): Promise<void> {
    const { sessionId } = this.#info;
    const { signal } = this.#stopping;
    for (let failures = 0; ; ) {
      try {
        let info = await this.#calls.getSession(sessionId, { signal });
        if (!isFinal(info)) {
          this.#livesOn = true;
          if (failures === 0) {
            this.#logger?.warn(
              `session ${sessionId} lives, though its end was told; it is closed: that was not on ` +
                "record when the broker died",
            );
          }
          const reason = "its program was told that it has ended";
          info = await this.#calls.closeSession(sessionId, { reason, signal });
        }
        this.#livesOn = false;
        this.learn(info);
        return;
      } catch (error) {
        if (error instanceof SessionNotFoundError) {
          this.lose();
          return;
        }
        if (!(error instanceof BrokerError) || error instanceof BrokerClosedError) {
          throw error;
        }
        if (failures === 0) {
          this.#logger?.error(
            `session ${sessionId} could not be closed; trying again, since it may live: ${error}`,
          );
        }
        failures += 1;
        await this.#pause(failures);
      }
    }
  }

  /** Renew the lease, whenever there is one, until the session has ended. */
  async #renew(): Promise<void> {
    const { sessionId } = this.#info;
    for (let failures = 0; !this.isOver; ) {
      this.#stopping.signal.throwIfAborted();
      if (failures === 0 && !(await this.#isDue())) {
        continue;
      }
      try {
        const info = await this.#calls.renewSession(sessionId, {
          timeout: patience(seconds(this.#info.leaseTtl)),
          signal: this.#stopping.signal,
        });
        if (this.renewalError !== undefined) {
          this.#logger?.info(`session ${sessionId}: its lease is renewed again`);
          this.renewalError = undefined;
        }
        failures = 0;
        this.renewed(info);
      } catch (error) {
        if (!(error instanceof BrokerError) || error instanceof BrokerClosedError) {
          throw error;
        }
        if (error instanceof InvalidArgumentError) {
          // It may have no lease any more; unless that is so, it is tried again.
          const found = await this.#look();
          if (found !== undefined && found.leaseTtl === undefined) {
            this.#setLease({});
            this.#logger?.warn(`session ${sessionId} has no lease any more`);
            failures = 0;
            continue;
          }
          this.#warn(error);
        } else if (error instanceof SessionEndedError || error instanceof SessionNotFoundError) {
          // It has ended, or is about to.
          await this.#look();
        } else {
          this.#warn(error);
        }
        failures += 1;
        if (!this.isOver) {
          await this.#pause(failures);
        }
      }
    }
  }

  /** Wait until the lease is to be renewed; false if something has changed before that. */
  async #isDue(): Promise<boolean> {
    this.#lease = new AbortController();
    const ttl = seconds(this.#info.leaseTtl);
    const wait = ttl === undefined ? Number.POSITIVE_INFINITY : ttl / RENEWALS;
    try {
      await sleep(this.#renewedAt + wait - now(), this.#lease.signal, this.#stopping.signal);
      return true;
    } catch {
      return false;
    }
  }

  /** The session as it is, over or not; undefined if that cannot be known. */
  async #look(): Promise<SessionInfo | undefined> {
    try {
      const { sessionId } = this.#info;
      const signal = this.#stopping.signal;
      const found = await this.#calls.getSession(sessionId, { signal });
      this.learn(found);
      return found;
    } catch (error) {
      if (error instanceof SessionNotFoundError) {
        this.lose();
      } else if (error instanceof BrokerError) {
        this.#warn(error);
      } else {
        throw error;
      }
      return undefined;
    }
  }

  async #pause(failures: number): Promise<void> {
    const delay = BACKOFF.delay(failures - 1);
    const ttl = seconds(this.#info.leaseTtl) ?? delay * RENEWALS;
    await sleep(Math.min(delay, ttl / RENEWALS), this.#stopping.signal);
  }

  #warn(error: BrokerError): void {
    if (this.renewalError === undefined) {
      this.#logger?.warn(
        `session ${this.#info.sessionId}: its lease could not be renewed; trying again: ${error}`,
      );
    }
    this.renewalError = error;
  }
}

/** Seconds for one renewal: a part of the lease, so that there is time for another. */
function patience(ttl: number | undefined): number {
  return ttl === undefined
    ? RENEWAL_TIMEOUT
    : Math.min(RENEWAL_TIMEOUT, Math.max(0.5, ttl / RENEWALS));
}
