package io.github.gatewaybroker.ibgateway.client;

/** IB_CONN_001: refused, reset or closed by the Gateway. */
public final class GatewayConnectionException extends GatewayException {
  GatewayConnectionException(Told told) {
    super(told);
  }
}
