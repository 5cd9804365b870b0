package io.github.gatewaybroker.ibgateway.client;

/** Every client id of the gateway's pool is held. */
public final class ClientIdsExhaustedException extends BrokerException {
  ClientIdsExhaustedException(Told told) {
    super(told, "", false);
  }
}
