/** The configured gateways, and what operators decide about them. */

import { create } from "@bufbuild/protobuf";
import type { CallOptions, Connection } from "./connection.js";
import { type Gateway, GatewaySchema } from "./gen/ibgateway/broker/v1/gateway_pb.js";
import { GatewayService } from "./gen/ibgateway/broker/v1/gateway_service_pb.js";
import { limit } from "./time.js";

/** Seconds for a call that does not wait for sessions to end. */
const TIMEOUT = 10;
/** Seconds for all sessions of a gateway to end. */
const DRAIN_TIMEOUT = 120;

const { listGateways, getGateway, drainGateway, resumeGateway, resetCircuitBreaker } =
  GatewayService.method;

/**
 * Finds gateways, takes them out of use and puts them into use again; see `Broker.gateways`.
 *
 * A gateway is named by its id; empty is `"default"`. Each method throws GatewayNotFoundError where
 * none has this name, and takes {@link CallOptions}. What an operator decides is not repeated when the
 * broker does not answer: somebody else may have decided otherwise meanwhile. To cancel it ends the
 * wait; once the broker has the request, it is carried out.
 */
export class Gateways {
  readonly #connection: Connection;

  constructor(connection: Connection) {
    this.#connection = connection;
  }

  /** All of them, by name. */
  async list(options: CallOptions = {}): Promise<Gateway[]> {
    const answer = await this.#connection.call(
      listGateways,
      {},
      { ...within(options), isIdempotent: true },
    );
    return answer.gateways;
  }

  /** One of them. */
  async get(gatewayId = "", options: CallOptions = {}): Promise<Gateway> {
    return gatewayOf(
      await this.#connection.call(
        getGateway,
        { gatewayId },
        { ...within(options), isIdempotent: true },
      ),
    );
  }

  /**
   * Take a gateway out of use, also over a restart of the broker: opens are refused, sessions that are
   * CONNECTED stay, and one that loses its link waits. Draining again changes the reason.
   *
   * @param options - `reason` is for the record and for those who are refused, at most 256 characters;
   *   `closeSessions` ends all of its sessions, and waits for their ends. `timeout` is 10 s by default,
   *   with `closeSessions` 120 s.
   * @throws StoreUnavailableError: nothing was changed.
   */
  async drain(
    gatewayId = "",
    options: CallOptions & {
      reason?: string | undefined;
      closeSessions?: boolean | undefined;
    } = {},
  ): Promise<Gateway> {
    const { reason = "", closeSessions = false } = options;
    return gatewayOf(
      await this.#connection.call(
        drainGateway,
        { gatewayId, reason, closeSessions },
        { ...within(options, closeSessions ? DRAIN_TIMEOUT : TIMEOUT), isIdempotent: false },
      ),
    );
  }

  /**
   * Put a gateway into use again; sessions that wait dial at once. No error if it is in use.
   *
   * @throws StoreUnavailableError: nothing was changed.
   */
  async resume(gatewayId = "", options: CallOptions = {}): Promise<Gateway> {
    return gatewayOf(
      await this.#connection.call(
        resumeGateway,
        { gatewayId },
        { ...within(options), isIdempotent: false },
      ),
    );
  }

  /** Close a gateway's circuit, and let whoever waits for it try at once. */
  async resetBreaker(gatewayId = "", options: CallOptions = {}): Promise<Gateway> {
    return gatewayOf(
      await this.#connection.call(
        resetCircuitBreaker,
        { gatewayId },
        { ...within(options), isIdempotent: false },
      ),
    );
  }
}

function within(options: CallOptions, standard = TIMEOUT) {
  return { ...options, timeout: limit("timeout", options.timeout, standard) };
}

function gatewayOf(answer: { gateway?: Gateway | undefined }): Gateway {
  return answer.gateway ?? create(GatewaySchema);
}
