/** Waits that end in time, and leave neither timer nor listener behind. */

import { LONGEST_WAIT } from "./time.js";

/** What {@link within} gives when the time has passed. */
export const LATE = Symbol("late");

/** A timer that does not wrap around for waits that are too long for it. */
function timer(seconds: number, done: () => void): NodeJS.Timeout {
  return setTimeout(done, Math.min(seconds, LONGEST_WAIT) * 1000);
}

/**
 * Wait some seconds, unless one of the signals is aborted, now or meanwhile.
 *
 * @throws the reason of that signal.
 */
export function sleep(seconds: number, ...signals: (AbortSignal | undefined)[]): Promise<void> {
  return new Promise((resolve, reject) => {
    const end = (settle: () => void) => {
      clearTimeout(running);
      for (const signal of signals) {
        signal?.removeEventListener("abort", check);
      }
      settle();
    };
    const check = () => {
      const aborted = signals.find((signal) => signal?.aborted);
      if (aborted !== undefined) {
        end(() => reject(aborted.reason));
      }
    };
    const running = timer(seconds, () => end(resolve));
    for (const signal of signals) {
      signal?.addEventListener("abort", check);
    }
    check();
  });
}

/** What a promise gives within some seconds, else {@link LATE}; the promise itself goes on. */
export async function within<T>(promise: Promise<T>, seconds: number): Promise<T | typeof LATE> {
  let running: NodeJS.Timeout | undefined;
  const late = new Promise<typeof LATE>((resolve) => {
    running = timer(seconds, () => resolve(LATE));
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(running);
  }
}

/**
 * What a promise gives, unless the signal is aborted before; the promise itself goes on.
 *
 * @throws the reason of the signal.
 */
export function unless<T>(promise: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (signal === undefined) {
    return promise;
  }
  return new Promise<T>((resolve, reject) => {
    const abort = () => reject(signal.reason);
    signal.addEventListener("abort", abort);
    if (signal.aborted) {
      abort();
    }
    promise.then(resolve, reject).finally(() => signal.removeEventListener("abort", abort));
  });
}
