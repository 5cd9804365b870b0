/** A watch outlives its streams, loses nothing, and is never silent about it. */

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { afterEach, beforeEach, describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";

import { create } from "@bufbuild/protobuf";
import { status } from "@grpc/grpc-js";
import {
  Backoff,
  type Broker,
  BrokerClosedError,
  BrokerDrainingError,
  BrokerUnreachableError,
  connect,
  InvalidArgumentError,
  SessionState,
  SlowConsumerError,
  StoreUnavailableError,
  UnexpectedAnswerError,
  type Watch,
  WatchGapError,
  type WatchItem,
} from "ibgateway-client";
import {
  type WatchSessionsRequest,
  WatchSessionsResponseSchema,
} from "ibgateway-client/broker/v1/session_service_pb";
import { eventually } from "./eventually.js";
import {
  bookmark,
  complete,
  draining,
  ends,
  event,
  OTHER_ID,
  Refusal,
  reset,
  ScriptedBroker,
  SESSION_ID,
  says,
  snapshot,
} from "./scripted_broker.js";

const UNAVAILABLE = new Refusal(status.UNAVAILABLE, { message: "gone" });
const STORE = new Refusal(status.UNAVAILABLE, { reason: "STORE_UNAVAILABLE", retryAfter: 0.05 });
const HEAD = [snapshot(), complete(10n)];

let peer: ScriptedBroker;
let broker: Broker;

beforeEach(async () => {
  peer = await ScriptedBroker.start();
  broker = connect(peer.address, { backoff: new Backoff({ initial: 0.05, maximum: 0.2 }) });
});
afterEach(async () => {
  await broker.close();
  await eventually(() => peer.openStreams === 0, "every stream has ended");
  await peer.stop();
});

async function take(watch: Watch, count: number): Promise<WatchItem[]> {
  const items: WatchItem[] = [];
  while (items.length < count) {
    const { done, value } = await watch.next();
    if (done) {
      assert.fail(`it has ended after ${items.map(({ kind }) => kind)}`);
    }
    items.push(value);
  }
  return items;
}

const kinds = (items: WatchItem[]) => items.map(({ kind }) => kind);
const tokens = () =>
  peer.requests<WatchSessionsRequest>("WatchSessions").map(({ request }) => request.resumeToken);

/** The error of an interruption. */
function lossOf(item: WatchItem | undefined) {
  if (item?.kind !== "interrupted") {
    return assert.fail(`no interruption: ${item?.kind}`);
  }
  return item;
}

describe("what is told", () => {
  test("a snapshot, and then what happens", async () => {
    peer.tells(says(...HEAD, event(11n, 3n, { state: SessionState.RECONNECTING }), bookmark(11n)));
    const watch = broker.watch();
    const [first, second, third, fourth] = await take(watch, 4);
    assert.equal(first?.kind === "snapshot" && first.session.sessionId, SESSION_ID);
    assert.equal(second?.token, "t10");
    assert.ok(third?.kind === "event" && third.change.case === "transition");
    assert.equal(third.change.value.reason, "SCRIPTED");
    assert.deepEqual([third.sequence, third.revision, third.persisted], [3n, 11n, true]);
    assert.equal(fourth?.kind === "bookmark" && fourth.oldestRevision, 1n);
    assert.equal(watch.token, "t11");
    assert.ok(watch.isComplete);
    assert.equal(watch.sessions.get(SESSION_ID)?.state, SessionState.RECONNECTING);
    await watch.close();
  });

  test("its filter goes with each stream, with one correlation id", async () => {
    peer.tells(ends(...HEAD), says());
    const labels = { desk: "fx" };
    const states = [SessionState.CONNECTED];
    const filter = { sessionIds: [SESSION_ID], gatewayId: "paper", owner: "m", labels, states };
    const watch = broker.watch({ ...filter, includeFinal: true });
    await take(watch, 4);
    await watch.close();
    const asked = peer.requests<WatchSessionsRequest>("WatchSessions");
    assert.equal(asked.length, 2);
    for (const { request } of asked) {
      assert.deepEqual({ ...request.labels }, labels);
      assert.deepEqual(request.sessionIds, [SESSION_ID]);
      assert.deepEqual(request.states, states);
      assert.deepEqual([request.gatewayId, request.owner], ["paper", "m"]);
      assert.ok(request.includeFinal);
    }
    assert.equal(new Set(asked.map(({ metadata }) => metadata["x-correlation-id"])).size, 1);
  });

  test("a message of a newer broker is passed over", async () => {
    const unknown = create(WatchSessionsResponseSchema, { resumeToken: "t11", revision: 11n });
    peer.tells(says(...HEAD, unknown, bookmark(11n)));
    const watch = broker.watch();
    assert.deepEqual(kinds(await take(watch, 3)), ["snapshot", "snapshotComplete", "bookmark"]);
  });

  test("a single id, where several are expected, is no filter", () => {
    assert.throws(() => broker.watch({ sessionIds: SESSION_ID as never }), TypeError);
    assert.throws(() => broker.watch({ silence: 0 }), RangeError);
  });
});

describe("a stream that is lost", () => {
  const losses: [string, Refusal | undefined, new (...args: never[]) => Error][] = [
    ["unavailable", UNAVAILABLE, BrokerUnreachableError],
    ["cancelled", new Refusal(status.CANCELLED), BrokerUnreachableError],
    [
      "slow",
      new Refusal(status.RESOURCE_EXHAUSTED, { reason: "SLOW_CONSUMER" }),
      SlowConsumerError,
    ],
    ["store", STORE, StoreUnavailableError],
    ["internal", new Refusal(status.INTERNAL), UnexpectedAnswerError],
    ["ended well", undefined, BrokerDrainingError],
  ];
  for (const [what, end, kind] of losses) {
    test(`is resumed with the last token: ${what}`, async () => {
      peer.tells(ends(...HEAD, event(11n, 3n), ...(end ? [end] : [])), says(event(12n, 4n)));
      const watch = broker.watch();
      const items = await take(watch, 6);
      assert.deepEqual(kinds(items.slice(2)), ["event", "interrupted", "resumed", "event"]);
      assert.ok(lossOf(items[3]).error instanceof kind, String(lossOf(items[3]).error));
      assert.deepEqual([items[3]?.token, items[4]?.token], ["t11", "t11"]);
      assert.deepEqual(tokens(), ["", "t11"]);
    });
  }

  test("goes on with a broker that was restarted", async () => {
    peer.tells(says(...HEAD, draining(10n)), says(event(11n, 3n)));
    const watch = broker.watch();
    await take(watch, 3);
    await peer.stop();
    const { error } = lossOf((await take(watch, 1))[0]);
    assert.ok(error instanceof BrokerUnreachableError);
    assert.equal(watch.interruption, error);
    const waiting = take(watch, 1);
    const early = await Promise.race([waiting, sleep(500, "nothing")]);
    assert.equal(early, "nothing", "an outage is told once");
    await peer.start();
    assert.deepEqual(kinds(await waiting), ["resumed"]);
    assert.equal(watch.interruption, undefined);
    assert.deepEqual(kinds(await take(watch, 1)), ["event"]);
  });

  test("is told again when its cause changes, and waits as the broker asks", async () => {
    const lost = ends(UNAVAILABLE);
    peer.tells(
      ends(...HEAD, UNAVAILABLE),
      lost,
      ends(STORE),
      ends(STORE),
      lost,
      says(bookmark(10n)),
    );
    const items = await take(broker.watch(), 7);
    const expected = ["interrupted", "interrupted", "interrupted", "resumed", "bookmark"];
    assert.deepEqual(kinds(items.slice(2)), expected);
    const reasons = items.slice(2, 5).map((item) => lossOf(item).error.reason);
    assert.deepEqual(reasons, ["", "STORE_UNAVAILABLE", ""]);
    assert.ok(lossOf(items[3]).retryIn >= 0.05);
    assert.deepEqual(tokens(), ["", ...Array(5).fill("t10")]);
  });

  test("begins anew if the snapshot was not complete, over further losses", async () => {
    const other = snapshot({ sessionId: OTHER_ID });
    peer.tells(ends(snapshot(), UNAVAILABLE), ends(UNAVAILABLE), says(other, complete(11n)));
    const watch = broker.watch();
    const items = await take(watch, 6);
    const expected = [
      "snapshot",
      "interrupted",
      "resumed",
      "reset",
      "snapshot",
      "snapshotComplete",
    ];
    assert.deepEqual(kinds(items), expected);
    assert.equal(items[3]?.kind === "reset" && items[3].reason, "SNAPSHOT_INCOMPLETE");
    assert.deepEqual([...watch.sessions.keys()], [OTHER_ID]);
    assert.deepEqual(tokens(), ["", "", ""]);
  });

  test("has resumed when it is open again and quiet", async () => {
    peer.tells(ends(...HEAD), says());
    assert.deepEqual(kinds((await take(broker.watch(), 4)).slice(2)), ["interrupted", "resumed"]);
  });

  test("has not resumed when it is refused as soon as it is open", async () => {
    const later = async function* () {
      await sleep(20);
      yield STORE;
    };
    peer.tells(ends(...HEAD), later, later, says(bookmark(10n)));
    const items = await take(broker.watch(), 6);
    const expected = ["interrupted", "interrupted", "resumed", "bookmark"];
    assert.deepEqual(kinds(items.slice(2)), expected);
  });

  test("is dead if it is silent, and lives if it says that nothing happens", async () => {
    const slow = async function* () {
      for (let count = 0; count < 4; count++) {
        await sleep(500);
        yield bookmark(10n);
      }
      await sleep(20_000, undefined, { ref: false });
    };
    peer.tells(says(...HEAD), slow, says(bookmark(10n)));
    const items = await take(broker.watch({ silence: 1.5 }), 10);
    const silent = lossOf(items[2]).error;
    assert.match(silent.message, /has sent nothing for 1.5 s/);
    const expected = ["interrupted", "resumed", ...Array(4).fill("bookmark"), "interrupted"];
    assert.deepEqual(kinds(items.slice(2, 9)), expected);
  });

  test("is not taken for dead by a process that was stopped, and has not read yet", async () => {
    const busy = async function* () {
      for (let count = 0; count < 1_000; count++) {
        await sleep(100, undefined, { ref: false });
        yield bookmark(10n);
      }
    };
    peer.tells(async function* () {
      yield* HEAD;
      yield* busy();
    }, busy);
    const program = fileURLToPath(new URL("watch_and_say.js", import.meta.url));
    const child = spawn(process.execPath, [program, peer.address, "2"], {
      stdio: ["ignore", "pipe", "inherit"],
    });
    const gone = once(child, "exit");
    try {
      let said = "";
      child.stdout.setEncoding("utf8").on("data", (lines: string) => {
        said += lines;
      });
      await eventually(() => said.includes("bookmark"), "it has begun");
      child.kill("SIGSTOP");
      await sleep(3_000);
      const before = said.length;
      child.kill("SIGCONT");
      await eventually(() => said.length > before + 100, "it has read what has come");
      assert.doesNotMatch(said, /interrupted/);
    } finally {
      child.kill("SIGKILL");
      await gone;
    }
  });

  test("is given up when it was told to", async () => {
    await peer.stop();
    const watch = broker.watch({ giveUpAfter: 0.3 });
    assert.deepEqual(kinds(await take(watch, 1)), ["interrupted"]);
    await assert.rejects(take(watch, 1), BrokerUnreachableError);
    assert.equal((await watch.next()).done, true);
    await peer.start();
  });

  test("is given up in time, however long the broker would have it wait", async () => {
    const late = new Refusal(status.UNAVAILABLE, { reason: "STORE_UNAVAILABLE", retryAfter: 60 });
    peer.tells(ends(late));
    const watch = broker.watch({ giveUpAfter: 0.3 });
    assert.ok(lossOf((await take(watch, 1))[0]).retryIn <= 0.3);
    await assert.rejects(take(watch, 1), StoreUnavailableError);
    for (const giveUpAfter of [-1, Number.NaN]) {
      assert.throws(() => broker.watch({ giveUpAfter }), RangeError);
    }
  });

  test("is told again before a long wait, also if its cause is known", async () => {
    const away = (retryAfter: number) =>
      new Refusal(status.UNAVAILABLE, { reason: "STORE_UNAVAILABLE", retryAfter });
    peer.tells(ends(away(0.01)), ends(away(0.01)), ends(away(600)));
    const watch = broker.watch();
    const waits = (await take(watch, 2)).map((item) => lossOf(item).retryIn >= 600);
    assert.deepEqual(waits, [false, true]);
    await watch.close();
  });

  for (const retryAfter of [9e9, -5, -9e9]) {
    test(`is waited for within bounds, if it should be ${retryAfter} s`, async () => {
      peer.tells(
        ends(new Refusal(status.UNAVAILABLE, { reason: "STORE_UNAVAILABLE", retryAfter })),
      );
      const watch = broker.watch();
      const { retryIn } = lossOf((await take(watch, 1))[0]);
      assert.ok(retryIn > 0 && retryIn <= 3_600, `${retryIn} s`);
      await watch.close();
    });
  }

  test("voids what was not persisted", async () => {
    const early = event(10n, 3n, { persisted: false, state: SessionState.RECONNECTING });
    peer.tells(ends(...HEAD, early), says(event(11n, 3n)));
    const watch = broker.watch();
    await take(watch, 3);
    assert.equal(watch.sessions.get(SESSION_ID)?.state, SessionState.RECONNECTING);
    assert.deepEqual(kinds(await take(watch, 3)), ["interrupted", "resumed", "event"]);
    assert.equal(watch.sessions.get(SESSION_ID)?.state, SessionState.CONNECTED);
  });

  test("a kept token continues without a snapshot, or is told to be void", async () => {
    peer.tells(says(event(12n, 40n), reset("TOKEN_TOO_OLD"), snapshot(), complete(20n)));
    const watch = broker.watch({ resumeToken: "t11" });
    const items = await take(watch, 4);
    assert.deepEqual(kinds(items), ["event", "reset", "snapshot", "snapshotComplete"]);
    assert.deepEqual(tokens(), ["t11"]);
    assert.deepEqual([items[1]?.token, items[3]?.token], ["", "t20"]);
  });
});

describe("what ends a watch", () => {
  const refusals: [Refusal, new (...args: never[]) => Error][] = [
    [new Refusal(status.INVALID_ARGUMENT, { reason: "INVALID_ARGUMENT" }), InvalidArgumentError],
    [new Refusal(status.UNIMPLEMENTED), UnexpectedAnswerError],
  ];
  for (const [refusal, kind] of refusals) {
    test(`what no wait will change: ${kind.name}`, async () => {
      peer.tells(ends(refusal));
      const watch = broker.watch();
      await assert.rejects(watch.next(), kind);
      assert.equal((await watch.next()).done, true);
      assert.equal(tokens().length, 1);
    });
  }

  test("a missing event, with its name", async () => {
    peer.tells(says(...HEAD, event(11n, 4n)));
    const watch = broker.watch();
    await take(watch, 2);
    await assert.rejects(
      watch.next(),
      (error) => error instanceof WatchGapError && error.expected === 3n && error.received === 4n,
    );
    assert.equal(watch.token, "t10", "what was told is known");
  });

  test("to leave its loop", async () => {
    peer.tells(says(...HEAD));
    for await (const item of broker.watch()) {
      if (item.kind === "snapshotComplete") {
        break;
      }
    }
    await eventually(() => peer.openStreams === 0, "the stream has ended");
  });

  test("to close it, also while somebody waits, or it waits to try again", async () => {
    peer.tells(says(...HEAD));
    const watch = broker.watch();
    await take(watch, 2);
    const waiting = watch.next();
    await watch.close();
    await watch.close();
    assert.equal((await waiting).done, true);

    await peer.stop();
    const lost = broker.watch();
    await take(lost, 1);
    const later = lost.next();
    await lost[Symbol.asyncDispose]();
    assert.equal((await later).done, true);
    assert.equal((await broker.watch().return()).done, true, "one that was never begun");
    await peer.start();
  });

  test("its signal, with the reason", async () => {
    peer.tells(says(...HEAD));
    const controller = new AbortController();
    const watch = broker.watch({ signal: controller.signal });
    await take(watch, 2);
    const waiting = watch.next();
    controller.abort(new Error("enough"));
    await assert.rejects(waiting, /enough/);
    assert.equal((await watch.next()).done, true);
    await assert.rejects(broker.watch({ signal: controller.signal }).next(), /enough/);
  });

  test("its signal, also if nobody asks for the next item", async () => {
    peer.tells(says(...HEAD));
    const controller = new AbortController();
    await take(broker.watch({ signal: controller.signal }), 2);
    controller.abort();
    await eventually(() => peer.openStreams === 0, "the stream has ended");
  });

  test("the end of its Broker", async () => {
    peer.tells(says(...HEAD));
    const watch = broker.watch();
    await take(watch, 2);
    const waiting = assert.rejects(watch.next(), BrokerClosedError);
    await broker.close();
    await waiting;
  });
});

describe("how it reads", () => {
  test("who asks again after having given up loses nothing, and answers come in order", async () => {
    peer.tells(says(...HEAD, event(11n, 3n)));
    const watch = broker.watch();
    const all = await Promise.all([watch.next(), watch.next(), watch.next()]);
    const expected = ["snapshot", "snapshotComplete", "event"];
    assert.deepEqual(
      all.map(({ value }) => value?.kind),
      expected,
    );
  });

  test("a watch that is not read is held back, and nothing is lost", async () => {
    const total = 1_000;
    const padding = { labels: { padding: "x".repeat(1_000) } };
    peer.tells(async function* () {
      yield* HEAD;
      for (let count = 1; count <= total; count++) {
        yield event(BigInt(10 + count), BigInt(2 + count), padding);
      }
      await sleep(20_000, undefined, { ref: false });
    });
    const watch = broker.watch();
    await take(watch, 3);
    let held: number;
    do {
      held = peer.written;
      await sleep(500);
    } while (peer.written > held);
    assert.ok(held < total / 4, `${held} of ${total} were sent to a watch that is not read`);
    await broker.getSession(SESSION_ID);
    const rest = await take(watch, total - 1);
    const last = rest.at(-1);
    assert.equal(last?.kind === "event" && last.sequence, BigInt(2 + total));
  });
});
