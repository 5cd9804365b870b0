package io.github.gatewaybroker.ibgateway.client;

/** A watcher read too slowly; its last token is still good. */
public final class SlowConsumerException extends BrokerException {
  SlowConsumerException(Told told) {
    super(told, "handle the items of a watch faster, or narrow its filter", true);
  }
}
