package keeper;

import static keeper.Messages.ID;
import static keeper.Messages.OTHER;
import static keeper.Messages.bookmark;
import static keeper.Messages.complete;
import static keeper.Messages.draining;
import static keeper.Messages.event;
import static keeper.Messages.provisional;
import static keeper.Messages.reset;
import static keeper.Messages.snapshot;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import io.github.gatewaybroker.ibgateway.broker.v1.SessionState;
import io.github.gatewaybroker.ibgateway.broker.v1.WatchSessionsRequest;
import io.github.gatewaybroker.ibgateway.broker.v1.WatchSessionsResponse;
import io.github.gatewaybroker.ibgateway.client.WatchGapException;
import java.util.Set;
import org.junit.jupiter.api.Test;

final class ContinuityTest {
  private static final WatchSessionsRequest ALL = WatchSessionsRequest.getDefaultInstance();

  /** One that knows one session, at sequence 2, as of revision 10. */
  private static Continuity live(WatchSessionsRequest wanted) {
    return accepted(new Continuity(wanted), snapshot(ID, 2), complete(10));
  }

  private static Continuity accepted(Continuity continuity, WatchSessionsResponse... messages) {
    for (WatchSessionsResponse message : messages) {
      continuity.accept(message);
    }
    return continuity;
  }

  private static WatchGapException refused(Continuity continuity, WatchSessionsResponse message) {
    String token = continuity.token();
    var sessions = continuity.sessions();
    WatchGapException gap = assertThrows(WatchGapException.class, () -> continuity.accept(message));
    assertEquals(token, continuity.token());
    assertEquals(sessions, continuity.sessions());
    return gap;
  }

  @Test
  void itKeepsWhatIsToldAndWhereToContinue() {
    Continuity continuity = new Continuity(ALL);
    accepted(continuity, snapshot(ID, 2));
    assertEquals("", continuity.token());
    assertEquals(Set.of(), continuity.sessions().keySet());
    accepted(continuity, complete(10));
    assertEquals("t10", continuity.token());
    accepted(continuity, event(ID, 12, 3), event(OTHER, 13, 1), bookmark(20), draining(20));
    assertEquals("t20", continuity.token());
    assertEquals(Set.of(ID, OTHER), continuity.sessions().keySet());
    assertEquals(3, continuity.sessions().get(ID).getSequence());
  }

  @Test
  void aGapIsFound() {
    WatchGapException gap = refused(live(ALL), event(ID, 11, 5));
    assertEquals(ID, gap.sessionId());
    assertEquals(3, gap.expected());
    assertEquals(5, gap.received());
    assertTrue(gap.getMessage().contains("events 3 to 4"));
  }

  @Test
  void aSessionThatTheSnapshotDidNotHaveBeginsWithOne() {
    assertEquals(1, refused(live(ALL), event(OTHER, 11, 2)).expected());
  }

  @Test
  void whatComesTwiceIsFound() {
    Continuity continuity = accepted(live(ALL), event(ID, 11, 3));
    assertEquals(12, refused(continuity, event(ID, 11, 3)).expected());
    assertTrue(refused(continuity, event(ID, 12, 3)).getMessage().contains("came again"));
    refused(continuity, bookmark(10));
  }

  @Test
  void theOrderOfAStreamIsKept() {
    refused(new Continuity(ALL), event(ID, 11, 1));
    refused(live(ALL), snapshot(OTHER, 1));
    refused(live(ALL), complete(11));
    refused(new Continuity(ALL.toBuilder().setResumeToken("t9").build()), snapshot(OTHER, 1));
  }

  @Test
  void whoContinuesByATokenTakesTheFirstEventOfASessionAsItComes() {
    Continuity continuity = new Continuity(ALL.toBuilder().setResumeToken("t9").build());
    assertFalse(continuity.begin());
    accepted(continuity, event(ID, 11, 40), event(ID, 12, 41));
    assertEquals(42, refused(continuity, event(ID, 13, 43)).expected());
  }

  @Test
  void aResetMakesAllOfItVoid() {
    Continuity continuity = accepted(live(ALL), event(ID, 11, 3), reset());
    assertEquals("", continuity.token());
    assertEquals(Set.of(ID), continuity.sessions().keySet());
    accepted(continuity, snapshot(OTHER, 7), complete(50), event(OTHER, 51, 8));
    assertEquals(Set.of(OTHER), continuity.sessions().keySet());
    assertEquals("t51", continuity.token());
  }

  @Test
  void halfASnapshotIsVoidWithItsStream() {
    Continuity continuity = new Continuity(ALL);
    assertFalse(continuity.begin());
    accepted(continuity, snapshot(ID, 2));
    assertTrue(continuity.begin());
    assertEquals("", continuity.token());
    accepted(continuity, snapshot(OTHER, 1), complete(10));
    assertEquals(Set.of(OTHER), continuity.sessions().keySet());
  }

  @Test
  void anEventThatIsNotOnRecordComesAgainOnceItIs() {
    Continuity continuity = accepted(live(ALL), provisional(ID, 10, 3), provisional(ID, 10, 4));
    assertEquals("t10", continuity.token());
    assertEquals(4, continuity.sessions().get(ID).getSequence());
    assertEquals(5, refused(continuity, provisional(ID, 10, 6)).expected());
    accepted(continuity, event(ID, 11, 3));
    assertEquals(4, continuity.sessions().get(ID).getSequence());
    accepted(continuity, event(ID, 12, 4), event(ID, 13, 5));
    assertEquals(5, continuity.sessions().get(ID).getSequence());
  }

  @Test
  void anEventThatIsNotOnRecordIsVoidWithItsStream() {
    Continuity continuity = accepted(live(ALL), provisional(ID, 10, 3));
    assertFalse(continuity.begin());
    assertEquals(2, continuity.sessions().get(ID).getSequence());
    accepted(continuity, event(ID, 11, 3));
  }

  @Test
  void aSessionLeavesAViewByItsStateAndMayComeBackLater() {
    SessionState away = SessionState.SESSION_STATE_RECONNECTING;
    Continuity continuity =
        live(ALL.toBuilder().addStates(SessionState.SESSION_STATE_CONNECTED).build());
    assertEquals(3, refused(continuity, event(ID, 11, 4, away)).expected());
    accepted(continuity, event(ID, 11, 3, away));
    assertEquals(Set.of(), continuity.sessions().keySet());
    accepted(continuity, event(ID, 15, 6), event(OTHER, 16, 9));
    assertEquals(Set.of(ID, OTHER), continuity.sessions().keySet());
  }

  @Test
  void sessionsThatHaveEndedAreShownToWhoAsksForThem() {
    WatchSessionsResponse end = event(ID, 11, 3, SessionState.SESSION_STATE_FAILED);
    assertEquals(Set.of(), accepted(live(ALL), end).sessions().keySet());
    WatchSessionsRequest all = ALL.toBuilder().setIncludeFinal(true).build();
    assertEquals(Set.of(ID), accepted(live(all), end).sessions().keySet());
  }

  @Test
  void whatIsNotKnownYetChangesNothing() {
    Continuity continuity = live(ALL);
    continuity.accept(WatchSessionsResponse.newBuilder().setResumeToken("t99").build());
    assertEquals("t10", continuity.token());
  }
}
