/** Which sessions are meant. */

import type { SessionState } from "./gen/ibgateway/broker/v1/session_pb.js";

/** All of it must match; what is absent or empty asks for nothing. */
export interface Filter {
  /** Only these, at most 100. */
  sessionIds?: readonly string[] | undefined;
  /** Only those of this gateway. */
  gatewayId?: string | undefined;
  /** Only those of this owner. */
  owner?: string | undefined;
  /** Only those with each of these labels. */
  labels?: Readonly<Record<string, string>> | undefined;
  /** Only those in one of these states. */
  states?: readonly SessionState[] | undefined;
  /** Also those that have ended; naming such a state does it, too. */
  includeFinal?: boolean | undefined;
}

/**
 * The filter as list and watch requests have it; a copy, and nothing else of what was given with it.
 *
 * @throws TypeError: a single id or state, where several are expected.
 */
export function fieldsOf(filter: Filter) {
  const { sessionIds = [], states = [] } = filter;
  for (const [name, given] of Object.entries({ sessionIds, states })) {
    if (!Array.isArray(given)) {
      throw new TypeError(`${name} must be an array, such as [${JSON.stringify(given)}]`);
    }
  }
  return {
    sessionIds: [...sessionIds],
    gatewayId: filter.gatewayId ?? "",
    owner: filter.owner ?? "",
    labels: { ...filter.labels },
    states: [...states],
    includeFinal: filter.includeFinal ?? false,
  };
}
