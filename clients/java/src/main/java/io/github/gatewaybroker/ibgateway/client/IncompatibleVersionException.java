package io.github.gatewaybroker.ibgateway.client;

/** IB_CONN_006: the Gateway must be upgraded. */
public final class IncompatibleVersionException extends GatewayException {
  IncompatibleVersionException(Told told) {
    super(told);
  }
}
