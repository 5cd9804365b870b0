package io.github.gatewaybroker.ibgateway.client;

import io.grpc.Status;

/** Something answers, but not as this library expects of a broker. */
public final class UnexpectedAnswerException extends BrokerException {
  private final Status.Code code;

  UnexpectedAnswerException(Told told, Status.Code code) {
    super(told, "it is no gateway-broker, an older one, or something between has answered", false);
    this.code = code;
  }

  /**
   * The gRPC status that it answered.
   *
   * @return such as UNIMPLEMENTED
   */
  public Status.Code code() {
    return code;
  }
}
