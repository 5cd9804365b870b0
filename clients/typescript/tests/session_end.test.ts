/** A handle and the end of its session: around a close, and when it is not on record yet. */

import assert from "node:assert/strict";
import { afterEach, beforeEach, describe, test } from "node:test";

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
  complete,
  event,
  Refusal,
  ScriptedBroker,
  SILENCE,
  says,
  session,
  snapshot,
} from "./scripted_broker.js";

const { DISCONNECTED } = SessionState;
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
  const failures: [string, Refusal | typeof SILENCE, object][] = [
    ["failed", new Refusal(status.INTERNAL, { reason: "INTERNAL" }), BrokerInternalError],
    ["was cancelled", SILENCE, { name: "TimeoutError" }],
  ];
  for (const [what, answer, error] of failures) {
    test(`that ${what} does not make a later end one's own`, async () => {
      const go = tellsLater(event(11n, 3n, CLOSED));
      const handle = await broker.openSession();
      peer.on("CloseSession", answer);
      await assert.rejects(handle.close({ signal: AbortSignal.timeout(200) }), error);
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
    const waiting = handle.waitEnded({ signal: AbortSignal.timeout(2_000) });
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
