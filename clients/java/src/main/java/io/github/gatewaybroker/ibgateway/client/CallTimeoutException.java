package io.github.gatewaybroker.ibgateway.client;

/** No answer within the time given. Whether the broker has done what was asked is unknown. */
public final class CallTimeoutException extends BrokerUnreachableException {
  CallTimeoutException(Told told) {
    super(told, "give it more time, or see the broker's log");
  }
}
