package io.github.gatewaybroker.ibgateway.client;

/** The gateway has failed repeatedly; new sessions are refused until it was tried again. */
public final class CircuitBreakerOpenException extends BrokerException {
  CircuitBreakerOpenException(Told told) {
    super(told, advice(told.metadata().getOrDefault("gateway_id", "")), true);
  }

  private static String advice(String gateway) {
    return "`gateway-broker gateways explain "
        + gateway
        + "` says what is wrong; once that is repaired, `gateway-broker gateways reset-breaker "
        + gateway
        + "` saves the wait";
  }
}
