package keeper;

import static io.github.gatewaybroker.ibgateway.client.ScriptedBroker.fails;
import static io.github.gatewaybroker.ibgateway.client.ScriptedBroker.says;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.google.protobuf.Duration;
import io.github.gatewaybroker.ibgateway.broker.v1.RenewSessionRequest;
import io.github.gatewaybroker.ibgateway.broker.v1.RenewSessionResponse;
import io.github.gatewaybroker.ibgateway.broker.v1.Session;
import io.github.gatewaybroker.ibgateway.client.Broker;
import io.github.gatewaybroker.ibgateway.client.Errors;
import io.github.gatewaybroker.ibgateway.client.Eventually;
import io.github.gatewaybroker.ibgateway.client.ScriptedBroker;
import io.grpc.Status.Code;
import java.util.concurrent.TimeUnit;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

@Timeout(120)
@SuppressWarnings("try") // a lease is held, not used
final class LeaseTest {
  private static final Session SESSION =
      Session.newBuilder()
          .setSessionId(Messages.ID)
          .setLeaseTtl(Duration.newBuilder().setNanos(600_000_000))
          .build();
  private static final ScriptedBroker.Answer RENEWED =
      says(RenewSessionResponse.newBuilder().setSession(SESSION).build());

  private ScriptedBroker peer;
  private Broker broker;

  @BeforeEach
  void connect() throws Exception {
    peer = new ScriptedBroker();
    broker = Broker.connect(peer.address()).build();
  }

  @AfterEach
  void disconnect() {
    broker.close();
    peer.close();
  }

  private static boolean isRunning() {
    return Thread.getAllStackTraces().keySet().stream()
        .anyMatch(thread -> thread.getName().startsWith("lease-"));
  }

  @Test
  void itIsRenewedUntilItIsClosed() throws Exception {
    peer.answers(RENEWED);
    long began = System.nanoTime();
    try (Lease lease = new Lease(broker, SESSION)) {
      Eventually.holds(() -> peer.asked.size() >= 4);
    }
    assertTrue(System.nanoTime() - began >= TimeUnit.MILLISECONDS.toNanos(4 * 200));
    assertEquals(Messages.ID, ((RenewSessionRequest) peer.asked.get(0).request()).getSessionId());
    assertTrue(!isRunning());
  }

  @Test
  void aBrokerThatErredOrWasAwayIsAskedAgain() throws Exception {
    peer.answers(
        fails(Errors.of(Code.INTERNAL, "INTERNAL")),
        fails(Errors.of(Code.INTERNAL, "INTERNAL")),
        RENEWED);
    try (Lease lease = new Lease(broker, SESSION)) {
      Eventually.holds(() -> peer.asked.size() >= 4);
      peer.stop();
      TimeUnit.MILLISECONDS.sleep(300);
      int before = peer.asked.size();
      peer.start();
      Eventually.holds(() -> peer.asked.size() > before);
    }
  }

  @Test
  void anEndThatMayNotBeOnRecordDoesNotEndIt() throws Exception {
    peer.answers(
        fails(Errors.of(Code.ABORTED, "SESSION_CLOSED")),
        fails(Errors.of(Code.NOT_FOUND, "SESSION_NOT_FOUND")),
        RENEWED);
    try (Lease lease = new Lease(broker, SESSION)) {
      Eventually.holds(() -> peer.asked.size() >= 4);
    }
    assertTrue(!isRunning());
  }

  @Test
  void aLeaseThatWasTakenAwayIsNotRenewed() throws Exception {
    peer.answers(RENEWED, fails(Errors.of(Code.INVALID_ARGUMENT, "INVALID_ARGUMENT")));
    try (Lease lease = new Lease(broker, SESSION)) {
      Eventually.holds(() -> peer.asked.size() == 2 && !isRunning());
    }
  }

  @Test
  void withoutALeaseThereIsNothingToDo() throws Exception {
    try (Lease lease = new Lease(broker, Session.getDefaultInstance())) {
      Eventually.holds(() -> !isRunning());
    }
    assertEquals(0, peer.asked.size());
  }
}
