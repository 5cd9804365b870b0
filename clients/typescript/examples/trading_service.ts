/**
 * A service that trades over one session of its own, and says what it is told. It survives restarts of the
 * broker; when it is itself started again it is told what it has missed, from the token in its file.
 * Ctrl-C closes the session.
 *
 * npm run build && node build/examples/trading_service.js 127.0.0.1:50051 token.txt
 */

import { existsSync, readFileSync, renameSync, writeFileSync } from "node:fs";

import {
  AuthenticationError,
  type Broker,
  BrokerError,
  BrokerUnreachableError,
  CircuitBreakerOpenError,
  ClientIdInUseError,
  ClientIdsExhaustedError,
  ConditionStatus,
  connect,
  GatewayDrainingError,
  GatewayError,
  GatewayNotFoundError,
  IncompatibleVersionError,
  InvalidArgumentError,
  PermissionDeniedError,
  type Session,
  SessionEndedError,
  SessionLimitError,
  SessionState,
  UnauthenticatedError,
  type WatchItem,
} from "ibgateway-client";

const [address = "127.0.0.1:50051", path = "token.txt"] = process.argv.slice(2);
const OWNER = "example";
const LABELS = { service: "trading" };
const CLIENT_ID = 75;

/** Open the session, or take up the one that this program has left behind when it died. */
async function begin(broker: Broker, signal: AbortSignal): Promise<Session> {
  try {
    // Its lease of 60 s is renewed by itself from now on.
    return await broker.openSession({ clientId: CLIENT_ID, labels: LABELS, signal });
  } catch (error) {
    if (error instanceof ClientIdInUseError && error.metadata.owner === OWNER) {
      return broker.attach(error.metadata.session_id ?? "", { keepOpen: false, signal });
    }
    throw error;
  }
}

/** Stands for your requests of market data; they belong to one generation of the link. */
async function subscribe(generation: bigint): Promise<void> {
  console.log(`subscribed on generation ${generation}`);
}

/** Subscribe anew if the link is new: until that is acknowledged, data may be missing. */
async function keepSubscribed(session: Session): Promise<void> {
  // What is so counts, not what has happened: the handle may know more than the item that is told.
  const { state, generation, conditions } = session.info;
  const continuous = conditions.find(({ type }) => type === "DATA_CONTINUOUS");
  if (state === SessionState.CONNECTED && continuous?.status === ConditionStatus.FALSE) {
    await subscribe(generation);
    try {
      await session.acknowledgeData({ generation });
    } catch (error) {
      // The link was lost again: it is told, and comes back with a new generation.
      console.log(`too late: ${error}`);
    }
  }
}

/** One item of the watch in a line. */
function lineOf(item: WatchItem): string {
  switch (item.kind) {
    case "snapshot":
      return `now ${SessionState[item.session.state]}`;
    case "event":
      switch (item.change.case) {
        case "transition":
          return `${SessionState[item.change.value.to]}: ${item.change.value.reason}`;
        case "attempt":
          return `not yet: ${item.change.value.failure?.message}`;
        case "condition":
          return `${item.change.value.type} is ${ConditionStatus[item.change.value.status]}`;
        default:
          return item.change.case ?? "something that this library does not know";
      }
    case "reset":
      return `what was known is void: ${item.reason}`;
    case "interrupted":
      return `nothing is known for now, do not trade: ${item.error}`;
    default:
      return item.kind;
  }
}

/** Replace the file as a whole: half a token would be none. */
function keep(token: string): void {
  writeFileSync(`${path}.new`, token);
  renameSync(`${path}.new`, path);
}

/** Who can do something about an error. */
function adviceOn(error: BrokerError): string {
  if (error instanceof ClientIdInUseError) {
    return `another program has client id ${CLIENT_ID}`;
  }
  if (error instanceof AuthenticationError || error instanceof IncompatibleVersionError) {
    return "call a human to the Gateway, no retry will help";
  }
  if (error instanceof GatewayError) {
    return `the Gateway is away (${error.phase}); the broker has tried for you`;
  }
  if (error instanceof CircuitBreakerOpenError || error instanceof GatewayDrainingError) {
    return `not now; ask again in ${error.retryAfter} s`;
  }
  if (error instanceof SessionLimitError || error instanceof ClientIdsExhaustedError) {
    return "nothing is free, close something";
  }
  if (error instanceof UnauthenticatedError || error instanceof PermissionDeniedError) {
    return "ask whoever gives out tokens and roles";
  }
  if (error instanceof InvalidArgumentError || error instanceof GatewayNotFoundError) {
    return "this program has a bug";
  }
  if (error instanceof SessionEndedError) {
    return `somebody has ended the session (${error.closeReason || "it FAILED"})`;
  }
  if (error instanceof BrokerUnreachableError) {
    return "no broker; whether it has done anything is unknown";
  }
  return error.retryable ? "try again later" : "report it";
}

const stop = new AbortController();
process.once("SIGINT", () => stop.abort());
process.once("SIGTERM", () => stop.abort());
const broker = connect(address, { owner: OWNER, logger: console });
try {
  const session = await begin(broker, stop.signal);
  console.log(`client id ${session.clientId}, accounts ${session.accounts.join(", ")}`);
  await subscribe(session.generation);
  session.signal.addEventListener("abort", () => stop.abort(session.signal.reason));
  const resumeToken = existsSync(path) ? readFileSync(path, "utf8") : "";
  const watch = broker.watch({ owner: OWNER, labels: LABELS, resumeToken, signal: stop.signal });
  for await (const item of watch) {
    console.log(lineOf(item));
    await keepSubscribed(session);
    // After the item was handled: what was not is told again after a crash.
    keep(item.token);
  }
} catch (error) {
  if (error instanceof BrokerError) {
    console.error(`${adviceOn(error)}: ${error}`);
    process.exitCode = 1;
  } else if (error !== stop.signal.reason) {
    throw error;
  }
} finally {
  await broker.close();
  console.log("closed");
}
