/**
 * The runner of the TypeScript client: see clients/conformance/README.md.
 *
 * It does what it is told, one request a line, and says what came of it.
 */

import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";

import { create, fromJson, type JsonValue, toBinary } from "@bufbuild/protobuf";
import { Client, credentials } from "@grpc/grpc-js";
import {
  Backoff,
  type Broker,
  BrokerError,
  ClientIdPolicy,
  connect,
  type Filter,
  type OpenOptions,
  Role,
  type Session,
  SessionState,
  seconds,
  type Watch,
  type WatchItem,
} from "ibgateway-client";
import { SimulatorService } from "ibgateway-client/simulator/v1/simulator_service_pb";

import { error, event, failure, gateway, item, type Json, session } from "./told.js";

/** The parameters of a request. */
interface Given {
  [name: string]: unknown;
  address: string;
  handle: string;
  name: string;
  watch: string;
  within: number;
  session_id: string;
  gateway_id: string;
  reason?: string;
  deadline?: number;
  lease_ttl?: number;
  page_size?: number;
}

interface Request {
  do: string;
  with?: Partial<Given> | null;
  on?: string | null;
  background?: string | null;
}

type Handler = (on: string, given: Given, signal: AbortSignal) => unknown;

/** Seconds for a request to end that was cancelled. */
const CANCELS = 10;
const LATE = Symbol("late");

/** What the client refuses before anything is sent. */
class RefusedError extends Error {}

const brokers = new Map<string, Broker>();
const handles = new Map<string, Session>();
const watches = new Map<string, Watch>();
/** The next item of a watch, asked for and not told yet: none is lost when nobody waits any more. */
const asked = new Map<Watch, Promise<IteratorResult<WatchItem, void>>>();
const background = new Map<string, { outcome: Promise<Json>; cancel: () => void }>();

const requests: Record<string, Handler> = {
  hello: () => ({ language: "TypeScript", version: process.version, layer: true }),
  connect(on, given) {
    const { address, owner, token, ca, retry } = given as Given & Record<string, string>;
    try {
      const options = {
        owner,
        token,
        credentials: ca === undefined ? undefined : { ca: readFileSync(ca) },
        backoff: (retry ?? true) ? new Backoff() : (false as const),
        logger: new console.Console(process.stderr),
      };
      brokers.set(on, connect(address, options));
    } catch (refused) {
      throw new RefusedError(String(refused));
    }
    return {};
  },
  async disconnect(on) {
    await broker(on).close();
    brokers.delete(on);
    return {};
  },

  async open_session(on, given, signal) {
    const opened = await broker(on).openSession({ ...opening(given), signal });
    handles.set(given.handle, opened);
    return { session: session(opened.info), created: opened.created };
  },
  async validate_session(on, given, signal) {
    await broker(on).validateSession({ ...opening(given), signal });
    return {};
  },
  handle(_, given) {
    const { info, ended, interruption } = found(handles, given.handle);
    return { session: session(info), ended, interrupted: interruption !== undefined };
  },
  async wait_ended(_, given, signal) {
    const ended = found(handles, given.handle).waitEnded({ signal });
    return { session: session(await inTime(ended, given.within)) };
  },
  detach(_, given) {
    found(handles, given.handle).detach();
    return {};
  },
  async close_handle(_, given, signal) {
    return { session: session(await found(handles, given.handle).close({ signal })) };
  },
  async get_session(on, given, signal) {
    const options = { timeout: given.deadline, signal };
    return { session: session(await broker(on).getSession(given.session_id, options)) };
  },
  async list_sessions(on, given, signal) {
    const sessions: Json[] = [];
    const paged = given.page_size === undefined ? {} : { pageSize: given.page_size };
    for await (const each of broker(on).listSessions({ ...filter(given), ...paged, signal })) {
      sessions.push(session(each));
    }
    return { sessions };
  },
  async close_session(on, given, signal) {
    const options = { reason: given.reason ?? "", signal };
    return { session: session(await broker(on).closeSession(given.session_id, options)) };
  },
  async renew_session(on, given, signal) {
    const options = { leaseTtl: given.lease_ttl, signal };
    return { session: session(await broker(on).renewSession(given.session_id, options)) };
  },
  async verify_session(on, given, signal) {
    const verified = await broker(on).verifySession(given.session_id, { signal });
    return {
      healthy: verified.healthy,
      latency: seconds(verified.latency) ?? null,
      failure: failure(verified.failure),
    };
  },
  async list_session_events(on, given, signal) {
    const events: Json[] = [];
    const paged = given.page_size === undefined ? {} : { pageSize: given.page_size };
    for await (const each of broker(on).sessionEvents(given.session_id, { ...paged, signal })) {
      events.push(event(each));
    }
    return { events };
  },
  async acknowledge_data(on, given, signal) {
    const options = { generation: BigInt(given.generation as number), signal };
    return { session: session(await broker(on).acknowledgeData(given.session_id, options)) };
  },

  watch(on, given) {
    const resumeToken = (given.resume_token as string | undefined) ?? "";
    watches.set(given.name, broker(on).watch({ ...filter(given), resumeToken }));
    return {};
  },
  async next(_, given, signal) {
    const watch = found(watches, given.watch);
    const next = asked.get(watch) ?? watch.next();
    asked.set(watch, next);
    // Whoever asks later is told an error that comes when nobody waits.
    next.catch(() => {});
    const late = sleep(given.within * 1000, LATE, { signal, ref: false });
    const result = await Promise.race([next, late]).catch((error: unknown) => {
      if (!signal.aborted) {
        asked.delete(watch);
      }
      throw error;
    });
    if (result === LATE) {
      return null;
    }
    // Only whoever tells it takes it: it may have come when nobody waited.
    asked.delete(watch);
    return result.done ? null : item(result.value);
  },
  async stop_watch(_, given) {
    const watch = found(watches, given.watch);
    watches.delete(given.watch);
    await watch.close();
    return { token: watch.token };
  },

  async list_gateways(on, _, signal) {
    return { gateways: (await broker(on).gateways.list({ signal })).map(gateway) };
  },
  async get_gateway(on, given, signal) {
    return { gateway: gateway(await broker(on).gateways.get(given.gateway_id, { signal })) };
  },
  async drain_gateway(on, given, signal) {
    const options = {
      reason: given.reason ?? "",
      closeSessions: given.close_sessions === true,
      signal,
    };
    return { gateway: gateway(await broker(on).gateways.drain(given.gateway_id, options)) };
  },
  async resume_gateway(on, given, signal) {
    return { gateway: gateway(await broker(on).gateways.resume(given.gateway_id, { signal })) };
  },
  async reset_circuit_breaker(on, given, signal) {
    const { gateways } = broker(on);
    return { gateway: gateway(await gateways.resetBreaker(given.gateway_id, { signal })) };
  },
  async get_broker_info(on, _, signal) {
    const { version, storeId, capabilities, access } = await broker(on).info({ signal });
    const role = access?.role ? Role[access.role] : null;
    return { version, store_id: storeId, capabilities, caller: access?.caller ?? null, role };
  },

  async simulate(_, given) {
    const rpc = given.rpc as keyof typeof SimulatorService.method;
    const method = SimulatorService.methods.find(({ name }) => name === rpc);
    if (method === undefined) {
      throw new Error(`the simulator has no rpc ${rpc}`);
    }
    const fields = given.fields;
    const asked =
      fields === undefined ? create(method.input) : fromJson(method.input, fields as JsonValue);
    const client = new Client(given.address, credentials.createInsecure());
    try {
      await new Promise((resolve, reject) => {
        client.makeUnaryRequest(
          `/${SimulatorService.typeName}/${method.name}`,
          (value: Buffer) => value,
          (value) => value,
          Buffer.from(toBinary(method.input, asked)),
          { deadline: Date.now() + 10_000 },
          (failed, answer) => (failed ? reject(failed) : resolve(answer)),
        );
      });
    } finally {
      client.close();
    }
    return {};
  },
};

function broker(on: string): Broker {
  return found(brokers, on);
}

function found<T>(among: Map<string, T>, name: string): T {
  const one = among.get(name);
  if (one === undefined) {
    throw new Error(`there is no ${JSON.stringify(name)} here`);
  }
  return one;
}

/** The options of openSession; without a lease_ttl there is no lease. */
function opening(given: Given): OpenOptions {
  const policy = given.client_id_policy as keyof typeof ClientIdPolicy | undefined;
  return {
    gatewayId: given.gateway_id,
    clientId: given.client_id as number | undefined,
    clientIdPolicy: policy && ClientIdPolicy[policy],
    readonly: given.readonly as boolean | undefined,
    attemptTimeout: given.timeout as number | undefined,
    maxAttempts: given.max_attempts as number | undefined,
    reconnectMaxAttempts: given.reconnect_max_attempts as number | undefined,
    requestId: given.request_id as string | undefined,
    leaseTtl: given.lease_ttl ?? null,
    labels: given.labels as Record<string, string> | undefined,
    returnImmediately: given.return_immediately as boolean | undefined,
    timeout: given.deadline,
  };
}

function filter(given: Given): Filter {
  const states = (given.states ?? []) as (keyof typeof SessionState)[];
  return {
    sessionIds: (given.session_ids ?? []) as string[],
    gatewayId: given.gateway_id ?? "",
    owner: (given.owner ?? "") as string,
    labels: (given.labels ?? {}) as Record<string, string>,
    states: states.map((name) => SessionState[name]),
    includeFinal: given.include_final === true,
  };
}

/** What a promise gives within some seconds. */
async function inTime<T>(promise: Promise<T>, within: number): Promise<T> {
  const result = await Promise.race([promise, sleep(within * 1000, LATE, { ref: false })]);
  if (result === LATE) {
    throw new Error(`nothing came within ${within} s`);
  }
  return result as T;
}

/** What comes of a request; never rejected. */
async function outcomeOf(
  handler: Handler,
  on: string,
  given: Given,
  signal: AbortSignal,
): Promise<Json> {
  try {
    return { result: await handler(on, given, signal) };
  } catch (thrown) {
    if (thrown instanceof BrokerError) {
      return { error: error(thrown) };
    }
    if (thrown instanceof RefusedError) {
      return { error: { type: "Refused", message: thrown.message } };
    }
    if (signal.aborted && thrown instanceof Error && thrown.name === "AbortError") {
      return { error: { type: "Cancelled" } };
    }
    return { broken: thrown instanceof Error ? thrown.stack : String(thrown) };
  }
}

/** Do what a line says. */
async function answer(line: string): Promise<Json> {
  const request = JSON.parse(line) as Request;
  const set = Object.entries(request.with ?? {}).filter(([, value]) => value !== null);
  const given = Object.fromEntries(set) as Given;
  if (request.do === "await" || request.do === "cancel") {
    const { outcome, cancel } = found(background, given.name);
    if (request.do === "cancel") {
      cancel();
    }
    return inTime(outcome, given.within ?? CANCELS);
  }
  const handler = requests[request.do];
  if (handler === undefined) {
    return { broken: `there is no request ${JSON.stringify(request.do)}` };
  }
  const controller = new AbortController();
  const outcome = outcomeOf(handler, request.on ?? "main", given, controller.signal);
  if (request.background) {
    background.set(request.background, { outcome, cancel: () => controller.abort() });
    return { result: {} };
  }
  return outcome;
}

for await (const line of createInterface({ input: process.stdin })) {
  const told = await answer(line).catch((bug: Error) => ({ broken: bug.stack }));
  process.stdout.write(`${JSON.stringify(told)}\n`);
}
for (const { cancel } of background.values()) {
  cancel();
}
for (const each of brokers.values()) {
  await each.close();
}
