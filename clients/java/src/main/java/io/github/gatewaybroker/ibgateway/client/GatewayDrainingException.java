package io.github.gatewaybroker.ibgateway.client;

/** An operator takes the gateway out of use. */
public final class GatewayDrainingException extends BrokerException {
  GatewayDrainingException(Told told) {
    super(
        told,
        "`gateway-broker gateways resume "
            + told.metadata().getOrDefault("gateway_id", "")
            + "` puts it into use again",
        true);
  }
}
