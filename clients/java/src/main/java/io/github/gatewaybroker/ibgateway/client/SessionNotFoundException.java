package io.github.gatewaybroker.ibgateway.client;

/** No session has this id. */
public final class SessionNotFoundException extends BrokerException {
  SessionNotFoundException(Told told) {
    super(told, "", false);
  }
}
