package io.github.gatewaybroker.ibgateway.client;

/**
 * A watch has proof that its stream is not complete: the broker, or something between, erred.
 * Thrown by whoever checks the sequences of a watch, as the example does.
 */
public final class WatchGapException extends BrokerException {
  private final String sessionId;
  private final long expected;
  private final long received;

  /**
   * Says what is missing or out of order.
   *
   * @param message for people
   * @param sessionId the session whose events are; empty if it is about the stream itself
   * @param expected the sequence or revision that should have come
   * @param received the one that came
   */
  public WatchGapException(String message, String sessionId, long expected, long received) {
    super(
        Told.here(message, "", null),
        "begin a new watch without a token: its snapshot is complete. Report this",
        false);
    this.sessionId = sessionId;
    this.expected = expected;
    this.received = received;
  }

  /**
   * Which session.
   *
   * @return its id; empty if it is about the stream itself
   */
  public String sessionId() {
    return sessionId;
  }

  /**
   * What should have come.
   *
   * @return a sequence, or a revision
   */
  public long expected() {
    return expected;
  }

  /**
   * What came instead.
   *
   * @return a sequence, or a revision
   */
  public long received() {
    return received;
  }
}
