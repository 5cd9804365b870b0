package io.github.gatewaybroker.ibgateway.client;

/** No gateway is configured under this name. */
public final class GatewayNotFoundException extends BrokerException {
  GatewayNotFoundException(Told told) {
    super(told, "", false);
  }
}
