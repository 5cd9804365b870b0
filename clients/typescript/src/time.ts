/** Seconds, as this library takes and gives them, and the durations of the contract. */

import { create } from "@bufbuild/protobuf";
import { type Duration, DurationSchema } from "@bufbuild/protobuf/wkt";

const NANOS = 1_000_000_000;
/** The longest duration that the contract can say, in seconds. */
const LONGEST = 315_576_000_000;
/** The longest wait that a timer of Node.js can do, in seconds. */
export const LONGEST_WAIT = 2_147_483;

/** A duration in seconds; undefined if it is absent. */
export function seconds(duration: Duration): number;
export function seconds(duration: Duration | undefined): number | undefined;
export function seconds(duration: Duration | undefined): number | undefined {
  return duration && Number(duration.seconds) + duration.nanos / NANOS;
}

/**
 * Seconds as a duration.
 *
 * @throws RangeError: it is no number that a duration can be.
 */
export function duration(value: number): Duration {
  if (!(Math.abs(value) <= LONGEST)) {
    throw new RangeError(`${value} is no duration in seconds`);
  }
  const whole = Math.trunc(value);
  const nanos = Math.round((value - whole) * NANOS);
  const carry = Math.trunc(nanos / NANOS);
  return create(DurationSchema, { seconds: BigInt(whole + carry), nanos: nanos - carry * NANOS });
}

/**
 * A limit of time that a caller has given, or the default.
 *
 * @throws RangeError: it is no number of seconds that can be waited for.
 */
export function limit(name: string, given: number | undefined, standard: number): number {
  const value = given ?? standard;
  if (!(value > 0 && value <= LONGEST_WAIT)) {
    throw new RangeError(
      `${name} must be in seconds, above 0 and at most ${LONGEST_WAIT}, not ${value}`,
    );
  }
  return value;
}
