/** What a watch has told is complete, or it says what is missing. */

import assert from "node:assert/strict";
import { describe, test } from "node:test";

import { type SessionEvent, SessionState, WatchGapError, type WatchItem } from "ibgateway-client";
import type { WatchSessionsResponse } from "ibgateway-client/broker/v1/session_service_pb";

import { Continuity } from "#client/continuity";
import { itemOf } from "#client/events";

import {
  bookmark,
  complete,
  draining,
  event,
  OTHER_ID,
  reset,
  SESSION_ID,
  snapshot,
} from "./scripted_broker.js";

const { CONNECTED, CONNECTING, DISCONNECTED, FAILED, RECONNECTING } = SessionState;
type Filter = ConstructorParameters<typeof Continuity>[0];

function item(message: WatchSessionsResponse): WatchItem {
  const made = itemOf(message);
  assert.ok(made !== undefined);
  return made;
}

function accepted(continuity: Continuity, ...messages: WatchSessionsResponse[]): Continuity {
  for (const message of messages) {
    continuity.accept(item(message));
  }
  return continuity;
}

/** One that knows one session, at sequence 2, as of revision 10. */
function live(filter: Filter = {}): Continuity {
  return accepted(new Continuity(filter), snapshot(), complete(10n));
}

/** The gap that a message shows; it changes nothing. */
function gap(continuity: Continuity, message: WatchSessionsResponse): WatchGapError {
  const state = () => [continuity.token, continuity.sessions, continuity.isComplete];
  const before = state();
  let found: unknown;
  assert.throws(
    () => continuity.accept(item(message)),
    (error) => {
      found = error;
      return error instanceof WatchGapError;
    },
  );
  assert.deepEqual(state(), before);
  return found as WatchGapError;
}

const provisional = (revision: bigint, sequence: bigint, state = CONNECTED) =>
  event(revision, sequence, { persisted: false, state });
const sequenceOf = (continuity: Continuity) => continuity.sessions.get(SESSION_ID)?.sequence;

describe("what is told", () => {
  test("a snapshot and what follows are folded", () => {
    const other = event(12n, 1n, { sessionId: OTHER_ID });
    const known = accepted(live(), event(11n, 3n, { state: RECONNECTING }), other);
    assert.ok(known.isComplete);
    assert.equal(known.token, "t12");
    assert.equal(known.sessions.get(SESSION_ID)?.state, RECONNECTING);
    assert.equal(known.sessions.get(OTHER_ID)?.state, CONNECTED);
  });

  test("a session that ends leaves the fold, unless final ones are asked for", () => {
    const end = event(11n, 3n, { state: DISCONNECTED });
    assert.equal(accepted(live(), end).sessions.size, 0);
    assert.equal(accepted(live({ includeFinal: true }), end).sessions.size, 1);
    const failed = new Continuity({ states: [FAILED] });
    assert.equal(accepted(failed, snapshot({ state: FAILED }), complete(1n)).sessions.size, 1);
  });

  test("nothing is resumed before the snapshot is complete", () => {
    const half = accepted(new Continuity(), snapshot());
    assert.deepEqual([half.token, half.isComplete], ["", false]);
    assert.equal(half.begin()?.reason, "SNAPSHOT_INCOMPLETE");
    assert.equal(half.begin(), undefined);
    accepted(half, snapshot({ sessionId: OTHER_ID }), complete(4n));
    assert.deepEqual([...half.sessions.keys()], [OTHER_ID]);
  });

  test("a token of before is kept until something newer is told", () => {
    const resumed = new Continuity({}, "old");
    assert.equal(resumed.begin(), undefined);
    assert.equal(resumed.token, "old");
    assert.equal(accepted(resumed, bookmark(5n)).token, "t5");
    assert.equal(accepted(resumed, draining(6n)).token, "t6");
  });

  test("a reset voids the token, and its snapshot replaces what is known", () => {
    const known = accepted(live(), reset("EVENTS_EXPIRED"));
    assert.equal(known.token, "");
    assert.deepEqual([...known.sessions.keys()], [SESSION_ID], "until the snapshot is complete");
    assert.equal(known.begin(), undefined, "what is known is void already");
    accepted(known, snapshot({ sessionId: OTHER_ID, sequence: 7n }), complete(3n));
    assert.deepEqual([...known.sessions.keys()], [OTHER_ID]);
    accepted(known, event(4n, 8n, { sessionId: OTHER_ID }));
  });
});

describe("what is missing", () => {
  test("it is named", () => {
    const one = gap(live(), event(11n, 4n));
    assert.match(one.message, /event 3 is missing of session 1111/);
    assert.deepEqual([one.sessionId, one.expected, one.received], [SESSION_ID, 3n, 4n]);
    assert.match(gap(live(), event(11n, 6n)).message, /events 3 to 5 are missing/);
  });

  test("what comes again, or goes back, is a gap", () => {
    assert.match(gap(live(), event(11n, 2n)).message, /event 2 .* came again/);
    const back = gap(live(), event(10n, 3n));
    assert.deepEqual([back.expected, back.received], [11n, 10n]);
    gap(live(), bookmark(9n));
    gap(accepted(live(), bookmark(20n)), event(15n, 3n));
  });

  test("a new session begins with its first event", () => {
    gap(live(), event(11n, 2n, { sessionId: OTHER_ID }));
    accepted(live(), event(11n, 1n, { sessionId: OTHER_ID }));
  });

  test("a final session never moves again", () => {
    gap(accepted(live(), event(11n, 3n, { state: FAILED })), event(12n, 4n));
  });

  test("what comes in the wrong phase is a gap", () => {
    gap(accepted(new Continuity(), snapshot()), event(11n, 3n));
    for (const message of [snapshot(), complete(11n)]) {
      gap(live(), message);
      gap(new Continuity({}, "t"), message);
    }
  });

  test("a resumed watch proves what it has seen, and no loss weakens the proof", () => {
    const resumed = accepted(new Continuity({}, "t5"), event(11n, 40n));
    assert.ok(!resumed.isComplete);
    gap(resumed, event(12n, 42n));
    resumed.begin();
    gap(resumed, event(12n, 42n));
    accepted(resumed, event(12n, 41n));
  });

  test("with a filter on states, what happened out of view is not missing", () => {
    const filter = { states: [CONNECTED] };
    const known = accepted(live(filter), event(11n, 3n, { state: RECONNECTING }));
    assert.equal(known.sessions.size, 0);
    assert.equal(sequenceOf(accepted(known, event(15n, 6n))), 6n);
    accepted(live(filter), event(11n, 9n, { sessionId: OTHER_ID }));
    gap(live(filter), event(11n, 4n));
  });
});

describe("events that are not persisted", () => {
  test("they are seen and superseded", () => {
    const known = accepted(live(), provisional(10n, 3n, RECONNECTING));
    assert.equal(known.sessions.get(SESSION_ID)?.state, RECONNECTING);
    assert.equal(known.token, "t10");
    accepted(known, provisional(10n, 4n), event(11n, 3n, { state: RECONNECTING }));
    assert.equal(sequenceOf(known), 4n, "the newer one still stands");
    assert.equal(sequenceOf(accepted(known, event(12n, 4n), event(13n, 5n))), 5n);
  });

  test("they may be missing, too, and excuse no other", () => {
    gap(live(), provisional(10n, 4n));
    gap(live(), provisional(10n, 2n));
    gap(accepted(live(), provisional(10n, 3n)), provisional(10n, 5n));
    gap(accepted(live(), provisional(10n, 3n)), event(11n, 4n));
  });

  test("they are void when the stream is lost", () => {
    const known = accepted(live(), provisional(10n, 3n), provisional(10n, 4n, DISCONNECTED));
    assert.equal(known.sessions.size, 0);
    known.begin();
    assert.equal(sequenceOf(known), 2n);
    accepted(known, event(11n, 3n, { state: CONNECTING }));
  });
});

describe("any log", () => {
  const STATES = [CONNECTED, RECONNECTING, CONNECTING, CONNECTED, FAILED];

  /** Numbers below 1 that look random and are the same each time. */
  function dice(seed: number): () => number {
    let state = seed + 1;
    return () => {
      state = (state * 48_271) % 2_147_483_647;
      return state / 2_147_483_647;
    };
  }

  /** A log that could be: four sessions that move, and never after their end. */
  function logOf(roll: () => number): SessionEvent[] {
    const open = new Map(["a", "b", "c", "d"].map((id) => [id, 0n]));
    const log: SessionEvent[] = [];
    while (log.length < 40 && open.size > 0) {
      const [sessionId, last] = [...open][Math.floor(roll() * open.size)] ?? ["", 0n];
      const state = STATES[Math.floor(roll() * STATES.length)] ?? CONNECTED;
      state === FAILED ? open.delete(sessionId) : open.set(sessionId, last + 1n);
      const message = event(BigInt(log.length + 1), last + 1n, { sessionId, state });
      log.push(item(message) as SessionEvent);
    }
    return log;
  }

  test("is accepted whole, over losses of the stream, and refused with a hole", () => {
    let holes = 0;
    for (let seed = 0; seed < 60; seed++) {
      const roll = dice(seed);
      const log = logOf(roll);
      const whole = accepted(new Continuity(), complete(0n));
      for (const told of log) {
        if (roll() < 0.2) {
          whole.begin();
        }
        whole.accept(told);
      }
      const hole = Math.floor(roll() * log.length);
      const sessionId = log[hole]?.sessionId;
      const next = log.findIndex((told, at) => at > hole && told.sessionId === sessionId);
      const holed = accepted(new Continuity(), complete(0n));
      log.forEach((told, at) => {
        if (at === next) {
          assert.throws(() => holed.accept(told), WatchGapError);
          holes += 1;
        } else if (at !== hole && (next < 0 || at < next)) {
          holed.accept(told);
        }
      });
    }
    assert.ok(holes > 30, `${holes} holes`);
  });
});
