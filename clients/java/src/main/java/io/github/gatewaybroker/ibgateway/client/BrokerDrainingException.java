package io.github.gatewaybroker.ibgateway.client;

/** The broker stops; ask again when it is back. */
public final class BrokerDrainingException extends BrokerException {
  BrokerDrainingException(Told told) {
    super(told, "", true);
  }
}
