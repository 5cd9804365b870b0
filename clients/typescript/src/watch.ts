/** A watch that outlives its streams. */

import { randomUUID } from "node:crypto";

import { type Connection, type MessageStream, now } from "./connection.js";
import { Continuity } from "./continuity.js";
import {
  BrokerDrainingError,
  BrokerError,
  BrokerUnreachableError,
  GatewayNotFoundError,
  InvalidArgumentError,
  PermissionDeniedError,
  UnauthenticatedError,
  UnexpectedAnswerError,
  WatchGapError,
} from "./errors.js";
import { isFinal, itemOf, type Reset, type WatchItem } from "./events.js";
import { type Filter, fieldsOf } from "./filters.js";
import type { Session as SessionInfo } from "./gen/ibgateway/broker/v1/session_pb.js";
import {
  SessionService,
  type WatchSessionsResponse,
} from "./gen/ibgateway/broker/v1/session_service_pb.js";
import { Backoff } from "./retry.js";
import { limit } from "./time.js";
import { LATE, unless, within } from "./waiting.js";

/** Seconds: three times the interval at which a broker says that nothing has happened. */
const SILENCE = 30;
/** Seconds more for a stream that is silent: if this process was stopped, what has come is yet to be read. */
const UNREAD = 0.5;
/** Seconds that a stream must have lived to count as one that works. */
const STEADY = 10;
/** Seconds that a stream must have been open to count as resumed, unless it says something. */
const SETTLED = 0.5;
/** Seconds of a wait that is told though its cause was. */
const LONG = 30;
/** Seconds that a watch waits at most; a broker that asks for more errs. */
const LONGEST = 3_600;
/** Statuses, not of a broker's own making, that no wait will change. */
const REFUSALS = new Set([
  "UNIMPLEMENTED",
  "UNAUTHENTICATED",
  "PERMISSION_DENIED",
  "INVALID_ARGUMENT",
  "NOT_FOUND",
]);

/** What a watch was ended with by `close`: no error. */
const CLOSED = Symbol("closed");

/** How sessions are watched. */
export interface WatchOptions {
  /**
   * The `token` of the last item that was handled, also by another process; empty begins with a
   * snapshot. With it, the filter should be the same.
   */
  resumeToken?: string | undefined;
  /**
   * Seconds without a message after which a stream is given up as dead, 30 by default. The broker
   * speaks every 10 s unless it is configured otherwise.
   */
  silence?: number | undefined;
  /** Seconds without any stream after which the reason is thrown; unless given, it never gives up. */
  giveUpAfter?: number | undefined;
  /** Ends the watch; its iteration throws the signal's reason. */
  signal?: AbortSignal | undefined;
  /** A UUID4 for its streams; unless given, a new one. */
  correlationId?: string | undefined;
}

/** How the handle of a session watches it. */
export interface Follower {
  /** The session once its end is on record; the iteration ends then. */
  ended(): SessionInfo | undefined;
  /** Takes the session as it is told, before the item is. */
  told(session: SessionInfo): void;
}

/** A stream that is read. */
interface Reading {
  readonly stream: MessageStream<WatchSessionsResponse>;
  /** Its next message, asked for and not handled yet. */
  next: Promise<WatchSessionsResponse | undefined>;
  /** When it was opened. */
  openedAt: number | undefined;
}

/**
 * Tells what happens to sessions, for as long as it is iterated over.
 *
 * Made by `Broker.watch` and `Session.watch`. Whenever its stream is lost it tells `Interrupted`,
 * resumes where it was, and tells `Resumed`: nothing is lost and nothing comes twice, but for events
 * that are not persisted. The sequences of the events are checked to prove it. Reading ahead is left to
 * HTTP/2's flow control: a watch that is not iterated over holds little, and is cut by the broker once
 * it lags far behind (it resumes).
 *
 * It ends with its iteration (`break` is enough), with {@link close}, or with its `await using` block.
 * A `next()` that nobody waits for any more loses nothing: calls are answered in their order.
 */
export class Watch implements AsyncIterableIterator<WatchItem>, AsyncDisposable {
  readonly #connection: Connection;
  readonly #filter: ReturnType<typeof fieldsOf>;
  readonly #continuity: Continuity;
  readonly #silence: number;
  readonly #giveUpAfter: number | undefined;
  readonly #signal: AbortSignal | undefined;
  readonly #correlationId: string;
  readonly #backoff: Backoff;
  readonly #follower: Follower | undefined;
  readonly #items: AsyncGenerator<WatchItem, void, void>;
  readonly #ending = new AbortController();
  #reading: Reading | undefined;
  /** To be told before the next message. */
  #reset: Reset | undefined;
  #interruption: BrokerError | undefined;
  #lostAt = 0;
  #failures = 0;

  /**
   * @param options - which sessions, and how.
   * @param follower - who watches the one session.
   * @throws TypeError or RangeError: an option can be no such thing.
   */
  constructor(connection: Connection, options: Filter & WatchOptions, follower?: Follower) {
    const { resumeToken = "", giveUpAfter, signal, correlationId = randomUUID() } = options;
    this.#connection = connection;
    this.#filter = fieldsOf(options);
    this.#continuity = new Continuity(this.#filter, resumeToken);
    this.#silence = limit("silence", options.silence, SILENCE);
    if (giveUpAfter !== undefined && !(giveUpAfter >= 0)) {
      throw new RangeError(`giveUpAfter must be in seconds, at least 0, not ${giveUpAfter}`);
    }
    this.#giveUpAfter = giveUpAfter;
    this.#signal = signal;
    this.#correlationId = correlationId;
    this.#backoff = connection.backoff ?? new Backoff();
    this.#follower = follower;
    this.#items = this.#tell();
  }

  /**
   * Where another watch, also in another process, would continue after the last item that was told;
   * empty if it would have to begin anew.
   */
  get token(): string {
    return this.#continuity.token;
  }

  /**
   * The sessions that match, by id, as of the last item that was told. Complete once
   * {@link isComplete}. Sessions that have ended are left out, unless they were asked for. A new map
   * with each call.
   */
  get sessions(): Map<string, SessionInfo> {
    return this.#continuity.sessions;
  }

  /**
   * Whether {@link sessions} are all that match: after `SnapshotComplete`, and never if the watch began
   * with a token that could be continued.
   */
  get isComplete(): boolean {
    return this.#continuity.isComplete;
  }

  /** Why there is no stream now; undefined if there is one. */
  get interruption(): BrokerError | undefined {
    return this.#interruption;
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  /**
   * The next item.
   *
   * @throws WatchGapError: the stream is not complete; the watch has ended. So with the others.
   * @throws InvalidArgumentError: the filter or the token is wrong.
   * @throws UnauthenticatedError: what the caller shows is not, or no longer, known. With the token of
   *   the last item, another watch continues.
   * @throws BrokerClosedError: the Broker was closed.
   * @throws BrokerError: the outage has lasted longer than `giveUpAfter`.
   */
  next(): Promise<IteratorResult<WatchItem, void>> {
    return this.#items.next();
  }

  /** What the end of a `for await` does: {@link close}. */
  async return(): Promise<IteratorResult<WatchItem, void>> {
    await this.close();
    return { done: true, value: undefined };
  }

  /** End the stream; the iteration ends. Closing twice is no error. */
  async close(): Promise<void> {
    this.#ending.abort(CLOSED);
    this.#drop();
    await this.#items.return();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  async *#tell(): AsyncGenerator<WatchItem, void, void> {
    const abort = () => {
      this.#ending.abort(this.#signal?.reason);
      // Whoever has aborted it may never ask for the next item.
      this.#drop();
    };
    this.#signal?.addEventListener("abort", abort);
    if (this.#signal?.aborted) {
      abort();
    }
    try {
      for (;;) {
        let retryAt: number;
        try {
          for await (const item of this.#follow()) {
            yield item;
            if (this.#isLast(item)) {
              return;
            }
          }
          return;
        } catch (error) {
          const { lost, retryIn, isNews } = this.#lose(error);
          retryAt = now() + retryIn;
          if (isNews) {
            yield { kind: "interrupted", token: this.token, error: lost, retryIn };
          }
        }
        await this.#connection.pause(retryAt - now(), this.#ending.signal);
      }
    } catch (error) {
      if (error !== CLOSED) {
        throw error;
      }
    } finally {
      this.#signal?.removeEventListener("abort", abort);
      this.#drop();
    }
  }

  /**
   * The items of one stream.
   *
   * @throws BrokerError: it is lost.
   */
  async *#follow(): AsyncGenerator<WatchItem, never, void> {
    this.#reset = this.#continuity.begin() ?? this.#reset;
    const stream = this.#connection.stream(
      SessionService.method.watchSessions,
      { ...this.#filter, resumeToken: this.token },
      this.#correlationId,
    );
    const reading: Reading = { stream, next: stream.next(), openedAt: undefined };
    // An error that comes while nobody waits is told to whoever asks next.
    reading.next.catch(() => {});
    this.#reading = reading;
    await this.#within(reading.stream.opened);
    reading.openedAt = now();
    if (this.#interruption !== undefined) {
      // A broker answers a stream at once; one that cannot serve it says so right after that.
      await unless(within(reading.next, SETTLED), this.#ending.signal);
      this.#interruption = undefined;
      this.#connection.logger?.info("a watch has resumed after an interruption");
      yield { kind: "resumed", token: this.token };
    }
    if (this.#reset !== undefined) {
      const reset = this.#reset;
      this.#reset = undefined;
      yield reset;
    }
    for (;;) {
      const message = await this.#within(reading.next);
      if (message === undefined) {
        throw new BrokerDrainingError(
          `the broker at ${this.#connection.address} has ended the stream`,
          { correlationId: this.#correlationId },
        );
      }
      const item = itemOf(message);
      if (item !== undefined) {
        this.#continuity.accept(item);
        if (item.kind === "snapshot" || item.kind === "event") {
          this.#follower?.told(item.session);
        }
        yield item;
      }
      reading.next = stream.next();
      reading.next.catch(() => {});
    }
  }

  /**
   * What the stream gives.
   *
   * @throws BrokerUnreachableError: it has been silent for too long.
   * @throws what the watch was ended with.
   */
  async #within<T>(promise: Promise<T>): Promise<T> {
    let result = await unless(within(promise, this.#silence), this.#ending.signal);
    if (result === LATE) {
      result = await unless(within(promise, UNREAD), this.#ending.signal);
    }
    if (result === LATE) {
      throw new BrokerUnreachableError(
        `the broker at ${this.#connection.address} has sent nothing for ${this.#silence} s, though ` +
          "it should say at least that nothing happens",
        {
          hint:
            "a stream that is quiet for so long is dead; if the broker's bookmark_interval is " +
            "longer, give the watch a longer silence",
          correlationId: this.#correlationId,
        },
      );
    }
    return result;
  }

  /**
   * The stream is lost: what follows from it, and whether that must be told.
   *
   * @throws the error, if the watch ends with it.
   */
  #lose(error: unknown): { lost: BrokerError; retryIn: number; isNews: boolean } {
    const openedAt = this.#reading?.openedAt;
    this.#drop();
    this.#ending.signal.throwIfAborted();
    if (this.#connection.isClosed) {
      throw this.#connection.closedError();
    }
    if (!(error instanceof BrokerError) || error instanceof WatchGapError || isRefusal(error)) {
      throw error;
    }
    if (openedAt !== undefined && now() - openedAt > STEADY) {
      this.#failures = 0;
    }
    const before = this.#interruption;
    if (before === undefined) {
      this.#lostAt = now();
    }
    if (this.#giveUpAfter !== undefined && now() - this.#lostAt >= this.#giveUpAfter) {
      throw error;
    }
    // With the last try it gives up, or not, also if the broker asks for more time.
    const left = this.#lostAt + (this.#giveUpAfter ?? Number.POSITIVE_INFINITY) - now();
    const asked = this.#backoff.delay(this.#failures, error.retryAfter);
    const retryIn = Math.min(asked, LONGEST, left);
    this.#failures += 1;
    this.#interruption = error;
    const isOther = before?.constructor !== error.constructor || before?.reason !== error.reason;
    const isNews = isOther || retryIn > LONG;
    if (isNews) {
      this.#connection.logger?.warn(
        "a watch was interrupted, it resumes by itself, at the earliest in " +
          `${retryIn.toFixed(1)} s: ${error}`,
      );
    }
    return { lost: error, retryIn, isNews };
  }

  #drop(): void {
    this.#reading?.stream.cancel();
    this.#reading = undefined;
  }

  /** Whether nothing will follow about the one session that is watched. */
  #isLast(item: WatchItem): boolean {
    if (this.#follower === undefined) {
      return false;
    }
    switch (item.kind) {
      case "event":
        return item.persisted && isFinal(item.session);
      case "snapshotComplete":
        return [...this.sessions.values()].every(isFinal);
      case "bookmark": {
        if (this.sessions.size > 0) {
          // It was told, and its end on record will be.
          return false;
        }
        const ended = this.#follower.ended();
        return ended !== undefined && 0n < ended.revision && ended.revision <= item.revision;
      }
      default:
        return false;
    }
  }
}

/** Whether the same watch would be refused again, for ever. */
function isRefusal(error: BrokerError): boolean {
  if (error instanceof UnexpectedAnswerError) {
    return REFUSALS.has(error.code);
  }
  return [
    InvalidArgumentError,
    GatewayNotFoundError,
    UnauthenticatedError,
    PermissionDeniedError,
  ].some((kind) => error instanceof kind);
}
