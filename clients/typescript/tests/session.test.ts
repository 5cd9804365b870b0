/** A handle keeps its session current and alive, and says when it has ended. */

import assert from "node:assert/strict";
import { afterEach, beforeEach, describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";

import { create } from "@bufbuild/protobuf";
import { status } from "@grpc/grpc-js";
import {
  Backoff,
  type Broker,
  BrokerClosedError,
  BrokerError,
  ClientIdPolicy,
  connect,
  InvalidArgumentError,
  SessionEndedError,
  SessionNotFoundError,
  SessionState,
  StoreUnavailableError,
  seconds,
} from "ibgateway-client";
import { ConnectionFailureSchema } from "ibgateway-client/broker/v1/error_pb";
import type {
  CloseSessionRequest,
  OpenSessionRequest,
  RenewSessionRequest,
} from "ibgateway-client/broker/v1/session_service_pb";

import { duration } from "#client/time";

import { eventually } from "./eventually.js";
import {
  bookmark,
  complete,
  event,
  Refusal,
  type Script,
  ScriptedBroker,
  SESSION_ID,
  SILENCE,
  says,
  session,
  snapshot,
} from "./scripted_broker.js";

const { CONNECTED, DISCONNECTED, FAILED, RECONNECTING } = SessionState;
const NOT_FOUND = new Refusal(status.NOT_FOUND, { reason: "SESSION_NOT_FOUND" });
const CLOSED = { state: DISCONNECTED, sequence: 3n, closeReason: "CLOSE_REQUESTED" };
const END = event(11n, 3n, CLOSED);

let peer: ScriptedBroker;
let broker: Broker;
let said: string[];
let opened: Parameters<typeof session>[0];

beforeEach(async () => {
  said = [];
  const say = (level: string) => (message: string) => said.push(`${level} ${message}`);
  const logger = { info: say("info"), warn: say("warn"), error: say("error") };
  peer = await ScriptedBroker.start();
  peer.on("CloseSession", { session: session(CLOSED) });
  opens({});
  tells();
  broker = connect(peer.address, { backoff: new Backoff({ initial: 0.02, maximum: 0.1 }), logger });
});
afterEach(async () => {
  await broker.close();
  await eventually(() => peer.openStreams === 0, "every stream has ended");
  await peer.stop();
});

/** What the session is that is opened, found, renewed and watched. */
function opens(fields: Parameters<typeof session>[0]): void {
  opened = fields;
  const answer = { session: session(fields), created: true };
  for (const rpc of ["OpenSession", "GetSession", "RenewSession"]) {
    peer.on(rpc, answer);
  }
}

/** What streams tell after a snapshot of the session as it is opened. */
function tells(...messages: Parameters<typeof says>): void {
  peer.tells(() => says(snapshot(opened), complete(10n), ...messages)());
}

/** What streams tell once a gate is open. */
function tellsLater(...messages: Parameters<typeof says>): () => void {
  let open = () => {};
  const gate = new Promise<void>((resolve) => {
    open = resolve;
  });
  peer.tells(async function* (): Script {
    yield* [snapshot(), complete(10n)];
    await gate;
    yield* messages;
    await sleep(20_000, undefined, { ref: false });
  });
  return open;
}

const lease = (value: number) => ({ leaseTtl: duration(value) });
const renewals = () => peer.requests<RenewSessionRequest>("RenewSession").length;
const closes = () => peer.requests<CloseSessionRequest>("CloseSession").length;

describe("an open", () => {
  test("can be repeated, owns its orders and has a lease", async () => {
    await broker.openSession({ clientId: 7 });
    await broker.openSession();
    const [first, second] = peer.requests<OpenSessionRequest>("OpenSession");
    assert.match(first?.request.requestId ?? "", /^[\da-f]{8}-[\da-f]{4}-4[\da-f]{3}-/);
    assert.notEqual(first?.request.requestId, second?.request.requestId);
    assert.deepEqual([first?.request.clientId, second?.request.clientId], [7, undefined]);
    assert.equal(first?.request.clientIdPolicy, ClientIdPolicy.EXACT);
    assert.equal(second?.request.clientIdPolicy, ClientIdPolicy.INCREMENT);
    assert.equal(seconds(first?.request.leaseTtl), 60);
  });

  test("says all that can be said", async () => {
    const labels = { Händler: "Zürich 東京 🦀", empty: "" };
    await broker.validateSession({
      gatewayId: "paper",
      clientId: 7,
      clientIdPolicy: ClientIdPolicy.INCREMENT,
      readonly: true,
      attemptTimeout: 1.25,
      maxAttempts: 3,
      reconnectMaxAttempts: 0,
      requestId: "r",
      leaseTtl: null,
      labels,
      returnImmediately: true,
      timeout: 5,
    });
    const [asked] = peer.requests<OpenSessionRequest>("OpenSession");
    const request = asked?.request;
    assert.ok(request?.validateOnly && request.readonly && request.returnImmediately);
    assert.deepEqual({ ...request.labels }, labels);
    assert.equal(seconds(request.timeout), 1.25);
    assert.deepEqual([request.maxAttempts, request.reconnectMaxAttempts], [3, 0]);
    assert.deepEqual([request.gatewayId, request.requestId], ["paper", "r"]);
    assert.equal(request.leaseTtl, undefined);
    assert.equal(request.clientIdPolicy, ClientIdPolicy.INCREMENT);
    assert.ok((asked?.remaining ?? 0) <= 5);
  });

  test("whose session has ended meanwhile says so", async () => {
    const lastFailure = create(ConnectionFailureSchema, { message: "refused", hint: "start it" });
    opens({ state: FAILED, lastFailure });
    await assert.rejects(broker.openSession({ requestId: "r" }), (error) => {
      assert.ok(error instanceof SessionEndedError);
      assert.match(String(error), /has FAILED: refused. Hint: start it/);
      return error.failure?.message === "refused" && error.session?.state === FAILED;
    });
  });

  test("that is cancelled is cancelled at the broker", async () => {
    peer.on("OpenSession", SILENCE);
    const opening = broker.openSession({ signal: AbortSignal.timeout(100) });
    await assert.rejects(opening, { name: "TimeoutError" });
  });
});

describe("a handle", () => {
  test("stays current", async () => {
    const go = tellsLater(
      event(11n, 3n, { state: RECONNECTING }),
      event(12n, 4n, { generation: 2n, accounts: ["DU1", "DU2"] }),
    );
    const handle = await broker.openSession({ clientId: 7 });
    assert.deepEqual(
      [handle.sessionId, handle.clientId, handle.gatewayId],
      [SESSION_ID, 7, "default"],
    );
    assert.deepEqual([handle.state, handle.ended, handle.created], [CONNECTED, false, true]);
    go();
    await eventually(() => handle.generation === 2n, "the new link is known");
    assert.deepEqual(handle.accounts, ["DU1", "DU2"]);
    assert.equal((await handle.waitConnected()).generation, 2n);
  });

  test("says that nothing is known while it cannot be followed", async () => {
    const handle = await broker.openSession();
    await eventually(() => peer.openStreams === 1, "it is followed");
    await peer.stop();
    await eventually(() => handle.interruption !== undefined, "the loss is known");
    assert.equal(handle.state, CONNECTED);
    const waiting = handle.waitConnected({ signal: AbortSignal.timeout(100) });
    await assert.rejects(waiting, { name: "TimeoutError" });
    await peer.start();
    await handle.waitConnected({ signal: AbortSignal.timeout(30_000) });
    assert.equal(handle.interruption, undefined);
    assert.ok(!handle.signal.aborted);
  });

  test("takes what a broker has forgotten as it is told anew", async () => {
    const early = event(10n, 3n, { state: RECONNECTING, persisted: false });
    peer.tells(
      async function* () {
        yield* [snapshot(), complete(10n), early];
        await sleep(50);
      },
      says(event(11n, 3n, { state: CONNECTED, generation: 2n })),
    );
    const handle = await broker.openSession();
    await eventually(() => handle.generation === 2n, "what is true is known");
    assert.equal(handle.state, CONNECTED);
  });

  test("takes the snapshot after a gap, whatever was told before", async () => {
    const early = event(12n, 9n, { state: RECONNECTING });
    opens({ sequence: 8n });
    peer.tells(
      says(snapshot(opened), complete(11n), early, event(13n, 9n)),
      says(snapshot({ sequence: 4n, generation: 2n }), complete(20n)),
    );
    const handle = await broker.openSession();
    await eventually(() => handle.generation === 2n, "what is true is known");
    assert.equal(handle.interruption, undefined);
  });

  test("takes the answer to its close, whatever was told before", async () => {
    opens({ sequence: 40n });
    const handle = await broker.openSession();
    assert.equal((await handle.close()).state, DISCONNECTED);
    assert.ok(handle.ended);
  });

  test("is followed again once it may be", async () => {
    const revoked = new Refusal(status.UNAUTHENTICATED, { reason: "UNAUTHENTICATED" });
    const refused = async function* (): Script {
      yield revoked;
    };
    opens({});
    peer.tells(refused, refused, says(snapshot(), complete(10n), END));
    const handle = await broker.openSession();
    await eventually(() => handle.interruption !== undefined, "it is known");
    const ended = await handle.waitEnded({ signal: AbortSignal.timeout(30_000) });
    assert.equal(ended.state, DISCONNECTED);
    assert.equal(said.filter((line) => /is not followed/.test(line)).length, 1, said.join());
  });

  test("that was told its end does not come back", async () => {
    const early = event(10n, 3n, { state: FAILED, persisted: false });
    tells(early);
    const handle = await broker.openSession({ keepOpen: true });
    await handle.waitEnded();
    peer.on("GetSession", { session: session({ sequence: 4n }) });
    await handle.refresh();
    assert.ok(handle.ended && handle.signal.aborted);
  });

  test("calls for its session", async () => {
    const handle = await broker.openSession();
    peer.on("VerifySession", { healthy: true, latency: duration(0.25) });
    assert.equal(seconds((await handle.verify()).latency), 0.25);
    peer.on("AcknowledgeData", { session: session({ sequence: 5n }) });
    assert.equal((await handle.acknowledgeData({ generation: 1n })).sequence, 5n);
    assert.equal((await handle.refresh()).sequence, 5n, "nothing older replaces it");
    peer.on("ListSessionEvents", { events: [{ sequence: 1n, sessionId: SESSION_ID }] });
    for await (const { sequence, token } of handle.events()) {
      assert.deepEqual([sequence, token], [1n, ""]);
    }
  });

  test("watches its session until that has ended", async () => {
    tells(
      event(11n, 3n, { state: RECONNECTING }),
      event(12n, 4n, { ...CLOSED, sequence: 4n }),
      bookmark(13n),
    );
    const handle = await broker.openSession();
    const kinds: string[] = [];
    for await (const { kind } of handle.watch()) {
      kinds.push(kind);
    }
    assert.deepEqual(kinds, ["snapshot", "snapshotComplete", "event", "event"]);
    assert.ok(handle.ended);
    peer.tells(says(snapshot(CLOSED), complete(12n), bookmark(13n)));
    const again: string[] = [];
    for await (const { kind } of handle.watch()) {
      again.push(kind);
    }
    assert.deepEqual(again, ["snapshot", "snapshotComplete"]);
  });
});

describe("a lease", () => {
  test("is renewed at a third of what was granted", async () => {
    opens(lease(0.6));
    const begin = performance.now();
    await broker.openSession({ leaseTtl: 60 });
    const times = () => peer.requests("RenewSession").map(({ at }) => at - begin);
    // A slow machine is late, but not each time: at a half, none would come so soon after another.
    await eventually(() => {
      const waits = times().map((at, n, all) => at - (all[n - 1] ?? 0));
      return waits.length >= 3 && Math.min(...waits.slice(1)) < 280;
    }, "three renewals");
    const third = times()[2] ?? 0;
    assert.ok(third > 590, `${third} ms`);
    assert.equal(
      peer.requests<RenewSessionRequest>("RenewSession")[0]?.request.leaseTtl,
      undefined,
    );
  });

  test("is not renewed where there is none, until there is one", async () => {
    const handle = await broker.openSession({ leaseTtl: null });
    await sleep(200);
    assert.equal(renewals(), 0);
    opens(lease(0.3));
    assert.equal(seconds((await handle.renew({ leaseTtl: 0.3 })).leaseTtl), 0.3);
    await eventually(() => renewals() >= 3, "it is renewed");
  });

  test("that somebody else has shortened is renewed in time", async () => {
    opens(lease(60));
    tells(event(11n, 3n, lease(0.3)));
    await broker.openSession();
    await eventually(() => renewals() === 1, "it is renewed");
  });

  test("is renewed again once the broker is back", async () => {
    opens(lease(0.6));
    const handle = await broker.openSession();
    await peer.stop();
    await eventually(() => handle.renewalError !== undefined, "the failure is known");
    const warned = said.filter((line) =>
      /^warn session .* its lease could not be renewed/.test(line),
    );
    assert.equal(warned.length, 1, said.join("\n"));
    const before = renewals();
    await peer.start();
    await eventually(() => renewals() > before && handle.renewalError === undefined, "renewed");
    assert.ok(!handle.ended);
  });

  test("that was taken away is not renewed", async () => {
    opens(lease(0.3));
    peer.on("RenewSession", new Refusal(status.INVALID_ARGUMENT, { reason: "INVALID_ARGUMENT" }));
    peer.on("GetSession", { session: session() });
    const handle = await broker.openSession();
    await eventually(() => renewals() === 1, "it was tried");
    await eventually(() => handle.info.leaseTtl === undefined, "it is known");
    await sleep(300);
    assert.equal(renewals(), 1);
    await assert.rejects(handle.renew(), InvalidArgumentError);
  });
});

test("a lease is renewed after a refusal that is none", async () => {
  opens(lease(0.3));
  const refusal = new Refusal(status.INVALID_ARGUMENT, { reason: "INVALID_ARGUMENT" });
  peer.on("RenewSession", refusal, { session: session(lease(0.3)) });
  const handle = await broker.openSession();
  await eventually(() => renewals() >= 3, "it is renewed");
  assert.equal(handle.renewalError, undefined);
  assert.equal(seconds(handle.info.leaseTtl), 0.3);
});

describe("the end of a session", () => {
  test("by others is told in every way", async () => {
    const go = tellsLater(event(11n, 3n, { ...CLOSED, closeReason: "LEASE_EXPIRED" }));
    const handle = await broker.openSession();
    const waiting = handle.waitEnded();
    const aborted = new Promise((resolve) => handle.signal.addEventListener("abort", resolve));
    go();
    assert.equal((await waiting).closeReason, "LEASE_EXPIRED");
    await aborted;
    assert.ok(handle.ended);
    const reason: unknown = handle.signal.reason;
    assert.ok(reason instanceof SessionEndedError);
    assert.deepEqual([reason.sessionId, reason.closeReason], [SESSION_ID, "LEASE_EXPIRED"]);
    assert.equal(reason.session, handle.info);
    assert.match(reason.hint, /blocked/);
    const ended = { name: "SessionEndedError" };
    await assert.rejects(handle.verify(), ended);
    await assert.rejects(handle.renew(), ended);
    await assert.rejects(handle.acknowledgeData({ generation: 1n }), ended);
    await assert.rejects(handle.waitConnected(), ended);
    assert.equal(said.filter((line) => line.startsWith("error")).length, 1);
    await handle[Symbol.asyncDispose]();
    assert.equal(closes(), 0, "there is nothing to close");
  });

  test("by its owner is no end by others", async () => {
    const handle = await broker.openSession();
    assert.equal((await handle.close({ reason: "done" })).state, DISCONNECTED);
    await handle.close();
    const asked = peer.requests<CloseSessionRequest>("CloseSession");
    assert.deepEqual(
      asked.map(({ request }) => request.reason),
      ["done", ""],
    );
    assert.ok(handle.ended && !handle.signal.aborted);
    await broker.close();
    assert.equal(closes(), 2);
    assert.deepEqual(said, []);
  });

  test("by others, which a close finds, is told", async () => {
    peer.on("CloseSession", { session: session({ ...CLOSED, closeReason: "GATEWAY_DRAINED" }) });
    const handle = await broker.openSession();
    await handle.close();
    assert.ok(handle.signal.reason instanceof SessionEndedError);
  });

  test("is found by a renewal that is refused", async () => {
    opens(lease(0.3));
    peer.on("RenewSession", new Refusal(status.ABORTED, { reason: "SESSION_CLOSED" }));
    peer.on("GetSession", { session: session(CLOSED) });
    const handle = await broker.openSession();
    assert.equal((await handle.waitEnded()).closeReason, "CLOSE_REQUESTED");
  });

  test("is found by a call that finds no session, or a snapshot without it", async () => {
    const handle = await broker.openSession();
    peer.on("VerifySession", NOT_FOUND);
    await assert.rejects(handle.verify(), (error) => {
      assert.ok(error instanceof SessionEndedError && error.cause instanceof SessionNotFoundError);
      return /no record of it/.test(error.message);
    });
    assert.ok(handle.ended);
    peer.tells(says(complete(10n)));
    await (await broker.openSession()).waitEnded();
  });

  test("is told by a call that hears of it", async () => {
    const handle = await broker.openSession();
    peer.on("RenewSession", new Refusal(status.ABORTED, { reason: "SESSION_CLOSED" }));
    await assert.rejects(
      handle.renew(),
      (error) => error instanceof SessionEndedError && error.session === handle.info,
    );
    peer.on(
      "VerifySession",
      new Refusal(status.UNAVAILABLE, { reason: "STORE_UNAVAILABLE", retryAfter: 60 }),
    );
    await assert.rejects(handle.verify(), StoreUnavailableError);
  });
});

describe("the end of a block", () => {
  test("closes the session, also after an error", async () => {
    const use = async () => {
      await using handle = await broker.openSession();
      throw new Error(`of the body of ${handle.sessionId}`);
    };
    await assert.rejects(use(), /of the body/);
    assert.equal(closes(), 1);
  });

  test("leaves it open if it was detached", async () => {
    for (const keepOpen of [true, false]) {
      await using handle = await broker.openSession({ keepOpen });
      if (!keepOpen) {
        handle.detach();
      }
    }
    assert.equal(closes(), 0);
  });

  test("throws if it cannot be closed, and nothing is left behind", async () => {
    peer.on("CloseSession", new Refusal(status.INTERNAL, { reason: "INTERNAL" }));
    const handle = await broker.openSession();
    await assert.rejects(async () => handle[Symbol.asyncDispose](), {
      name: "BrokerInternalError",
    });
    await eventually(() => peer.openStreams === 0, "it is followed no longer");
    await assert.rejects(handle.waitEnded(), BrokerClosedError);
  });

  test("of the Broker closes what was opened, and says what it could not close", async () => {
    opens(lease(0.3));
    await broker.openSession();
    (await broker.openSession()).detach();
    peer.on("CloseSession", new Refusal(status.INTERNAL, { reason: "INTERNAL" }));
    await broker.close();
    assert.equal(closes(), 1);
    assert.match(said.join(), /error session 1111.* could not be closed: INTERNAL/);
    const before = renewals();
    await sleep(300);
    assert.equal(renewals(), before);
  });
});

test("the end of the Broker closes what is opened meanwhile, and opens nothing more", async () => {
  await broker.openSession();
  const closed = { session: session(CLOSED) };
  peer.on("CloseSession", new Refusal(status.UNAVAILABLE), closed);
  const opening = broker.openSession({ leaseTtl: null });
  const closing = broker.close();
  await assert.rejects(broker.openSession(), BrokerClosedError);
  await assert.rejects(broker.attach(SESSION_ID), BrokerClosedError);
  await opening;
  await closing;
  assert.equal(closes(), 3, "both are closed, one at the second try");
});

describe("who attaches", () => {
  test("renews the lease, and leaves the session open", async () => {
    opens(lease(0.6));
    const handle = await broker.attach(SESSION_ID);
    assert.equal(handle.created, false);
    await eventually(() => renewals() >= 2, "it is renewed");
    await broker.close();
    assert.equal(closes(), 0);
  });

  test("can give a lease, and close", async () => {
    const handle = await broker.attach(SESSION_ID, { leaseTtl: 30, keepOpen: false });
    const [asked] = peer.requests<RenewSessionRequest>("RenewSession");
    assert.equal(seconds(asked?.request.leaseTtl), 30);
    await handle[Symbol.asyncDispose]();
    assert.equal(closes(), 1);
  });

  test("takes a session without a lease as it is, and none that has ended or never was", async () => {
    await broker.attach(SESSION_ID);
    assert.equal(renewals(), 0);
    peer.on("GetSession", { session: session(CLOSED) });
    await assert.rejects(broker.attach(SESSION_ID), SessionEndedError);
    peer.on("GetSession", NOT_FOUND);
    await assert.rejects(broker.attach(SESSION_ID), SessionNotFoundError);
  });
});

test("many handles leave nothing behind", async () => {
  let wanted = 0;
  peer.tells(async function* (): Script {
    yield* [snapshot(opened), complete(10n)];
    const last = wanted;
    await eventually(() => closes() >= last, "all of them are closed");
    yield END;
  });
  for (let round = 0; round < 20; round++) {
    wanted += 3;
    const handles = await Promise.all([1, 2, 3].map(() => broker.openSession()));
    await Promise.all(handles.map((handle) => handle.close()));
  }
  await eventually(() => peer.openStreams === 0, "every stream has ended");
  assert.equal(closes(), 60);
  tells(END);
  const ended = await broker.openSession();
  await ended.waitEnded();
  await eventually(() => peer.openStreams === 0, "an ended session is not followed");
  assert.ok(ended.signal.reason instanceof BrokerError);
});
