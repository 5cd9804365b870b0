package io.github.gatewaybroker.ibgateway.client;

/** No broker answers. Whether it has done what was asked is unknown. */
public sealed class BrokerUnreachableException extends BrokerException
    permits CallTimeoutException {
  BrokerUnreachableException(Told told) {
    this(told, "is it running there? `gateway-broker serve` or `gateway-broker dev` starts one");
  }

  BrokerUnreachableException(Told told, String hint) {
    super(told, hint, true);
  }

  /**
   * Says of a stream that it is lost though no call has failed: it has ended, or has been silent
   * for longer than a broker may be.
   *
   * @param message which of these
   * @return the error that says so
   */
  public static BrokerUnreachableException lostStream(String message) {
    return new BrokerUnreachableException(
        Told.here(message, "", null), "open it again with the last resume token");
  }
}
