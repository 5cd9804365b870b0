/** A handle and the end of its session: around a close, and when it is not on record yet. */

import assert from "node:assert/strict";
import { afterEach, beforeEach, describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";

import { status } from "@grpc/grpc-js";
import {
  Backoff,
  type Broker,
  BrokerClosedError,
  BrokerInternalError,
  connect,
  SessionEndedError,
  SessionNotFoundError,
  SessionState,
} from "ibgateway-client";

import { eventually } from "./eventually.js";
import {
  bookmark,
  complete,
  event,
  Refusal,
  reset,
  type Script,
  ScriptedBroker,
  SILENCE,
  says,
  session,
  snapshot,
  until,
} from "./scripted_broker.js";

const { DISCONNECTED, FAILED, RECONNECTING } = SessionState;
const CLOSED = { state: DISCONNECTED, sequence: 3n, closeReason: "CLOSE_REQUESTED" };
const HEAD = [snapshot(), complete(10n)];

let peer: ScriptedBroker;
let broker: Broker;
let said: string[];

beforeEach(async () => {
  said = [];
  const say = (level: string) => (message: string) => said.push(`${level} ${message}`);
  const logger = { info: say("info"), warn: say("warn"), error: say("error") };
  peer = await ScriptedBroker.start();
  for (const rpc of ["OpenSession", "GetSession"]) {
    peer.on(rpc, { session: session(), created: true });
  }
  peer.on("CloseSession", { session: session(CLOSED) });
  peer.tells(says(...HEAD));
  broker = connect(peer.address, { backoff: new Backoff({ initial: 0.02, maximum: 0.1 }), logger });
});
afterEach(async () => {
  await broker.close();
  await eventually(() => peer.openStreams === 0, "every stream has ended");
  await peer.stop();
});

/** Tells these once the gate is open, and nothing more. */
function tellsLater(...messages: Parameters<typeof says>): () => void {
  let open = () => {};
  const gate = new Promise<void>((resolve) => {
    open = resolve;
  });
  peer.tells(async function* () {
    yield* HEAD;
    await gate;
    yield* says(...messages)();
  });
  return open;
}

describe("a close", () => {
  const failures: [string, Refusal | typeof SILENCE, number, object][] = [
    ["failed", new Refusal(status.INTERNAL, { reason: "INTERNAL" }), 60_000, BrokerInternalError],
    ["was cancelled", SILENCE, 200, { name: "TimeoutError" }],
  ];
  for (const [what, answer, patience, error] of failures) {
    test(`that ${what} does not make a later end one's own`, async () => {
      const go = tellsLater(event(11n, 3n, CLOSED));
      const handle = await broker.openSession();
      peer.on("CloseSession", answer);
      await assert.rejects(handle.close({ signal: AbortSignal.timeout(patience) }), error);
      go();
      await handle.waitEnded();
      assert.ok(handle.signal.reason instanceof SessionEndedError);
      assert.match(said.join(), /error .* has ended: CLOSE_REQUESTED/);
    });
  }

  test("that succeeds beside one that fails is one's own", async () => {
    const handle = await broker.openSession();
    const failure = new Refusal(status.INTERNAL, { reason: "INTERNAL" });
    peer.on("CloseSession", failure, { session: session(CLOSED) });
    const [first] = await Promise.allSettled([handle.close(), handle.close()]);
    assert.equal(first.status, "rejected");
    assert.ok(handle.ended && !handle.signal.aborted);
  });

  test("that finds no record tells the end", async () => {
    const handle = await broker.openSession();
    peer.on("CloseSession", new Refusal(status.NOT_FOUND, { reason: "SESSION_NOT_FOUND" }));
    const waiting = handle.waitEnded({ signal: AbortSignal.timeout(30_000) });
    await assert.rejects(handle.close(), SessionNotFoundError);
    await waiting;
    assert.ok(handle.ended && handle.signal.reason instanceof SessionEndedError);
  });
});

test("who is followed no longer is not said to be CONNECTED", async () => {
  const handle = await broker.openSession();
  handle.detach();
  await handle.waitConnected();
  await broker.close();
  assert.ok(handle.interruption instanceof BrokerClosedError, String(handle.interruption));
  await assert.rejects(handle.waitConnected(), BrokerClosedError);
});

describe("an end that is not on record", () => {
  const VOID = [
    event(10n, 3n, { state: RECONNECTING, persisted: false }),
    event(10n, 4n, { state: FAILED, persisted: false }),
  ];
  const LAST = { ...CLOSED, sequence: 5n };
  const closes = () => peer.requests("CloseSession").length;
  const openedSession = () => broker.openSession({ leaseTtl: null });

  /** The broker tells the end, and dies with it once it may; in the next one the session lives. */
  function dies(isDead: () => boolean = () => true): void {
    peer.on("GetSession", { session: session({ sequence: 4n }) });
    peer.on("CloseSession", { session: session(LAST) });
    peer.tells(
      async function* (): Script {
        yield* [...HEAD, ...VOID];
        await until(isDead);
      },
      async function* (): Script {
        yield* [event(11n, 3n, { state: RECONNECTING }), event(12n, 4n)];
        await until(() => closes() > 0);
        yield* says(event(13n, 5n, LAST))();
      },
    );
  }

  test("is told at once, and the session is closed if it lives", async () => {
    dies();
    const handle = await openedSession();
    assert.equal((await handle.waitEnded()).state, FAILED);
    assert.ok(handle.signal.aborted);
    await eventually(() => closes() === 1 && peer.openStreams === 0, "it is closed for good");
    assert.ok(handle.ended);
    assert.equal(handle.info.closeReason, "CLOSE_REQUESTED");
    assert.equal(said.filter((line) => /^warn .* lives, .* is closed/.test(line)).length, 1);
    assert.equal(said.filter((line) => line.startsWith("error")).length, 1, said.join());
  });

  test("is followed by the record, and nothing is closed", async () => {
    peer.tells(says(...HEAD, ...VOID, event(11n, 3n), event(12n, 4n, { state: FAILED })));
    const handle = await openedSession();
    await handle.waitEnded();
    await eventually(() => peer.openStreams === 0, "it is followed until then");
    assert.equal(closes(), 0);
  });

  test("of one's own is followed, and the session is closed again if it lives", async () => {
    let isDead = false;
    peer.on("GetSession", { session: session() });
    peer.on("CloseSession", { session: session(CLOSED) }, { session: session(LAST) });
    peer.tells(
      async function* (): Script {
        yield* HEAD;
        await eventually(() => isDead, "the broker dies");
      },
      async function* (): Script {
        yield* [event(11n, 3n, { state: RECONNECTING }), event(12n, 4n)];
        await eventually(() => closes() === 2, "it is closed again");
        yield* says(event(13n, 5n, LAST))();
      },
    );
    const handle = await openedSession();
    await handle.close();
    isDead = true;
    await eventually(() => closes() === 2 && peer.openStreams === 0, "it is closed for good");
    assert.ok(handle.ended && !handle.signal.aborted);
    assert.equal(said.filter((line) => /^warn .* lives, .* is closed/.test(line)).length, 1);
  });

  test("of one's own is closed again at the end of the Broker, if that has failed", async () => {
    let isDead = false;
    const failure = new Refusal(status.INTERNAL, { reason: "INTERNAL" });
    peer.on("CloseSession", { session: session(CLOSED) }, failure, { session: session(LAST) });
    peer.tells(
      async function* (): Script {
        yield* HEAD;
        await eventually(() => isDead, "the broker dies");
      },
      async function* (): Script {
        yield event(11n, 3n, { state: RECONNECTING });
        await eventually(() => closes() === 3, "it is closed again");
        yield* says(event(12n, 4n), event(13n, 5n, LAST))();
      },
    );
    // Who has not opened it leaves it open, but has closed it.
    const handle = await broker.attach("s1");
    await handle.close();
    isDead = true;
    await eventually(() => closes() === 2, "it is closed in vain");
    await broker.close();
    assert.equal(closes(), 3);
  });

  test("leaves open what was detached", async () => {
    dies();
    const handle = await broker.openSession({ keepOpen: true });
    await handle.waitEnded();
    await eventually(() => peer.requests("WatchSessions").length === 2, "the next broker is asked");
    await sleep(100);
    assert.equal(closes(), 0);
    assert.ok(handle.ended);
  });

  test("is not void because of events that come late", async () => {
    let go = false;
    const end = { ...CLOSED, closeReason: "LEASE_EXPIRED", sequence: 4n };
    peer.tells(
      async function* (): Script {
        yield* HEAD;
      },
      async function* (): Script {
        await until(() => go);
        yield* says(event(11n, 3n, { state: RECONNECTING }), event(12n, 4n, end))();
      },
    );
    const handle = await openedSession();
    await eventually(() => handle.interruption !== undefined, "its stream is lost");
    peer.on("GetSession", { session: session(end) });
    await handle.refresh();
    assert.ok(handle.ended);
    go = true;
    await eventually(() => peer.openStreams === 0, "it is followed to its end");
    assert.equal(closes(), 0);
  });

  test("is waited for at the end of its block, and the session is closed", async () => {
    let isDead = false;
    dies(() => isDead);
    const handle = await openedSession();
    await handle.waitEnded();
    const left = handle[Symbol.asyncDispose]();
    isDead = true;
    await left;
    assert.equal(closes(), 1);
  });

  test("is closed again until that succeeds", async () => {
    const closed = { session: session(LAST) };
    let isDead = false;
    dies(() => isDead);
    const failure = new Refusal(status.INTERNAL, { reason: "INTERNAL" });
    peer.on("CloseSession", failure, failure, closed);
    const handle = await openedSession();
    await handle.waitEnded();
    isDead = true;
    await eventually(() => closes() === 3 && peer.openStreams === 0, "it is closed");
    assert.equal(said.filter((line) => /could not be closed/.test(line)).length, 1, said.join());
  });

  test("is forgotten where the next broker has no record of the session", async () => {
    peer.tells(
      async function* (): Script {
        yield* [...HEAD, ...VOID];
      },
      says(reset("TOKEN_OF_ANOTHER_STORE"), complete(1n)),
    );
    const handle = await openedSession();
    await handle.waitEnded();
    await eventually(() => peer.openStreams === 0, "it is followed no longer");
    assert.equal(handle.state, FAILED);
  });

  test("is waited for no longer than its close may take", async () => {
    peer.tells(says(...HEAD, ...VOID));
    peer.on("CloseSession", { session: session({ state: FAILED, sequence: 4n }) });
    const handle = await openedSession();
    await handle.waitEnded();
    const begin = performance.now();
    await handle.close({ timeout: 2 });
    const took = performance.now() - begin;
    assert.ok(took > 1_900 && took < 20_000, `${took} ms`);
    assert.match(said.join(), /warn .* may live: its end is not on record yet/);
    assert.equal(peer.openStreams, 1, "it is followed on, while its Broker is open");
  });

  test("is waited for no longer, also if the broker does not answer", async () => {
    let isDead = false;
    dies(() => isDead);
    const handle = await openedSession();
    await handle.waitEnded();
    peer.on("GetSession", SILENCE);
    isDead = true;
    await eventually(() => peer.requests("GetSession").length === 1, "it is asked");
    const begin = performance.now();
    await handle.close({ timeout: 2 });
    assert.ok(performance.now() - begin < 20_000);
  });

  test("does not end a watch", async () => {
    const end = event(12n, 4n, { state: FAILED });
    peer.tells(says(...HEAD, ...VOID, bookmark(10n), event(11n, 3n), end));
    const handle = await openedSession();
    const kinds: string[] = [];
    for await (const { kind } of handle.watch()) {
      kinds.push(kind);
    }
    const events = ["event", "event", "bookmark", "event", "event"];
    assert.deepEqual(kinds, ["snapshot", "snapshotComplete", ...events]);
  });

  test("does not end a watch that begins later, until it is on record", async () => {
    let isKept = false;
    const end = event(12n, 4n, { state: FAILED });
    peer.tells(
      async function* (): Script {
        yield* [...HEAD, ...VOID];
        await until(() => isKept);
        yield* says(event(11n, 3n), end)();
      },
      says(bookmark(10n), event(11n, 3n), end),
      says(bookmark(12n)),
    );
    const handle = await openedSession();
    await handle.waitEnded();
    const kinds: string[] = [];
    for await (const { kind } of handle.watch({ resumeToken: "t10" })) {
      kinds.push(kind);
    }
    assert.deepEqual(kinds, ["bookmark", "event", "event"]);
    isKept = true;
    await eventually(() => peer.openStreams === 0, "it is on record");
    for await (const { kind } of handle.watch({ resumeToken: "t12" })) {
      kinds.push(`${kind} later`);
    }
    assert.deepEqual(kinds.slice(3), ["bookmark later"]);
  });
});
