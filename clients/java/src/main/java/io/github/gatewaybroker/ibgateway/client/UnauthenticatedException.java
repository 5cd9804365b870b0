package io.github.gatewaybroker.ibgateway.client;

/** The broker does not know who calls: no token, or one that is unknown, revoked or expired. */
public final class UnauthenticatedException extends BrokerException {
  UnauthenticatedException(Told told) {
    super(told, "a token shows who calls; whoever runs the broker gives them out", false);
  }
}
