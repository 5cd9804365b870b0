package io.github.gatewaybroker.ibgateway.client;

/** The broker erred; its log says more. */
public final class BrokerInternalException extends BrokerException {
  BrokerInternalException(Told told) {
    super(
        told,
        "look for error_id "
            + told.metadata().getOrDefault("error_id", "")
            + " in the broker's log",
        false);
  }
}
