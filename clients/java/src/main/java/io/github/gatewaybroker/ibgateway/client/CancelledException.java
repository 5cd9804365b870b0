package io.github.gatewaybroker.ibgateway.client;

/**
 * This program has cancelled the call: its thread was interrupted, or its gRPC Context or the call
 * itself cancelled. What that means is the method's to say. The thread is still marked as
 * interrupted.
 */
public final class CancelledException extends BrokerException {
  CancelledException(Told told) {
    super(told, "", false);
  }
}
