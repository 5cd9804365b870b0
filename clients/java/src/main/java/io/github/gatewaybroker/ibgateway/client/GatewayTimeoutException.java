package io.github.gatewaybroker.ibgateway.client;

/** IB_CONN_003: silence; the phase says where. */
public final class GatewayTimeoutException extends GatewayException {
  GatewayTimeoutException(Told told) {
    super(told);
  }
}
