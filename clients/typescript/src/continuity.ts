/**
 * Proves that a watch is complete, and keeps what it has told. Pure: no I/O, no clock.
 *
 * Rules, from the contract of WatchSessions:
 *
 * 1. A stream that begins anew has snapshots, then their completion, then events. One that continues
 *    has events only, unless a reset says that it begins anew.
 * 2. Persisted events come in the order of their revisions.
 * 3. An event is told if its session matched before or after it. So the event after one whose session
 *    matches has the next sequence; a session that comes into view later may have any. Only its state
 *    can bring a session into view later: without a filter on states, a session that the snapshot did
 *    not have begins with 1.
 * 4. An event that is not persisted yet is told again once it is. Until then it stands beside what is
 *    kept, and is void when the stream is lost: the broker may have died with it.
 */

import { WatchGapError } from "./errors.js";
import { isFinal, type Reset, type SessionEvent, type WatchItem } from "./events.js";
import { type Session as SessionInfo, SessionState } from "./gen/ibgateway/broker/v1/session_pb.js";

const FINAL: ReadonlySet<SessionState> = new Set([SessionState.DISCONNECTED, SessionState.FAILED]);

/** What a watch knows, over all of its streams. */
export class Continuity {
  readonly #states: ReadonlySet<SessionState>;
  readonly #includeFinal: boolean;
  #token: string;
  #isInSnapshot: boolean;
  #revision = 0n;
  /** Whether a session that is not known must be new. */
  #knowsAll = false;
  #kept = new Map<string, SessionInfo>();
  #snapshot = new Map<string, SessionInfo>();
  readonly #provisional = new Map<string, SessionInfo>();

  /**
   * @param filter - on states, of which none is all, and whether the snapshot has final sessions.
   * @param resumeToken - where to continue; empty begins with a snapshot.
   */
  constructor(
    filter: { states?: readonly SessionState[]; includeFinal?: boolean } = {},
    resumeToken = "",
  ) {
    this.#states = new Set(filter.states);
    this.#includeFinal =
      (filter.includeFinal ?? false) || [...this.#states].some((state) => FINAL.has(state));
    this.#token = resumeToken;
    this.#isInSnapshot = !resumeToken;
  }

  /** Where to continue; empty if that would be in the middle of a snapshot. */
  get token(): string {
    return this.#token;
  }

  /** Whether all sessions that match are known. */
  get isComplete(): boolean {
    return this.#knowsAll && !this.#isInSnapshot;
  }

  /** The sessions that match, as they are visible; during a new snapshot those of before. */
  get sessions(): Map<string, SessionInfo> {
    const all = [...this.#kept, ...this.#provisional];
    return new Map(
      all.filter(([id]) => this.#isShown(this.#provisional.get(id) ?? this.#kept.get(id))),
    );
  }

  /**
   * A new stream begins with `token`.
   *
   * @returns what whoever was told half a snapshot must be told now.
   */
  begin(): Reset | undefined {
    this.#provisional.clear();
    const wasTold = this.#snapshot.size > 0;
    this.#snapshot.clear();
    return wasTold
      ? { kind: "reset", token: "", reason: "SNAPSHOT_INCOMPLETE", oldestRevision: 0n }
      : undefined;
  }

  /**
   * Take an item of the stream.
   *
   * @throws WatchGapError: something is missing before it; nothing has changed.
   */
  accept(item: WatchItem): void {
    switch (item.kind) {
      case "event":
        this.#event(item);
        break;
      case "snapshot":
        this.#requireSnapshot(true, "a snapshot came where events were due");
        this.#snapshot.set(item.session.sessionId, item.session);
        break;
      case "snapshotComplete":
        this.#requireSnapshot(true, "a snapshot ended that had not begun");
        this.#kept = this.#snapshot;
        this.#snapshot = new Map();
        this.#isInSnapshot = false;
        this.#knowsAll = true;
        this.#revision = item.revision;
        this.#token = item.token;
        break;
      case "reset":
        this.#provisional.clear();
        this.#snapshot.clear();
        this.#isInSnapshot = true;
        this.#token = "";
        break;
      case "bookmark":
        if (item.revision < this.#revision) {
          throw new WatchGapError(
            `a bookmark says ${item.revision}, but revision ${this.#revision} was told`,
            { expected: this.#revision, received: item.revision },
          );
        }
        this.#revision = item.revision;
        this.#follow(item.token);
        break;
      case "draining":
        this.#follow(item.token);
        break;
      case "interrupted":
      case "resumed":
        break;
    }
  }

  #requireSnapshot(isExpected: boolean, message: string): void {
    if (this.#isInSnapshot !== isExpected) {
      throw new WatchGapError(`${message}: what happened before it is missing`);
    }
  }

  #follow(token: string): void {
    if (!this.#isInSnapshot) {
      this.#token = token;
    }
  }

  #event(event: SessionEvent): void {
    this.#requireSnapshot(false, "an event came before the snapshot was complete");
    const { sessionId, revision, sequence, session } = event;
    const before = this.#kept.get(sessionId);
    if (!event.persisted) {
      this.#expect(event, this.#provisional.get(sessionId) ?? before);
      this.#provisional.set(sessionId, session);
      this.#follow(event.token);
      return;
    }
    if (revision <= this.#revision) {
      throw new WatchGapError(`revision ${revision} came after ${this.#revision}`, {
        sessionId,
        expected: this.#revision + 1n,
        received: revision,
      });
    }
    this.#expect(event, before);
    const shown = this.#provisional.get(sessionId);
    if (shown !== undefined && shown.sequence <= sequence) {
      this.#provisional.delete(sessionId);
    }
    if (this.#isShown(session)) {
      this.#kept.set(sessionId, session);
    } else {
      this.#kept.delete(sessionId);
    }
    this.#revision = revision;
    this.#follow(event.token);
  }

  /** Require that no event is missing between the last one of a session and this one. */
  #expect({ sessionId, sequence }: SessionEvent, before: SessionInfo | undefined): void {
    const expected = (before?.sequence ?? 0n) + 1n;
    const isExact =
      before === undefined ? this.#knowsAll && this.#states.size === 0 : this.#matches(before);
    if (sequence === expected || (sequence > expected && !isExact)) {
      return;
    }
    const last = sequence - 1n;
    const missing =
      last === expected ? `event ${expected} is` : `events ${expected} to ${last} are`;
    throw new WatchGapError(
      sequence > expected
        ? `${missing} missing of session ${sessionId}`
        : `event ${sequence} of session ${sessionId} came again`,
      { sessionId, expected, received: sequence },
    );
  }

  #matches(session: SessionInfo): boolean {
    return this.#states.size === 0 || this.#states.has(session.state);
  }

  #isShown(session: SessionInfo | undefined): boolean {
    return (
      session !== undefined && this.#matches(session) && (this.#includeFinal || !isFinal(session))
    );
  }
}
