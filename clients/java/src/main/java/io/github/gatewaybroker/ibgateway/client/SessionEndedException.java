package io.github.gatewaybroker.ibgateway.client;

import io.github.gatewaybroker.ibgateway.broker.v1.ConnectionFailure;
import io.github.gatewaybroker.ibgateway.broker.v1.Session;
import java.util.List;
import java.util.Map;
import java.util.Optional;

/** The session is over: closed by somebody, its lease run out, or FAILED. */
public final class SessionEndedException extends BrokerException {
  private final Session session;

  SessionEndedException(Told told) {
    super(told, "open a new session", false);
    this.session = null;
  }

  private SessionEndedException(Told told, String hint, Session session) {
    super(told, hint, false);
    this.session = session;
  }

  /**
   * Says of a session that was seen, in an answer or a watch, why it is over.
   *
   * @param session as it was last seen
   * @return the error that says so
   */
  public static SessionEndedException of(Session session) {
    String why = session.getCloseReason();
    boolean failed = why.isEmpty() && session.hasLastFailure();
    String message =
        failed
            ? "has FAILED: " + session.getLastFailure().getMessage()
            : "has ended: " + (why.isEmpty() ? "the broker has no record of it" : why);
    String hint = "open a new session";
    if (failed) {
      hint = session.getLastFailure().getHint();
    } else if (why.equals("LEASE_EXPIRED")) {
      hint = "its lease was not renewed in time: was this process blocked?";
    }
    Told told =
        new Told(
            "session " + session.getSessionId() + " " + message,
            "SESSION_CLOSED",
            Map.of("session_id", session.getSessionId(), "close_reason", why),
            null,
            List.of(),
            null,
            "",
            null);
    return new SessionEndedException(told, hint, session);
  }

  /**
   * The session as it was last seen.
   *
   * @return empty if it was not
   */
  public Optional<Session> session() {
    return Optional.ofNullable(session);
  }

  /**
   * Which session.
   *
   * @return its id; empty if it was not said
   */
  public String sessionId() {
    return metadata().getOrDefault("session_id", "");
  }

  /**
   * Who ended it.
   *
   * @return such as {@code "LEASE_EXPIRED"}; empty if it FAILED, or if that is unknown
   */
  public String closeReason() {
    return metadata().getOrDefault("close_reason", "");
  }

  /**
   * Why it FAILED.
   *
   * @return empty if it was ended as somebody asked, or if that is unknown
   */
  public Optional<ConnectionFailure> failure() {
    return session()
        .filter(seen -> closeReason().isEmpty() && seen.hasLastFailure())
        .map(Session::getLastFailure);
  }
}
