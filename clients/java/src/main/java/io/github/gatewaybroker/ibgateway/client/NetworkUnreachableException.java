package io.github.gatewaybroker.ibgateway.client;

/** IB_CONN_004: no route to the host, or its name does not resolve. */
public final class NetworkUnreachableException extends GatewayException {
  NetworkUnreachableException(Told told) {
    super(told);
  }
}
