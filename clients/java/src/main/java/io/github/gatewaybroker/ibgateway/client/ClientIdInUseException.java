package io.github.gatewaybroker.ibgateway.client;

/** IB_CONN_002: the Gateway said error 326, or the broker itself holds the id. */
public final class ClientIdInUseException extends GatewayException {
  ClientIdInUseException(Told told) {
    super(told);
  }
}
