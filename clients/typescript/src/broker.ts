/** The way in: a connection to a broker, and everything that it offers. */

import { randomUUID } from "node:crypto";
import { isIPv4 } from "node:net";
import { type ChannelOptions, credentials as channelCredentials, Metadata } from "@grpc/grpc-js";

import { repeatable, SessionCalls, sessionOf } from "./calls.js";
import { type CallOptions, Connection, type Logger } from "./connection.js";
import { isFinal } from "./events.js";
import { Gateways } from "./gateways.js";
import {
  BrokerService,
  type GetBrokerInfoResponse,
} from "./gen/ibgateway/broker/v1/broker_service_pb.js";
import type { Session as SessionInfo } from "./gen/ibgateway/broker/v1/session_pb.js";
import {
  ClientIdPolicy,
  type OpenSessionResponse,
  SessionService,
} from "./gen/ibgateway/broker/v1/session_service_pb.js";
import { Lifeline } from "./lifeline.js";
import { Backoff } from "./retry.js";
import { LEAVE_TIMEOUT, Session } from "./session.js";
import { duration, limit } from "./time.js";

/** Seconds to open a session: longer than the broker's own attempts take by default. */
const OPEN_TIMEOUT = 300;
/** Seconds that a session outlives a program that has died. */
const LEASE_TTL = 60;
const OWNER_KEY = "x-broker-owner";
const TOKEN_KEY = "authorization";

/** What TLS needs, as PEM. */
export interface TlsCredentials {
  /** The certificates to trust; those of the system unless given. */
  ca?: string | Uint8Array | undefined;
  /** A certificate, and its key, for a broker that asks for one. */
  certificate?: string | Uint8Array | undefined;
  key?: string | Uint8Array | undefined;
}

/** How a broker is reached. */
export interface ConnectOptions {
  /**
   * The name under which sessions are opened, printable ASCII, at most 128 characters; unless given, the
   * broker says: "local", or whom the token or the certificate names. A broker that asks for one of
   * these refuses any other name.
   */
  owner?: string | undefined;
  /** For TLS, `{}` with the certificates of the system; plain text unless given. */
  credentials?: TlsCredentials | undefined;
  /** Shown with each call. It is sent over TLS, or to this machine, and never elsewhere. */
  token?: string | undefined;
  /** Further metadata of each call, such as an authorization. */
  metadata?: Readonly<Record<string, string>> | undefined;
  /** Waits between repeated calls, and before a watch resumes; false repeats no call. */
  backoff?: Backoff | false | undefined;
  /** Where to say that calls are repeated, watches interrupted, sessions ended by others; `console` is one. */
  logger?: Logger | undefined;
  /** Further options of the channel of `@grpc/grpc-js`; they win over those of this library. */
  channelOptions?: Readonly<Record<string, string | number>> | undefined;
}

/** What session is wanted. */
export interface OpenOptions extends CallOptions {
  /** The configured gateway; empty is `"default"`. */
  gatewayId?: string | undefined;
  /** 1 to 9999, the owner of the session's orders; unless given, a free one. */
  clientId?: number | undefined;
  /**
   * Whether another id may be taken if that one is in use. Unless given: EXACT with a `clientId`, and
   * INCREMENT without.
   */
  clientIdPolicy?: ClientIdPolicy | undefined;
  /** Ask for a session without order entry. */
  readonly?: boolean | undefined;
  /** Seconds that one dial may take; unless given the gateway's, 30 by default. */
  attemptTimeout?: number | undefined;
  /** How often to dial before giving up; unless given the gateway's, 7 by default. */
  maxAttempts?: number | undefined;
  /** How often to dial for a link that was lost; unless given, without end. */
  reconnectMaxAttempts?: number | undefined;
  /**
   * A UUID4; whoever sends it again, with the same owner and parameters, gets the same session. Unless
   * given a new one, so that the open can be repeated safely when its answer is lost; empty sends none.
   */
  requestId?: string | undefined;
  /**
   * Seconds after which the session ends unless it is renewed, which is done by itself at a third of what
   * the broker grants; 60 by default. `null` lives until it is closed.
   */
  leaseTtl?: number | null | undefined;
  /** For you, at most 32. */
  labels?: Readonly<Record<string, string>> | undefined;
  /** Do not wait until it is CONNECTED; failures are told by `watch`. */
  returnImmediately?: boolean | undefined;
  /** Leave it open when the block, or the Broker, ends; see `Session.detach`. */
  keepOpen?: boolean | undefined;
}

/**
 * A broker that is reached over the network. Nothing is sent before the first call.
 *
 * A call that finds no broker, or one that cannot serve it now and says when to ask again (CIRCUIT_OPEN,
 * GATEWAY_DRAINING, BROKER_DRAINING, STORE_UNAVAILABLE), is repeated within its timeout, with a warning
 * to the logger. Not repeated is what a broker has answered otherwise, and what is not safe to repeat when
 * nobody has answered.
 *
 * @param address - HOST:PORT.
 * @throws TypeError: the address, the owner, the token or the credentials can be no such thing; or the
 *   token would be sent for everybody to read.
 */
export function connect(address = "127.0.0.1:50051", options: ConnectOptions = {}): Broker {
  const { owner, token, credentials, backoff = new Backoff(), logger } = options;
  const host = hostOf(address);
  const metadata = new Metadata();
  for (const [key, value] of Object.entries(options.metadata ?? {})) {
    try {
      metadata.add(key, value);
    } catch {
      // What is wrong is not shown: it may be a secret.
      throw new TypeError(`metadata ${JSON.stringify(key)} is none that can be sent`);
    }
  }
  if (owner !== undefined) {
    if (!/^[\x20-\x7e]+$/.test(owner)) {
      throw new TypeError(`owner must be a name in printable ASCII, not ${JSON.stringify(owner)}`);
    }
    metadata.set(OWNER_KEY, owner);
  }
  if (token !== undefined) {
    if (!/^[\x21-\x7e]+$/.test(token)) {
      // It is not shown: errors end in logs.
      throw new TypeError("token must be printable ASCII without blanks: strip the file's end");
    }
    metadata.set(TOKEN_KEY, `Bearer ${token}`);
  }
  if (credentials === undefined && !isLocal(host) && metadata.get(TOKEN_KEY).length > 0) {
    throw new TypeError(
      `a token must not be sent to ${address} in plain text; give credentials for TLS, such as { ca }`,
    );
  }
  // A proxy of the environment is on no way to this machine.
  const direct: ChannelOptions = isLocal(host) ? { "grpc.enable_http_proxy": 0 } : {};
  return new Broker(
    new Connection({
      address,
      credentials:
        credentials === undefined ? channelCredentials.createInsecure() : secured(credentials),
      metadata,
      channelOptions: { ...direct, ...options.channelOptions },
      backoff: backoff === false ? undefined : backoff,
      logger,
    }),
  );
}

/** Opens sessions, and everything of {@link SessionCalls}; made by {@link connect}. */
export class Broker extends SessionCalls implements AsyncDisposable {
  /** The configured gateways, and what operators decide about them. */
  readonly gateways: Gateways;
  readonly #lifelines = new Set<Lifeline>();
  #closing: Promise<void> | undefined;

  constructor(connection: Connection) {
    super(connection);
    this.gateways = new Gateways(connection);
  }

  /** HOST:PORT. */
  get address(): string {
    return this.connection.address;
  }

  /**
   * Open a session. {@link Session.close} ends it, else the end of its `await using` block, else that of
   * the Broker.
   *
   * To cancel it ends the session. An answer that is on its way in just that instant leaves a session
   * behind that ends with its lease.
   *
   * @param options - `timeout` is how long to wait for the session to be CONNECTED, 300 s by default.
   * @throws GatewayError: one of the six codes: the Gateway could not be connected to.
   * @throws SessionEndedError: it was ended while it was opened, or before its requestId was repeated.
   * @throws SessionLimitError, ClientIdsExhaustedError, GatewayNotFoundError, RequestIdReusedError,
   *   InvalidArgumentError: nothing was dialled.
   * @throws CircuitBreakerOpenError, GatewayDrainingError, BrokerDrainingError, StoreUnavailableError,
   *   BrokerUnreachableError: it was so until the timeout.
   */
  async openSession(options: OpenOptions = {}): Promise<Session> {
    this.#requireOpen();
    const answer = await this.#open(options, false);
    return this.#hold(sessionOf(answer), answer.created, options.keepOpen ?? false);
  }

  /**
   * Only check the request, limits included; nothing is opened.
   *
   * @throws InvalidArgumentError: a field is wrong.
   * @throws BrokerError: whatever would refuse it before a dial.
   */
  async validateSession(options: OpenOptions = {}): Promise<void> {
    await this.#open(options, true);
  }

  /**
   * Take up a session that exists. Its lease, if it has one, begins anew, and is renewed from now on by
   * this handle.
   *
   * @param options - `leaseTtl` is how many seconds its lease lasts from now on; as it is unless given.
   *   `keepOpen` leaves it open when the block, or the Broker, ends: true by default, since who has not
   *   opened it does not close it.
   * @throws SessionNotFoundError: there is no record of it.
   * @throws SessionEndedError: it has ended.
   */
  async attach(
    sessionId: string,
    options: CallOptions & { leaseTtl?: number | undefined; keepOpen?: boolean | undefined } = {},
  ): Promise<Session> {
    const { leaseTtl, keepOpen = true } = options;
    this.#requireOpen();
    let info = await this.getSession(sessionId, options);
    if (!isFinal(info) && (leaseTtl ?? info.leaseTtl) !== undefined) {
      info = await this.renewSession(sessionId, options);
    }
    return this.#hold(info, false, keepOpen);
  }

  /** What this broker is and can do. */
  async info(options: CallOptions = {}): Promise<GetBrokerInfoResponse> {
    return this.connection.call(BrokerService.method.getBrokerInfo, {}, repeatable(options));
  }

  /**
   * Close the sessions that were opened and not detached, then the connection; after that nothing of this
   * library keeps the process alive, but a connection to a host that does not even refuse it, until the
   * system gives it up (within about two minutes).
   *
   * Calls that are under way, and watches, end with BrokerClosedError. A session that cannot be closed
   * within 15 s, or whose end is not on record by then, is told to the logger. No session can be opened
   * any more. Closing twice is no error.
   */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  async #close(): Promise<void> {
    // Opens that were under way may be answered while others are closed.
    while (this.#lifelines.size > 0) {
      await Promise.all([...this.#lifelines].map((lifeline) => this.#leave(lifeline)));
    }
    this.connection.close();
  }

  /** New sessions would keep a Broker from ending, or outlive it. */
  #requireOpen(): void {
    if (this.#closing !== undefined) {
      throw this.connection.closedError();
    }
  }

  async #leave(lifeline: Lifeline): Promise<void> {
    try {
      await lifeline.leave(LEAVE_TIMEOUT);
    } catch (error) {
      const { sessionId } = lifeline.info;
      this.connection.logger?.error(`session ${sessionId} could not be closed: ${error}`);
    } finally {
      await lifeline.stop();
    }
  }

  #open(options: OpenOptions, validateOnly: boolean): Promise<OpenSessionResponse> {
    const { clientId, attemptTimeout } = options;
    const { requestId = randomUUID(), leaseTtl = LEASE_TTL } = options;
    const policy = clientId === undefined ? ClientIdPolicy.INCREMENT : ClientIdPolicy.EXACT;
    return this.connection.call(
      SessionService.method.openSession,
      {
        gatewayId: options.gatewayId ?? "",
        clientIdPolicy: options.clientIdPolicy ?? policy,
        readonly: options.readonly ?? false,
        requestId,
        labels: { ...options.labels },
        returnImmediately: options.returnImmediately ?? false,
        validateOnly,
        clientId,
        maxAttempts: options.maxAttempts,
        reconnectMaxAttempts: options.reconnectMaxAttempts,
        timeout: attemptTimeout === undefined ? undefined : duration(attemptTimeout),
        leaseTtl: leaseTtl === null ? undefined : duration(leaseTtl),
      },
      {
        ...options,
        timeout: limit("timeout", options.timeout, OPEN_TIMEOUT),
        isIdempotent: requestId !== "" || validateOnly,
      },
    );
  }

  /** A handle on a session, kept current from now on. */
  #hold(info: SessionInfo, created: boolean, keepOpen: boolean): Session {
    if (this.connection.isClosed) {
      throw this.connection.closedError();
    }
    const lifeline = new Lifeline(this, info, {
      keepOpen,
      logger: this.connection.logger,
      forget: (ended) => this.#lifelines.delete(ended),
    });
    if (isFinal(info)) {
      throw lifeline.endedError();
    }
    this.#lifelines.add(lifeline);
    lifeline.start();
    return new Session(this.connection, this, lifeline, created);
  }
}

/**
 * The host of an address.
 *
 * @throws TypeError: it is no HOST:PORT.
 */
function hostOf(address: string): string {
  const [, host = "", port = "0"] =
    /^(\[[\da-f:.]+\]|[^\s:/@?#[\]]+):(\d{1,5})$/i.exec(address) ?? [];
  if (host === "" || Number(port) < 1 || Number(port) > 65535) {
    throw new TypeError(
      `address must be HOST:PORT, such as "127.0.0.1:50051", not ${JSON.stringify(address)}`,
    );
  }
  return host.replace(/[[\]]/g, "").toLowerCase().replace(/\.$/, "");
}

/** Whether a host is this machine, whatever a name server says. */
function isLocal(host: string): boolean {
  return host === "localhost" || host === "::1" || (isIPv4(host) && host.startsWith("127."));
}

/**
 * @throws TypeError: there is no certificate in `ca`, or one of `key` and `certificate` is missing.
 */
function secured({ ca, key, certificate }: TlsCredentials) {
  const root = ca === undefined ? null : Buffer.from(ca);
  // An empty file must not be taken for the wish to trust the certificates of the system.
  if (root?.includes("CERTIFICATE-----") === false) {
    throw new TypeError("there is no certificate in credentials.ca");
  }
  if (!key !== !certificate) {
    throw new TypeError("credentials need both of certificate and key, or none");
  }
  const [own, shown] = [key, certificate].map((pem) => (pem ? Buffer.from(pem) : null));
  return channelCredentials.createSsl(root, own, shown);
}
