/** Calls: with a deadline, repeated where that is safe, cancelled at once; and the end of all of them. */

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { getEventListeners, once } from "node:events";
import { createConnection, createServer } from "node:net";
import { afterEach, beforeEach, describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";

import { status } from "@grpc/grpc-js";
import {
  Backoff,
  type Broker,
  BrokerClosedError,
  BrokerUnreachableError,
  CallTimeoutError,
  CircuitBreakerOpenError,
  connect,
  GatewayConnectionError,
  StoreUnavailableError,
} from "ibgateway-client";
import type {
  ListSessionsRequest,
  OpenSessionRequest,
} from "ibgateway-client/broker/v1/session_service_pb";

import { eventually } from "./eventually.js";
import {
  bookmark,
  Refusal,
  ScriptedBroker,
  SESSION_ID,
  SILENCE,
  says,
  session,
} from "./scripted_broker.js";

const QUICK = new Backoff({ initial: 0.02, maximum: 0.1 });
const CUT = new Refusal(status.UNAVAILABLE);
const BUSY = (reason: string) => new Refusal(status.UNAVAILABLE, { reason, retryAfter: 0.05 });
const FOUND = { session: session() };

let peer: ScriptedBroker;
let broker: Broker;

beforeEach(async () => {
  peer = await ScriptedBroker.start();
  broker = connect(peer.address, { backoff: QUICK });
});
afterEach(async () => {
  await broker.close();
  await peer.stop();
});

describe("what is sent", () => {
  test("every method calls its rpc once, with a deadline and its metadata", async () => {
    const correlationId = "33333333-3333-4333-8333-333333333333";
    const calls: [string, number, (all: { correlationId: string }) => Promise<unknown>][] = [
      ["GetSession", 10, (all) => broker.getSession("x", all)],
      ["ListSessions", 10, (all) => broker.listSessions(all).next()],
      ["ListSessionEvents", 10, (all) => broker.sessionEvents("x", all).next()],
      ["CloseSession", 30, (all) => broker.closeSession("x", { ...all, reason: "r" })],
      ["RenewSession", 10, (all) => broker.renewSession("x", { ...all, leaseTtl: 2.5 })],
      ["VerifySession", 30, (all) => broker.verifySession("x", all)],
      ["AcknowledgeData", 10, (all) => broker.acknowledgeData("x", { ...all, generation: 2n })],
      ["OpenSession", 300, (all) => broker.validateSession({ ...all, clientId: 7 })],
      ["GetBrokerInfo", 10, (all) => broker.info(all)],
      ["ListGateways", 10, (all) => broker.gateways.list(all)],
      ["GetGateway", 10, (all) => broker.gateways.get("paper", all)],
      ["DrainGateway", 120, (all) => broker.gateways.drain("", { ...all, closeSessions: true })],
      ["DrainGateway", 10, (all) => broker.gateways.drain("", all)],
      ["ResumeGateway", 10, (all) => broker.gateways.resume("", all)],
      ["ResetCircuitBreaker", 10, (all) => broker.gateways.resetBreaker("", all)],
    ];
    for (const [rpc, timeout, call] of calls) {
      peer.asked.length = 0;
      await call({ correlationId });
      const [asked] = peer.asked;
      assert.equal(peer.asked.length, 1, rpc);
      assert.ok(asked !== undefined);
      assert.equal(asked.rpc, rpc);
      assert.equal(asked.metadata["x-correlation-id"], correlationId);
      assert.ok(
        asked.remaining > timeout - 5 && asked.remaining < timeout + 1,
        `${rpc}: ${asked.remaining}`,
      );
    }
  });

  test("who calls, and with what", async () => {
    await broker.info();
    assert.equal(peer.asked[0]?.metadata["x-broker-owner"], undefined);
    assert.equal(peer.asked[0]?.metadata.authorization, undefined);
    const metadata = { "x-desk": "fx" };
    await using other = connect(peer.address, { owner: "momentum", token: "s3cret", metadata });
    await other.info();
    await other.info();
    const [, first, second] = peer.asked;
    assert.equal(first?.metadata["x-broker-owner"], "momentum");
    assert.equal(first?.metadata.authorization, "Bearer s3cret");
    assert.equal(first?.metadata["x-desk"], "fx");
    assert.match(String(first?.metadata["x-correlation-id"]), /^[\da-f]{8}-[\da-f]{4}-4/);
    assert.notEqual(first?.metadata["x-correlation-id"], second?.metadata["x-correlation-id"]);
  });

  test("lists are fetched page by page, until who reads them has enough", async () => {
    const page = (sessionId: string, nextPageToken: string) => ({
      sessions: [session({ sessionId })],
      nextPageToken,
    });
    peer.on("ListSessions", page("a", "p2"), page("b", "p3"), page("c", ""));
    const ids: string[] = [];
    for await (const { sessionId } of broker.listSessions({ owner: "m", pageSize: 1 })) {
      ids.push(sessionId);
    }
    assert.deepEqual(ids, ["a", "b", "c"]);
    const asked = peer.requests<ListSessionsRequest>("ListSessions").map(({ request }) => request);
    assert.deepEqual(
      asked.map(({ pageToken }) => pageToken),
      ["", "p2", "p3"],
    );
    assert.ok(asked.every(({ owner, pageSize }) => owner === "m" && pageSize === 1));
    peer.on("ListSessions", page("a", "p2"));
    for await (const _ of broker.listSessions()) {
      break;
    }
    assert.equal(peer.requests("ListSessions").length, 4);
  });

  test("what cannot be sent is refused, and nothing is sent", async () => {
    for (const timeout of [0, -1, Number.NaN, Number.POSITIVE_INFINITY, 1e10]) {
      await assert.rejects(broker.getSession("x", { timeout }), RangeError);
    }
    await assert.rejects(broker.openSession({ leaseTtl: Number.NaN }), RangeError);
    await assert.rejects(broker.openSession({ clientId: 2 ** 40 }), /client_id/);
    await assert.rejects(broker.openSession({ clientId: 1.5 }), /client_id/);
    assert.deepEqual(peer.asked, []);
  });
});

describe("what is repeated", () => {
  for (const reason of [
    "CIRCUIT_OPEN",
    "GATEWAY_DRAINING",
    "BROKER_DRAINING",
    "STORE_UNAVAILABLE",
  ]) {
    test(`what the broker could not do just now: ${reason}`, async () => {
      peer.on("GetSession", BUSY(reason), FOUND);
      const begin = performance.now();
      assert.equal((await broker.getSession("x")).sessionId, SESSION_ID);
      assert.ok(performance.now() - begin >= 50);
      peer.on("DrainGateway", BUSY(reason), {});
      await broker.gateways.drain();
      const ids = peer.requests("GetSession").map(({ metadata }) => metadata["x-correlation-id"]);
      assert.equal(ids.length, 2);
      assert.equal(new Set(ids).size, 1);
    });
  }

  test("an open, with its requestId", async () => {
    peer.on("OpenSession", BUSY("CIRCUIT_OPEN"), CUT, { session: session(), created: true });
    const opened = await broker.openSession({ clientId: 7 });
    assert.ok(opened.created);
    const asked = peer.requests<OpenSessionRequest>("OpenSession").map(({ request }) => request);
    assert.equal(asked.length, 3);
    assert.equal(new Set(asked.map(({ requestId }) => requestId)).size, 1);
    opened.detach();
  });

  test("a read that nobody has answered, and nothing that is not safe then", async () => {
    peer.on("GetSession", CUT, FOUND);
    await broker.getSession("x");
    peer.on("VerifySession", CUT, {});
    await assert.rejects(broker.verifySession("x"), BrokerUnreachableError);
    peer.on("ResumeGateway", CUT, {});
    await assert.rejects(broker.gateways.resume(), BrokerUnreachableError);
    peer.on("OpenSession", CUT, {});
    await assert.rejects(broker.openSession({ requestId: "" }), BrokerUnreachableError);
  });

  test("not what the Gateway has caused, though it is UNAVAILABLE", async () => {
    peer.on("OpenSession", BUSY("IB_CONN_001"), {});
    await assert.rejects(broker.openSession(), GatewayConnectionError);
  });

  test("nothing beyond the timeout: the last error is told, and the one before", async () => {
    peer.on(
      "GetSession",
      CUT,
      new Refusal(status.UNAVAILABLE, { reason: "CIRCUIT_OPEN", retryAfter: 60 }),
    );
    const begin = performance.now();
    await assert.rejects(broker.getSession("x", { timeout: 40 }), (error) => {
      assert.ok(error instanceof CircuitBreakerOpenError);
      assert.ok(error.cause instanceof BrokerUnreachableError);
      return error.retryAfter === 60;
    });
    assert.ok(performance.now() - begin < 30_000);
  });

  test("many at once, which is no leak", async () => {
    const warnings: Error[] = [];
    const warn = (warning: Error) => warnings.push(warning);
    process.on("warning", warn);
    await peer.stop();
    const found = Array.from({ length: 20 }, () => broker.getSession("x"));
    await sleep(300);
    peer.on("GetSession", FOUND);
    await peer.start();
    await Promise.all(found);
    process.off("warning", warn);
    assert.deepEqual(warnings, []);
  });

  test("nothing without backoff", async () => {
    await using once = connect(peer.address, { backoff: false });
    peer.on("GetSession", BUSY("STORE_UNAVAILABLE"), FOUND);
    await assert.rejects(once.getSession("x"), StoreUnavailableError);
  });

  test("a broker that is started meanwhile is found, and the outage is a warning once", async () => {
    const said: string[] = [];
    const logger = {
      info: (message: string) => said.push(`info ${message}`),
      warn: (message: string) => said.push(`warn ${message}`),
      error: (message: string) => said.push(`error ${message}`),
    };
    await using patient = connect(peer.address, { backoff: QUICK, logger });
    await peer.stop();
    const found = patient.getSession("x");
    await sleep(500);
    peer.on("GetSession", FOUND);
    await peer.start();
    await found;
    assert.match(said[0] ?? "", /^warn no broker answers at .*ECONNREFUSED.*trying again in/);
    assert.ok(said.length > 1 && said.slice(1).every((line) => line.startsWith("info")));
  });

  test("waits double up to a limit and are jittered; what the broker asks for is waited", () => {
    const backoff = new Backoff({ initial: 0.5, maximum: 3 });
    const whole = [0, 1, 2, 3, 1_000].map((failures) => backoff.delay(failures, undefined, 1));
    assert.deepEqual(whole, [0.5, 1, 2, 3, 3]);
    assert.equal(backoff.delay(1, undefined, 0), 0.5);
    assert.deepEqual([backoff.delay(0, 8, 0), backoff.delay(0, 8, 1)], [8, 10]);
    assert.equal(backoff.delay(0, 0, 0), 0.5);
    assert.throws(() => new Backoff({ initial: 0 }), RangeError);
    assert.throws(() => new Backoff({ initial: 2, maximum: 1 }), RangeError);
  });
});

describe("what ends a call", () => {
  test("its deadline, with what is unknown", async () => {
    peer.on("GetSession", SILENCE);
    const begin = performance.now();
    await assert.rejects(broker.getSession("x", { timeout: 1 }), (error) => {
      assert.ok(error instanceof CallTimeoutError);
      assert.match(error.message, /has not answered within 1 s/);
      return error.retryable;
    });
    assert.ok(performance.now() - begin < 20_000);
    assert.equal(peer.requests("GetSession").length, 1, "it is not repeated");
  });

  test("its signal, with the reason, also before it begins and between two tries", async () => {
    peer.on("GetSession", SILENCE);
    const controller = new AbortController();
    const options = { signal: controller.signal };
    const waiting = assert.rejects(broker.getSession("x", options), { name: "AbortError" });
    await eventually(() => peer.asked.length === 1, "it is asked");
    controller.abort();
    await waiting;
    await assert.rejects(broker.getSession("x", options), { name: "AbortError" });
    assert.equal(peer.asked.length, 1);
    await peer.stop();
    const signal = AbortSignal.timeout(100);
    await assert.rejects(broker.getSession("x", { signal }), { name: "TimeoutError" });
    await peer.start();
  });

  test("its answer: then nothing listens to its signal any more", async () => {
    const { signal } = new AbortController();
    peer.on("GetSession", CUT, FOUND);
    peer.tells(says(bookmark(5n)));
    await broker.getSession("x", { signal });
    for await (const _ of broker.watch({ signal, resumeToken: "t4" })) {
      break;
    }
    await broker.watch({ signal }).close();
    assert.equal(getEventListeners(signal, "abort").length, 0);
  });

  test("the end of its Broker, at once, also between two tries", async () => {
    peer.on("GetSession", SILENCE);
    peer.on(
      "GetGateway",
      new Refusal(status.UNAVAILABLE, { reason: "CIRCUIT_OPEN", retryAfter: 5 }),
    );
    const waiting = [
      assert.rejects(broker.getSession("x"), BrokerClosedError),
      assert.rejects(broker.gateways.get(), BrokerClosedError),
    ];
    await eventually(() => peer.asked.length === 2, "both are asked");
    await broker.close();
    await Promise.all(waiting);
    await broker.close();
    await assert.rejects(broker.getSession("x"), BrokerClosedError);
    await assert.rejects(broker.watch().next(), BrokerClosedError);
  });

  test("a connection that has died, which pings find out", async () => {
    let frozen = false;
    const proxy = createServer((near) => {
      const far = createConnection(Number(peer.address.split(":")[1]), "127.0.0.1");
      near.on("data", (bytes) => frozen || far.write(bytes));
      far.on("data", (bytes) => frozen || near.write(bytes));
      for (const [one, other] of [
        [near, far],
        [far, near],
      ] as const) {
        one.on("close", () => other.destroy());
        one.on("error", () => other.destroy());
      }
    }).listen(0, "127.0.0.1");
    await once(proxy, "listening");
    const { port } = proxy.address() as { port: number };
    const channelOptions = { "grpc.keepalive_time_ms": 1_000, "grpc.keepalive_timeout_ms": 1_000 };
    await using remote = connect(`127.0.0.1:${port}`, { channelOptions, backoff: false });
    peer.on("GetSession", FOUND, SILENCE);
    await remote.getSession("x");
    const waiting = remote.getSession("x", { timeout: 60 });
    await eventually(() => peer.asked.length === 2, "it is asked");
    frozen = true;
    const begin = performance.now();
    await assert.rejects(
      waiting,
      (error) => error instanceof BrokerUnreachableError && !(error instanceof CallTimeoutError),
    );
    assert.ok(performance.now() - begin < 30_000);
    proxy.close();
  });

  test("a peer that accepts and says nothing, which is dialled again", async () => {
    peer.on("GetSession", FOUND);
    let silent = 2;
    const proxy = createServer((near) => {
      near.on("error", () => {});
      if (silent-- > 0) {
        return;
      }
      const far = createConnection(Number(peer.address.split(":")[1]), "127.0.0.1");
      near.pipe(far).pipe(near);
      near.on("close", () => far.destroy());
    }).listen(0, "127.0.0.1");
    await once(proxy, "listening");
    const { port } = proxy.address() as { port: number };
    const channelOptions = { "grpc.min_reconnect_backoff_ms": 500 };
    const secured = { credentials: {}, backoff: false as const, channelOptions };
    await using plain = connect(`127.0.0.1:${port}`, { channelOptions });
    await using secure = connect(`127.0.0.1:${port}`, secured);
    const [found, refused] = await Promise.all([
      plain.getSession("x", { timeout: 60 }),
      secure.getSession("x", { timeout: 60 }).catch((error: unknown) => error),
    ]);
    assert.equal(found.sessionId, SESSION_ID);
    assert.ok(refused instanceof BrokerUnreachableError && !(refused instanceof CallTimeoutError));
    assert.match(refused.message, /said nothing for 0.5 s/);
    proxy.close();
  });

  test("nothing: the process ends, though a connection was being made", async () => {
    const silent = createServer((near) => near.on("error", () => {})).listen(0, "127.0.0.1");
    await once(silent, "listening");
    const { port } = silent.address() as { port: number };
    const program = fileURLToPath(new URL("close_and_end.js", import.meta.url));
    const child = spawn(process.execPath, [program, `127.0.0.1:${port}`, "silent"], {
      stdio: ["ignore", "pipe", "inherit"],
    });
    await once(child.stdout, "data");
    const closedAt = performance.now();
    assert.deepEqual(await once(child, "exit"), [0, null]);
    assert.ok(performance.now() - closedAt < 20_000, "it has ended soon after the close");
    silent.close();
  });

  test("nothing: then the process ends by itself, once the Broker is closed", async () => {
    peer.on("OpenSession", {
      session: session({ leaseTtl: { seconds: 60n, nanos: 0 } }),
      created: true,
    });
    peer.on("CloseSession", { session: session({ state: 1, sequence: 3n }) });
    peer.tells(says());
    const program = fileURLToPath(new URL("close_and_end.js", import.meta.url));
    const child = spawn(process.execPath, [program, peer.address], {
      stdio: ["ignore", "pipe", "inherit"],
    });
    let closedAt = 0;
    child.stdout.on("data", () => {
      closedAt = performance.now();
    });
    const [code] = await once(child, "exit");
    assert.equal(code, 0);
    assert.ok(
      closedAt > 0 && performance.now() - closedAt < 10_000,
      "it has ended soon after the close",
    );
    assert.equal(peer.requests("CloseSession").length, 1);
  });
});

describe("what is no way to a broker", () => {
  for (const address of [
    "",
    "host",
    "host:",
    "host:0",
    "host:99999",
    ":1",
    "http://h:1",
    "a b:1",
    "::1:1",
    "h:1/x",
    "u@h:1",
  ]) {
    test(`the address ${JSON.stringify(address)}`, () => {
      assert.throws(() => connect(address), { name: "TypeError", message: /must be HOST:PORT/ });
    });
  }

  test("an owner or a token that metadata cannot carry", () => {
    for (const owner of ["", "Jürgen", "a\nb"]) {
      assert.throws(() => connect("h:1", { owner }), { name: "TypeError", message: /^owner/ });
    }
    for (const token of ["", "a b", "s3cret\n"]) {
      const refused = (error: Error) =>
        /^token/.test(error.message) && !/s3cret/.test(error.message);
      assert.throws(() => connect("127.0.0.1:1", { token }), refused);
    }
  });

  test("plain text for a token, unless it stays on this machine", async () => {
    const token = "s3cret";
    for (const address of [
      "broker.example.net:1",
      "10.0.0.1:1",
      "127.0.0.1.example.net:1",
      "127.0.0.256:1",
      "[::2]:1",
    ]) {
      assert.throws(() => connect(address, { token }), /must not be sent to .* in plain text/);
      const metadata = { Authorization: "Basic abc" };
      assert.throws(() => connect(address, { metadata }), /must not be sent/);
      await connect(address, { token, credentials: {} }).close();
    }
    for (const address of [
      "127.0.0.1:1",
      "127.9.9.9:1",
      "localhost:1",
      "LOCALHOST.:1",
      "[::1]:1",
    ]) {
      await connect(address, { token }).close();
    }
  });

  test("certificates that are none, which do not become those of the system", () => {
    for (const credentials of [
      { ca: "" },
      { ca: new Uint8Array() },
      { ca: "-----BEGIN PRIVATE KEY-----" },
      { certificate: "x" },
      { certificate: "x", key: "" },
    ]) {
      assert.throws(() => connect("127.0.0.1:1", { credentials }), { name: "TypeError" });
    }
  });

  test("metadata that cannot be sent, and is not shown", () => {
    const metadata = { authorization: "Bearer s3cret\n" };
    const refused = (error: Error) =>
      error instanceof TypeError &&
      /authorization/.test(error.message) &&
      !/s3/.test(error.message);
    assert.throws(() => connect("127.0.0.1:1", { metadata }), refused);
  });
});
