/** How long to wait before something is tried again. */

const MOST_DOUBLINGS = 32;

/**
 * Waits that double, up to a limit, and differ from client to client.
 *
 * The wait after the n-th failure in a row, from 0, is between a half and the whole of
 * `min(maximum, initial * 2**n)`. If the broker says when to ask again, it is that, and up to a
 * quarter longer: those who were refused together do not return together.
 */
export class Backoff {
  /** Seconds of the first wait, at most. */
  readonly initial: number;
  /** Seconds of any wait, unless the broker asks for a longer one. */
  readonly maximum: number;

  /**
   * @param waits - in seconds; 0.2 and 5 by default.
   * @throws RangeError: unless 0 < initial <= maximum.
   */
  constructor({ initial = 0.2, maximum = 5 }: { initial?: number; maximum?: number } = {}) {
    if (!(initial > 0 && initial <= maximum)) {
      throw new RangeError(`0 < initial <= maximum must hold, not ${initial} and ${maximum}`);
    }
    this.initial = initial;
    this.maximum = maximum;
  }

  /**
   * Seconds to wait.
   *
   * @param failures - how many failures in a row came before this one.
   * @param retryAfter - seconds that the broker asks for.
   * @param chance - a random number, 0 to 1.
   */
  delay(failures: number, retryAfter?: number, chance = Math.random()): number {
    if (retryAfter !== undefined) {
      return Math.max(this.initial, retryAfter) * (1 + chance / 4);
    }
    const whole = Math.min(this.maximum, this.initial * 2 ** Math.min(failures, MOST_DOUBLINGS));
    return (whole * (1 + chance)) / 2;
  }
}
