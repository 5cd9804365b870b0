package io.github.gatewaybroker.ibgateway.client;

/** The session has no link now. */
public final class SessionNotConnectedException extends BrokerException {
  SessionNotConnectedException(Told told) {
    super(told, "watch it, or try again when it is CONNECTED", true);
  }
}
