package keeper;

import io.github.gatewaybroker.ibgateway.broker.v1.Session;
import io.github.gatewaybroker.ibgateway.broker.v1.SessionEvent;
import io.github.gatewaybroker.ibgateway.broker.v1.SessionState;
import io.github.gatewaybroker.ibgateway.broker.v1.WatchSessionsRequest;
import io.github.gatewaybroker.ibgateway.broker.v1.WatchSessionsResponse;
import io.github.gatewaybroker.ibgateway.client.WatchGapException;
import java.util.HashMap;
import java.util.Map;
import java.util.Set;

/**
 * Proves that a watch is complete, and keeps what it has told. No I/O, no clock.
 *
 * <p>The rules, from the contract of WatchSessions:
 *
 * <ol>
 *   <li>A stream that begins anew has snapshots, then their completion, then events. One that
 *       continues has events only, unless a reset says that it begins anew.
 *   <li>Persisted events come in the order of their revisions.
 *   <li>An event is told if its session matched before or after it. So the event after one whose
 *       session matches has the next sequence; a session that comes into view later may have any.
 *       Only its state can bring a session into view later: without a filter on states, a session
 *       that the snapshot did not have begins with 1.
 *   <li>An event that is not persisted yet is told again once it is. Until then it stands beside
 *       what is kept, and is void when the stream is lost: the broker may have died with it.
 * </ol>
 */
public final class Continuity {
  private final Set<SessionState> states;
  private final boolean includeFinal;
  private String token;
  private boolean inSnapshot;
  private long revision;

  /** Whether a session that is not known must be new. */
  private boolean knowsAll;

  private Map<String, Session> kept = new HashMap<>();
  private Map<String, Session> snapshot = new HashMap<>();
  private final Map<String, Session> provisional = new HashMap<>();

  /** What a watch of this request knows, over all of its streams. */
  public Continuity(WatchSessionsRequest wanted) {
    this.states = Set.copyOf(wanted.getStatesList());
    this.includeFinal = wanted.getIncludeFinal() || states.stream().anyMatch(Continuity::isFinal);
    this.token = wanted.getResumeToken();
    this.inSnapshot = token.isEmpty();
  }

  /** Whether a session that is in this state has ended. */
  public static boolean isFinal(SessionState state) {
    return state == SessionState.SESSION_STATE_DISCONNECTED
        || state == SessionState.SESSION_STATE_FAILED;
  }

  /** Where to continue; empty if that would be in the middle of a snapshot. */
  public String token() {
    return token;
  }

  /**
   * The sessions that match, by id; during a new snapshot those of before. All of them once a
   * snapshot was complete.
   */
  public Map<String, Session> sessions() {
    Map<String, Session> shown = new HashMap<>(kept);
    shown.putAll(provisional);
    shown.values().removeIf(session -> !isShown(session));
    return shown;
  }

  /**
   * A new stream begins with {@link #token}.
   *
   * @return whether half a snapshot was told, which is void now
   */
  public boolean begin() {
    provisional.clear();
    boolean half = inSnapshot && !snapshot.isEmpty();
    snapshot.clear();
    return half;
  }

  /**
   * Takes a message of the stream.
   *
   * @throws WatchGapException if something is missing before it; nothing has changed
   */
  public void accept(WatchSessionsResponse message) {
    switch (message.getMessageCase()) {
      case EVENT:
        event(message.getEvent());
        follow(message.getResumeToken());
        break;
      case SNAPSHOT:
        require(inSnapshot, "a snapshot came where events were due");
        snapshot.put(message.getSnapshot().getSessionId(), message.getSnapshot());
        break;
      case SNAPSHOT_COMPLETE:
        require(inSnapshot, "a snapshot ended that had not begun");
        kept = snapshot;
        snapshot = new HashMap<>();
        inSnapshot = false;
        knowsAll = true;
        revision = message.getRevision();
        follow(message.getResumeToken());
        break;
      case RESET:
        provisional.clear();
        snapshot.clear();
        inSnapshot = true;
        token = "";
        break;
      case BOOKMARK:
        if (message.getRevision() < revision) {
          throw new WatchGapException(
              "a bookmark says " + message.getRevision() + ", but " + revision + " was told",
              "",
              revision,
              message.getRevision());
        }
        revision = message.getRevision();
        follow(message.getResumeToken());
        break;
      case DRAINING:
        follow(message.getResumeToken());
        break;
      case MESSAGE_NOT_SET:
        // Of a newer broker: what it means is not known, and nothing that is known depends on it.
        break;
    }
  }

  private void follow(String next) {
    if (!inSnapshot) {
      token = next;
    }
  }

  private void require(boolean holds, String message) {
    if (!holds) {
      throw new WatchGapException(message + ": what happened before it is missing", "", 0, 0);
    }
  }

  private void event(SessionEvent event) {
    require(!inSnapshot, "an event came before the snapshot was complete");
    String id = event.getSessionId();
    Session before = kept.get(id);
    if (!event.getPersisted()) {
      expect(event, provisional.getOrDefault(id, before));
      provisional.put(id, event.getSession());
      return;
    }
    if (event.getRevision() <= revision) {
      throw new WatchGapException(
          "revision " + event.getRevision() + " came after " + revision,
          id,
          revision + 1,
          event.getRevision());
    }
    expect(event, before);
    Session shown = provisional.get(id);
    if (shown != null && shown.getSequence() <= event.getSequence()) {
      provisional.remove(id);
    }
    if (isShown(event.getSession())) {
      kept.put(id, event.getSession());
    } else {
      kept.remove(id);
    }
    revision = event.getRevision();
  }

  /** Requires that no event is missing between the last one of a session and this one. */
  private void expect(SessionEvent event, Session before) {
    long expected = before == null ? 1 : before.getSequence() + 1;
    boolean exact = before == null ? knowsAll && states.isEmpty() : matches(before);
    long sequence = event.getSequence();
    if (sequence == expected || (sequence > expected && !exact)) {
      return;
    }
    String id = event.getSessionId();
    throw new WatchGapException(
        sequence < expected
            ? "event " + sequence + " of session " + id + " came again"
            : "events " + expected + " to " + (sequence - 1) + " of session " + id + " are missing",
        id,
        expected,
        sequence);
  }

  private boolean matches(Session session) {
    return states.isEmpty() || states.contains(session.getState());
  }

  private boolean isShown(Session session) {
    return matches(session) && (includeFinal || !isFinal(session.getState()));
  }
}
