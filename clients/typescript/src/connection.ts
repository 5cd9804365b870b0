/**
 * The one way to the broker: a channel, and calls with a deadline, repeated where that is safe.
 *
 * Of `@grpc/grpc-js`, which only this module and `status.ts` know:
 *
 * - `waitForReady` hides why a broker cannot be reached until the deadline has passed: it is not used;
 *   what was refused is told, and tried again here.
 * - `close()` lets calls go on: they are cancelled first.
 * - A peer that accepts and says nothing is waited for without end: `handshake.ts` bounds that.
 * - A stream reads at most 16 messages ahead, and beyond that leaves them to HTTP/2's flow control.
 */

import { randomUUID } from "node:crypto";
import { setMaxListeners } from "node:events";
import {
  create,
  type DescMessage,
  type DescMethodServerStreaming,
  type DescMethodUnary,
  fromBinary,
  type MessageInitShape,
  type MessageShape,
  toBinary,
} from "@bufbuild/protobuf";
import {
  type ChannelCredentials,
  type ChannelOptions,
  Client,
  type ClientReadableStream,
  connectivityState,
  Metadata,
  type ServiceError,
  status,
} from "@grpc/grpc-js";

import {
  BrokerClosedError,
  BrokerDrainingError,
  BrokerError,
  BrokerUnreachableError,
  CallTimeoutError,
  CircuitBreakerOpenError,
  GatewayDrainingError,
  StoreUnavailableError,
} from "./errors.js";
import { impatient } from "./handshake.js";
import type { Backoff } from "./retry.js";
import { CORRELATION_KEY, explain } from "./status.js";
import { sleep } from "./waiting.js";

/** Milliseconds for a connection to be made, as the gRPC of other languages calls and bounds it. */
const CONNECT_TIMEOUT = "grpc.min_reconnect_backoff_ms";

const OPTIONS: ChannelOptions = {
  // Not sooner: calls wait for it, and a broker that was suspended for so long answers them at once.
  [CONNECT_TIMEOUT]: 20_000,
  // A broker whose machine has died is noticed within 40 s, also by a call that waits for long.
  "grpc.keepalive_time_ms": 30_000,
  "grpc.keepalive_timeout_ms": 10_000,
  // A broker that was restarted is found within seconds; gRPC's own limit is two minutes.
  "grpc.initial_reconnect_backoff_ms": 200,
  "grpc.max_reconnect_backoff_ms": 2_000,
  "grpc.dns_min_time_between_resolutions_ms": 5_000,
  // Each Broker its own connection, so that none waits in another's backoff.
  "grpc.use_local_subchannel_pool": 1,
};

/** Seconds that a try should have; with less, what is known already says more than its end. */
const LAST_TRY = 0.1;

/** With these the broker says that nothing was done, and when to ask again. */
const ANSWERED = [
  CircuitBreakerOpenError,
  GatewayDrainingError,
  BrokerDrainingError,
  StoreUnavailableError,
];

/** What every call can be given. */
export interface CallOptions {
  /** Seconds over all tries; each method says what it is unless given. */
  timeout?: number | undefined;
  /** Cancels the call; it throws the signal's reason. */
  signal?: AbortSignal | undefined;
  /** A UUID4 that stands in every event and log line that the call causes; unless given, a new one. */
  correlationId?: string | undefined;
}

/** Where the library says what nobody has asked for; `console` is one. */
export interface Logger {
  info(message: string): void;
  warn(message: string): void;
  error(message: string, error?: unknown): void;
}

/** How a broker is reached. */
export interface ConnectionOptions {
  /** HOST:PORT. */
  address: string;
  /** Of TLS, or none. */
  credentials: ChannelCredentials;
  /** Sent with each call. */
  metadata: Metadata;
  /** Further options of the channel. */
  channelOptions: ChannelOptions;
  /** Waits between repeated calls; undefined repeats none. */
  backoff: Backoff | undefined;
  logger: Logger | undefined;
}

/** Seconds by a clock that never jumps. */
export function now(): number {
  return performance.now() / 1000;
}

/** A channel to a broker, made when it is first used. */
export class Connection {
  readonly address: string;
  readonly backoff: Backoff | undefined;
  readonly logger: Logger | undefined;
  readonly #options: ConnectionOptions;
  readonly #closing = new AbortController();
  /** Ends each call that is under way. */
  readonly #cancels = new Set<() => void>();
  #client: Client | undefined;
  /** Whether the last call had to be repeated: an outage is a warning once. */
  #isTroubled = false;

  constructor(options: ConnectionOptions) {
    this.address = options.address;
    this.backoff = options.backoff;
    this.logger = options.logger;
    this.#options = options;
    // As many calls as there are may wait at once.
    setMaxListeners(0, this.#closing.signal);
  }

  /** Whether no call can be made any more. */
  get isClosed(): boolean {
    return this.#closing.signal.aborted;
  }

  /**
   * Make one call, and repeat it within its time where that is safe.
   *
   * @param options - with the seconds for all tries together, and whether it may be repeated when
   *   nobody has answered.
   * @throws BrokerError: it failed; of several failures the last, with the one before as its cause.
   * @throws the signal's reason: it was cancelled. What that means is the method's to say.
   */
  async call<I extends DescMessage, O extends DescMessage>(
    method: DescMethodUnary<I, O>,
    request: MessageInitShape<I>,
    options: CallOptions & { timeout: number; isIdempotent: boolean },
  ): Promise<MessageShape<O>> {
    const { timeout, signal, isIdempotent, correlationId = randomUUID() } = options;
    // Whatever cannot be sent fails here, before anything is.
    const packed = Buffer.from(toBinary(method.input, create(method.input, request)));
    const deadline = now() + timeout;
    let before: BrokerError | undefined;
    for (let failures = 0; ; failures++) {
      try {
        const answer = await this.#attempt(method, packed, {
          timeout,
          remaining: deadline - now(),
          signal,
          correlationId,
        });
        this.#isTroubled = false;
        return answer;
      } catch (error) {
        if (!(error instanceof BrokerError)) {
          throw error;
        }
        const delay = this.#delay(error, failures, isIdempotent);
        if (delay === undefined || now() + delay + LAST_TRY >= deadline) {
          throw before === undefined ? error : Object.assign(error, { cause: before });
        }
        before = error;
        const say = this.#isTroubled ? "info" : "warn";
        this.logger?.[say](`${error}; trying again in ${delay.toFixed(1)} s`);
        this.#isTroubled = true;
        await this.pause(delay, signal);
      }
    }
  }

  /** Open a stream, without a deadline: whoever reads it must not wait for ever. */
  stream<I extends DescMessage, O extends DescMessage>(
    method: DescMethodServerStreaming<I, O>,
    request: MessageInitShape<I>,
    correlationId: string,
  ): MessageStream<MessageShape<O>> {
    const call = this.#open().makeServerStreamRequest(
      pathOf(method),
      (value: Buffer) => value,
      (value) => fromBinary(method.output, value),
      Buffer.from(toBinary(method.input, create(method.input, request))),
      this.#sentWith(correlationId),
    );
    const cancel = () => call.cancel();
    this.#cancels.add(cancel);
    call.once("status", () => this.#cancels.delete(cancel));
    return new MessageStream(call, (end) =>
      this.isClosed
        ? this.closedError()
        : explain(end, { address: this.address, timeout: undefined, correlationId }),
    );
  }

  /** What a call gets that is made, or cut, when this is closed. */
  closedError(): BrokerClosedError {
    return new BrokerClosedError(`the connection to the broker at ${this.address} was closed`);
  }

  /**
   * Wait some seconds.
   *
   * @throws BrokerClosedError: this is, or was, closed.
   * @throws the signal's reason.
   */
  pause(seconds: number, signal?: AbortSignal): Promise<void> {
    return sleep(seconds, this.#closing.signal, signal);
  }

  /** End every call, for good. Closing twice is no error. */
  close(): void {
    if (this.isClosed) {
      return;
    }
    this.#closing.abort(this.closedError());
    for (const cancel of [...this.#cancels]) {
      cancel();
    }
    this.#client?.close();
  }

  #attempt<I extends DescMessage, O extends DescMessage>(
    method: DescMethodUnary<I, O>,
    request: Buffer,
    options: {
      timeout: number;
      remaining: number;
      signal: AbortSignal | undefined;
      correlationId: string;
    },
  ): Promise<MessageShape<O>> {
    const { timeout, remaining, signal, correlationId } = options;
    signal?.throwIfAborted();
    const client = this.#open();
    return new Promise((resolve, reject) => {
      const call = client.makeUnaryRequest(
        pathOf(method),
        (value: Buffer) => value,
        (value) => fromBinary(method.output, value),
        request,
        this.#sentWith(correlationId),
        { deadline: Date.now() + Math.max(remaining, 0) * 1000 },
        (end, answer) => {
          this.#cancels.delete(cancel);
          signal?.removeEventListener("abort", cancel);
          if (end === null && answer !== undefined) {
            resolve(answer);
          } else if (signal?.aborted) {
            reject(signal.reason);
          } else if (this.isClosed) {
            reject(this.closedError());
          } else {
            reject(explain(end ?? NOTHING, { address: this.address, timeout, correlationId }));
          }
        },
      );
      const cancel = () => call.cancel();
      this.#cancels.add(cancel);
      signal?.addEventListener("abort", cancel);
    });
  }

  /** What a call sends beside its request. */
  #sentWith(correlationId: string): Metadata {
    const metadata = this.#options.metadata.clone();
    metadata.set(CORRELATION_KEY, correlationId);
    return metadata;
  }

  /** Seconds until a call may be repeated; undefined if it must not be. */
  #delay(error: BrokerError, failures: number, isIdempotent: boolean): number | undefined {
    const isAnswered = ANSWERED.some((kind) => error instanceof kind);
    const isUnheard =
      error instanceof BrokerUnreachableError && !(error instanceof CallTimeoutError);
    if (!isAnswered && !(isIdempotent && isUnheard)) {
      return undefined;
    }
    return this.backoff?.delay(failures, error.retryAfter);
  }

  #isReady(): boolean {
    return this.#client?.getChannel().getConnectivityState(false) === connectivityState.READY;
  }

  #open(): Client {
    if (this.isClosed) {
      throw this.closedError();
    }
    const { address, credentials, channelOptions } = this.#options;
    const options = { ...OPTIONS, ...channelOptions };
    this.#client ??= new Client(
      address,
      impatient(credentials, options[CONNECT_TIMEOUT] / 1000, () => this.#isReady()),
      options,
    );
    return this.#client;
  }
}

/** The messages of a stream, one after the other. */
export class MessageStream<T> {
  /** Settled once the broker has begun to answer; never rejected. */
  readonly opened: Promise<void>;
  readonly #call: ClientReadableStream<T>;
  readonly #messages: AsyncIterator<T>;
  readonly #explain: (end: ServiceError) => BrokerError;

  constructor(call: ClientReadableStream<T>, explainEnd: (end: ServiceError) => BrokerError) {
    this.#call = call;
    this.#explain = explainEnd;
    this.opened = new Promise((resolve) => {
      call.once("metadata", () => resolve());
      call.once("status", () => resolve());
    });
    // It listens for errors from now on, also while nobody reads.
    call.on("error", () => {});
    this.#messages = call[Symbol.asyncIterator]();
  }

  /**
   * The next message; undefined if the stream has ended well.
   *
   * @throws BrokerError: it has ended otherwise.
   */
  async next(): Promise<T | undefined> {
    try {
      const { done, value } = await this.#messages.next();
      return done ? undefined : value;
    } catch (error) {
      throw this.#explain(error as ServiceError);
    }
  }

  /** End the stream. */
  cancel(): void {
    this.#call.cancel();
  }
}

/** What an answer means that is neither a message nor an error. */
const NOTHING: ServiceError = Object.assign(new Error("an answer without a message"), {
  code: status.INTERNAL,
  details: "an answer without a message",
  metadata: new Metadata(),
});

function pathOf(method: DescMethodUnary | DescMethodServerStreaming): string {
  return `/${method.parent.typeName}/${method.name}`;
}
