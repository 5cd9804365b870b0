package io.github.gatewaybroker.ibgateway.client;

/** The broker's database did not take or give the record. */
public final class StoreUnavailableException extends BrokerException {
  StoreUnavailableException(Told told) {
    super(told, "whoever runs the broker must see to its database", true);
  }
}
