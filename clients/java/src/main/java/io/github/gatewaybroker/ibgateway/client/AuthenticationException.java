package io.github.gatewaybroker.ibgateway.client;

/** IB_CONN_005: the Gateway does not accept the session until a human acts. */
public final class AuthenticationException extends GatewayException {
  AuthenticationException(Told told) {
    super(told);
  }
}
