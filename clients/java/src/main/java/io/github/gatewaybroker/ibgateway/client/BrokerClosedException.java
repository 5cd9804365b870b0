package io.github.gatewaybroker.ibgateway.client;

/** The call was made, or cut, when the {@link Broker} was closed. */
public final class BrokerClosedException extends BrokerException {
  BrokerClosedException(Told told) {
    super(told, "end what uses a Broker before it is closed", false);
  }
}
