package keeper;

import static io.github.gatewaybroker.ibgateway.client.ScriptedBroker.fails;
import static io.github.gatewaybroker.ibgateway.client.ScriptedBroker.says;
import static io.github.gatewaybroker.ibgateway.client.ScriptedBroker.tells;
import static keeper.Messages.ID;
import static keeper.Messages.OTHER;
import static keeper.Messages.bookmark;
import static keeper.Messages.complete;
import static keeper.Messages.draining;
import static keeper.Messages.event;
import static keeper.Messages.snapshot;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertInstanceOf;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.google.rpc.RetryInfo;
import io.github.gatewaybroker.ibgateway.broker.v1.WatchSessionsRequest;
import io.github.gatewaybroker.ibgateway.broker.v1.WatchSessionsResponse;
import io.github.gatewaybroker.ibgateway.client.Broker;
import io.github.gatewaybroker.ibgateway.client.BrokerClosedException;
import io.github.gatewaybroker.ibgateway.client.BrokerException;
import io.github.gatewaybroker.ibgateway.client.BrokerUnreachableException;
import io.github.gatewaybroker.ibgateway.client.Errors;
import io.github.gatewaybroker.ibgateway.client.Eventually;
import io.github.gatewaybroker.ibgateway.client.InvalidArgumentException;
import io.github.gatewaybroker.ibgateway.client.ScriptedBroker;
import io.github.gatewaybroker.ibgateway.client.SlowConsumerException;
import io.github.gatewaybroker.ibgateway.client.StoreUnavailableException;
import io.github.gatewaybroker.ibgateway.client.UnexpectedAnswerException;
import io.github.gatewaybroker.ibgateway.client.WatchGapException;
import io.grpc.Status;
import io.grpc.Status.Code;
import io.grpc.StatusRuntimeException;
import io.grpc.stub.StreamObserver;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.atomic.AtomicReference;
import java.util.logging.Handler;
import java.util.logging.Level;
import java.util.logging.LogRecord;
import java.util.logging.Logger;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

@Timeout(120)
final class WatchTest {
  private static final Duration SOON = Duration.ofSeconds(30);

  private ScriptedBroker peer;
  private Broker broker;
  private Watch watch;

  @BeforeEach
  void connect() throws Exception {
    peer = new ScriptedBroker();
    broker = Broker.connect(peer.address()).build();
    watch = new Watch(broker, WatchSessionsRequest.getDefaultInstance());
  }

  @AfterEach
  void disconnect() throws Exception {
    watch.close();
    broker.close();
    peer.stop();
  }

  private Item next() throws InterruptedException {
    return watch.next(SOON).orElseThrow();
  }

  private WatchSessionsResponse told() throws InterruptedException {
    return assertInstanceOf(Item.Told.class, next()).message();
  }

  private BrokerException lost() throws InterruptedException {
    return assertInstanceOf(Item.Interrupted.class, next()).error();
  }

  private List<String> tokens() {
    List<String> sent = new ArrayList<>();
    peer.asked.forEach(
        asked -> sent.add(((WatchSessionsRequest) asked.request()).getResumeToken()));
    return sent;
  }

  @Test
  void itResumesAfterTheLastItemThatWasTold() throws Exception {
    peer.answers(
        fails(Errors.of(Code.RESOURCE_EXHAUSTED, "SLOW_CONSUMER"), snapshot(ID, 2), complete(10)),
        fails(Status.UNAVAILABLE.asRuntimeException(), event(ID, 11, 3)),
        says(event(ID, 12, 4), draining(12)),
        tells(event(ID, 13, 5)));
    assertEquals(ID, told().getSnapshot().getSessionId());
    assertTrue(told().hasSnapshotComplete());
    assertInstanceOf(SlowConsumerException.class, lost());
    assertInstanceOf(Item.Resumed.class, next());
    assertEquals(3, told().getEvent().getSequence());
    assertInstanceOf(BrokerUnreachableException.class, lost());
    assertInstanceOf(Item.Resumed.class, next());
    assertEquals(4, told().getEvent().getSequence());
    assertTrue(told().hasDraining());
    assertInstanceOf(BrokerUnreachableException.class, lost());
    assertInstanceOf(Item.Resumed.class, next());
    assertEquals(5, told().getEvent().getSequence());
    assertEquals(List.of("", "t10", "t11", "t12"), tokens());
    assertEquals("t13", watch.token());
    assertEquals(Set.of(ID), watch.sessions().keySet());
  }

  @Test
  void anOutageIsToldOnceAndOnceItIsOver() throws Exception {
    peer.answers(tells(snapshot(ID, 2), complete(10)), tells());
    told();
    told();
    peer.stop();
    assertInstanceOf(BrokerUnreachableException.class, lost());
    assertTrue(watch.next(Duration.ofMillis(500)).isEmpty());
    peer.start();
    // A stream that answers and is quiet is one.
    assertInstanceOf(Item.Resumed.class, next());
    assertEquals("t10", tokens().get(tokens().size() - 1));
  }

  @Test
  void aStreamThatIsSilentIsGivenUp() throws Exception {
    peer.answers(tells(snapshot(ID, 2), complete(10)), tells(bookmark(10)));
    watch = new Watch(broker, WatchSessionsRequest.getDefaultInstance(), Duration.ofSeconds(2));
    told();
    told();
    assertInstanceOf(BrokerUnreachableException.class, lost());
    assertInstanceOf(Item.Resumed.class, next());
    assertTrue(told().hasBookmark());
    Eventually.holds(() -> peer.cancelled.get() == 1);
  }

  @Test
  void halfASnapshotIsVoid() throws Exception {
    peer.answers(
        fails(Status.UNAVAILABLE.asRuntimeException(), snapshot(ID, 2)),
        tells(snapshot(OTHER, 1), complete(10)));
    assertTrue(told().hasSnapshot());
    lost();
    assertInstanceOf(Item.Resumed.class, next());
    Item reset = next();
    assertEquals("SNAPSHOT_INCOMPLETE", ((Item.Told) reset).message().getReset().getReason());
    assertEquals("", reset.token());
    assertEquals(OTHER, told().getSnapshot().getSessionId());
    assertTrue(told().hasSnapshotComplete());
    assertEquals(List.of("", ""), tokens());
  }

  @Test
  void aGapEndsIt() throws Exception {
    peer.answers(tells(snapshot(ID, 2), complete(10), event(ID, 11, 4)));
    told();
    told();
    assertThrows(WatchGapException.class, this::next);
    assertThrows(IllegalStateException.class, this::next);
    assertEquals("t10", watch.token());
    Eventually.holds(() -> peer.cancelled.get() == 1);
  }

  @Test
  void whatIsRefusedForEverEndsIt() throws Exception {
    peer.answers(
        fails(Errors.of(Code.INVALID_ARGUMENT, "INVALID_ARGUMENT")),
        fails(Status.UNIMPLEMENTED.asRuntimeException()));
    assertThrows(InvalidArgumentException.class, this::next);
    watch = new Watch(broker, WatchSessionsRequest.getDefaultInstance());
    assertThrows(UnexpectedAnswerException.class, this::next);
    assertEquals(2, peer.asked.size());
  }

  @Test
  void whatDidNotComeInTimeIsNotLost() throws Exception {
    AtomicReference<StreamObserver<Object>> caller = new AtomicReference<>();
    peer.answers(caller::set);
    while (caller.get() == null) {
      assertTrue(watch.next(Duration.ofMillis(50)).isEmpty());
    }
    assertTrue(watch.next(Duration.ofMillis(300)).isEmpty());
    caller.get().onNext(snapshot(ID, 2));
    caller.get().onNext(complete(10));
    assertTrue(told().hasSnapshot());
    assertTrue(told().hasSnapshotComplete());
    assertEquals(1, peer.asked.size());
  }

  @Test
  void anInterruptLosesNothing() throws Exception {
    AtomicReference<StreamObserver<Object>> caller = new AtomicReference<>();
    peer.answers(caller::set);
    Thread reader = Thread.currentThread();
    Thread impatient =
        new Thread(
            () -> {
              try {
                Eventually.holds(() -> caller.get() != null);
              } catch (InterruptedException unwanted) {
                return;
              }
              reader.interrupt();
            });
    impatient.start();
    assertThrows(InterruptedException.class, this::next);
    caller.get().onNext(snapshot(ID, 2));
    assertTrue(told().hasSnapshot());
    assertEquals(1, peer.asked.size());
  }

  @Test
  void anInterruptInTheInstantOfALossHidesNothing() throws Exception {
    peer.answers(
        fails(Status.UNAVAILABLE.asRuntimeException(), snapshot(ID, 2), complete(10)),
        tells(event(ID, 11, 3)));
    told();
    told();
    // It is told of each read, after the wait and before the error.
    Logger reads = Logger.getLogger("io.grpc.stub.BlockingClientCall");
    Handler interrupts =
        new Handler() {
          @Override
          public void publish(LogRecord ignored) {
            Thread.currentThread().interrupt();
          }

          @Override
          public void flush() {}

          @Override
          public void close() {}
        };
    reads.setLevel(Level.FINER);
    reads.addHandler(interrupts);
    try {
      assertThrows(InterruptedException.class, this::next);
    } finally {
      reads.removeHandler(interrupts);
      reads.setLevel(null);
    }
    assertInstanceOf(BrokerUnreachableException.class, lost());
    assertInstanceOf(Item.Resumed.class, next());
    assertEquals(3, told().getEvent().getSequence());
  }

  @ParameterizedTest
  @ValueSource(longs = {Long.MAX_VALUE, Long.MAX_VALUE / 1_000_000_000})
  void aWaitMayBeHuge(long seconds) throws Exception {
    peer.answers(tells(snapshot(ID, 2)));
    assertTrue(watch.next(Duration.ofSeconds(seconds)).isPresent());
  }

  @Test
  void aBrokerMayAskForAHugeWait() throws Exception {
    RetryInfo never =
        RetryInfo.newBuilder()
            .setRetryDelay(
                com.google.protobuf.Duration.newBuilder().setSeconds(Long.MAX_VALUE).build())
            .build();
    peer.answers(fails(away(RetryInfo.getDefaultInstance())), fails(away(never)));
    assertInstanceOf(StoreUnavailableException.class, lost());
    // Its cause was told, and how long it lasts was not.
    Item.Interrupted told = assertInstanceOf(Item.Interrupted.class, next());
    assertInstanceOf(StoreUnavailableException.class, told.error());
    assertEquals(Duration.ofHours(1), told.retryIn());
    assertTrue(watch.next(Duration.ofMillis(300)).isEmpty());
    assertEquals(2, peer.asked.size());
  }

  private static StatusRuntimeException away(RetryInfo retry) {
    return Errors.of(Code.UNAVAILABLE, "x", Errors.info("STORE_UNAVAILABLE", Map.of()), retry);
  }

  @Test
  void aBrokerThatIsClosedEndsIt() throws Exception {
    peer.answers(tells(snapshot(ID, 2)));
    told();
    broker.close();
    assertThrows(BrokerClosedException.class, this::next);
  }

  @Test
  void whatIsNotReadIsHeldBackAndComesInOrder() throws Exception {
    List<Object> many = new ArrayList<>(List.of(snapshot(ID, 1), complete(1)));
    for (int number = 2; number <= 500; number++) {
      many.add(event(ID, number, number));
    }
    peer.answers(tells(many.toArray()));
    for (Object expected : many) {
      assertEquals(expected, told());
    }
  }
}
