import assert from "node:assert/strict";
import { setTimeout as sleep } from "node:timers/promises";

/** Wait until something is so, 30 s at most. */
export async function eventually(check: () => boolean, what: string): Promise<void> {
  for (const end = Date.now() + 30_000; !check(); ) {
    assert.ok(Date.now() < end, `not within 30 s: ${what}`);
    await sleep(10);
  }
}
