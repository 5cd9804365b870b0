package keeper;

import io.github.gatewaybroker.ibgateway.broker.v1.Bookmark;
import io.github.gatewaybroker.ibgateway.broker.v1.Draining;
import io.github.gatewaybroker.ibgateway.broker.v1.Reset;
import io.github.gatewaybroker.ibgateway.broker.v1.Session;
import io.github.gatewaybroker.ibgateway.broker.v1.SessionEvent;
import io.github.gatewaybroker.ibgateway.broker.v1.SessionState;
import io.github.gatewaybroker.ibgateway.broker.v1.SnapshotComplete;
import io.github.gatewaybroker.ibgateway.broker.v1.WatchSessionsResponse;

/** What a broker tells; a token is t and the revision. */
final class Messages {
  static final String ID = "11111111-1111-4111-8111-111111111111";
  static final String OTHER = "22222222-2222-4222-8222-222222222222";

  private Messages() {}

  static Session session(String id, SessionState state, long sequence) {
    return Session.newBuilder().setSessionId(id).setState(state).setSequence(sequence).build();
  }

  static WatchSessionsResponse snapshot(String id, long sequence) {
    return WatchSessionsResponse.newBuilder()
        .setSnapshot(session(id, SessionState.SESSION_STATE_CONNECTED, sequence))
        .build();
  }

  static WatchSessionsResponse complete(long revision) {
    return at(revision).setSnapshotComplete(SnapshotComplete.getDefaultInstance()).build();
  }

  static WatchSessionsResponse event(String id, long revision, long sequence) {
    return event(id, revision, sequence, SessionState.SESSION_STATE_CONNECTED);
  }

  static WatchSessionsResponse event(String id, long revision, long sequence, SessionState state) {
    return at(revision)
        .setEvent(
            SessionEvent.newBuilder()
                .setSessionId(id)
                .setRevision(revision)
                .setSequence(sequence)
                .setPersisted(true)
                .setSession(session(id, state, sequence)))
        .build();
  }

  /** An event that is not on record yet; the newest that is has this revision. */
  static WatchSessionsResponse provisional(String id, long revision, long sequence) {
    WatchSessionsResponse told = event(id, revision, sequence);
    return told.toBuilder()
        .setEvent(told.getEvent().toBuilder().setPersisted(false).setRevision(0))
        .build();
  }

  static WatchSessionsResponse bookmark(long revision) {
    return at(revision).setBookmark(Bookmark.getDefaultInstance()).build();
  }

  static WatchSessionsResponse draining(long revision) {
    return at(revision).setDraining(Draining.getDefaultInstance()).build();
  }

  static WatchSessionsResponse reset() {
    return WatchSessionsResponse.newBuilder()
        .setReset(Reset.newBuilder().setReason("TOKEN_TOO_OLD"))
        .build();
  }

  private static WatchSessionsResponse.Builder at(long revision) {
    return WatchSessionsResponse.newBuilder().setRevision(revision).setResumeToken("t" + revision);
  }
}
