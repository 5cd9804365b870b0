package io.github.gatewaybroker.ibgateway.client;

/** All sessions of the broker or of the gateway are in use; nothing was dialled. */
public final class SessionLimitException extends BrokerException {
  SessionLimitException(Told told) {
    super(told, "", false);
  }
}
