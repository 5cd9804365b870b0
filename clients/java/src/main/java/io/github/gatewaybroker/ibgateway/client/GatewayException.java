package io.github.gatewaybroker.ibgateway.client;

import io.github.gatewaybroker.ibgateway.broker.v1.ConnectionFailure;

/** An attempt to connect to IB Gateway, or a link to it, failed. */
public abstract sealed class GatewayException extends BrokerException
    permits GatewayConnectionException,
        ClientIdInUseException,
        GatewayTimeoutException,
        NetworkUnreachableException,
        AuthenticationException,
        IncompatibleVersionException {
  private final ConnectionFailure failure;

  GatewayException(Told told) {
    super(told, told.failure().getHint(), told.failure().getRetryable());
    this.failure = told.failure();
  }

  /**
   * What the broker knows about it.
   *
   * @return if the broker told no more than the code: that, and the message
   */
  public ConnectionFailure failure() {
    return failure;
  }

  /**
   * Where it happened.
   *
   * @return {@code "tcp"}, {@code "handshake"}, {@code "start_api"}, {@code "connected"}, {@code
   *     "heartbeat"} or {@code "admission"}
   */
  public String phase() {
    return failure.getPhase();
  }

  /**
   * The Gateway's own error number.
   *
   * @return 0 if it sent none
   */
  public int twsCode() {
    return failure.getTwsCode();
  }

  /**
   * The number of the dial.
   *
   * @return from 1; 0 if there was none
   */
  public int attempt() {
    return failure.getAttempt();
  }
}
