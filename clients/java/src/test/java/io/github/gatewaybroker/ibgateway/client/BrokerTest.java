package io.github.gatewaybroker.ibgateway.client;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertInstanceOf;
import static org.junit.jupiter.api.Assertions.assertNull;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.google.rpc.RetryInfo;
import io.github.gatewaybroker.ibgateway.broker.v1.DrainGatewayRequest;
import io.github.gatewaybroker.ibgateway.broker.v1.GatewayServiceGrpc;
import io.github.gatewaybroker.ibgateway.broker.v1.GetSessionRequest;
import io.github.gatewaybroker.ibgateway.broker.v1.GetSessionResponse;
import io.github.gatewaybroker.ibgateway.broker.v1.OpenSessionRequest;
import io.github.gatewaybroker.ibgateway.broker.v1.OpenSessionResponse;
import io.github.gatewaybroker.ibgateway.broker.v1.Session;
import io.github.gatewaybroker.ibgateway.broker.v1.SessionServiceGrpc;
import io.github.gatewaybroker.ibgateway.broker.v1.VerifySessionRequest;
import io.grpc.Attributes;
import io.grpc.CallCredentials;
import io.grpc.Grpc;
import io.grpc.Metadata;
import io.grpc.MethodDescriptor;
import io.grpc.SecurityLevel;
import io.grpc.Status;
import io.grpc.Status.Code;
import io.grpc.StatusRuntimeException;
import io.grpc.TlsChannelCredentials;
import java.net.InetSocketAddress;
import java.time.Duration;
import java.util.Map;
import java.util.Optional;
import java.util.UUID;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicReference;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;

@Timeout(120)
final class BrokerTest {
  private static final Metadata.Key<String> OWNER = key("x-broker-owner");
  private static final Metadata.Key<String> TOKEN = key("authorization");
  private static final Metadata.Key<String> CORRELATION = key("x-correlation-id");
  private static final GetSessionRequest ANY = GetSessionRequest.getDefaultInstance();
  private static final GetSessionResponse FOUND =
      GetSessionResponse.newBuilder().setSession(Session.newBuilder().setSessionId("s")).build();
  private static final RetryInfo AT_ONCE = RetryInfo.getDefaultInstance();

  private ScriptedBroker peer;
  private Broker broker;

  @BeforeEach
  void connect() throws Exception {
    peer = new ScriptedBroker();
    broker = Broker.connect(peer.address()).owner("momentum").token("secret").build();
  }

  @AfterEach
  void disconnect() {
    broker.close();
    peer.close();
  }

  private static Metadata.Key<String> key(String name) {
    return Metadata.Key.of(name, Metadata.ASCII_STRING_MARSHALLER);
  }

  private GetSessionResponse get(Duration timeout) {
    return broker.call(SessionServiceGrpc.getGetSessionMethod(), ANY, timeout);
  }

  private static StatusRuntimeException storeAway() {
    return Errors.of(Code.UNAVAILABLE, "away", Errors.info("STORE_UNAVAILABLE", Map.of()), AT_ONCE);
  }

  @Test
  void aCallSaysWhoAsksAndUntilWhen() {
    peer.answers(ScriptedBroker.says(FOUND));
    assertEquals(FOUND, broker.call(SessionServiceGrpc.getGetSessionMethod(), ANY));
    ScriptedBroker.Asked asked = peer.asked.get(0);
    assertEquals("momentum", asked.metadata().get(OWNER));
    assertEquals("Bearer secret", asked.metadata().get(TOKEN));
    assertEquals(4, UUID.fromString(asked.metadata().get(CORRELATION)).version());
    long left = asked.deadline().timeRemaining(TimeUnit.MILLISECONDS);
    assertTrue(left > 5_000 && left <= 10_000, () -> left + " ms");
  }

  @Test
  void aBareStubSaysSo() throws Exception {
    peer.answers(
        ScriptedBroker.says(OpenSessionResponse.getDefaultInstance()),
        ScriptedBroker.fails(Status.UNAVAILABLE.asRuntimeException()));
    var stub = SessionServiceGrpc.newBlockingStub(broker.channel());
    stub.openSession(OpenSessionRequest.getDefaultInstance());
    ScriptedBroker.Asked asked = peer.asked.get(0);
    assertEquals("Bearer secret", asked.metadata().get(TOKEN));
    long left = asked.deadline().timeRemaining(TimeUnit.SECONDS);
    assertTrue(left > 290 && left <= 300, () -> left + " s");

    String id = UUID.randomUUID().toString();
    StatusRuntimeException error =
        assertThrows(
            StatusRuntimeException.class,
            () -> stub.withOption(CallMetadata.CORRELATION_ID, id).getSession(ANY));
    assertEquals(id, peer.asked.get(1).metadata().get(CORRELATION));
    assertEquals(id, BrokerException.from(error).correlationId());
  }

  @ParameterizedTest
  @ValueSource(strings = {"10.0.0.1:50051", "broker.example:50051", "127.0.0.1.example:1"})
  void aTokenIsNotSentInPlainTextBeyondThisMachine(String address) {
    Broker.Builder plain = Broker.connect(address).token("secret");
    IllegalArgumentException refusal = assertThrows(IllegalArgumentException.class, plain::build);
    assertTrue(refusal.getMessage().contains("plain text"));
    plain.credentials(TlsChannelCredentials.create()).build().close();
  }

  @ParameterizedTest
  @CsvSource({
    "localhost:50051,192.0.2.1,NONE,false",
    "localhost:50051,192.0.2.1,INTEGRITY,false",
    "broker.example:50051,192.0.2.1,PRIVACY_AND_INTEGRITY,true",
    "localhost:50051,127.0.0.1,NONE,true",
    "localhost,127.0.0.1,NONE,true",
    "[::1]:50051,::1,NONE,true",
    "broker.example:50051,127.0.0.1,NONE,false"
  })
  void whatCountsForATokenIsTheOpenConnectionAndWhereItLeads(
      String authority, String peer, SecurityLevel level, boolean sent) {
    AtomicReference<Object> outcome = new AtomicReference<>();
    new BearerToken("secret")
        .applyRequestMetadata(
            new Request(authority, peer, level),
            Runnable::run,
            new CallCredentials.MetadataApplier() {
              @Override
              public void apply(Metadata headers) {
                outcome.set(headers);
              }

              @Override
              public void fail(Status status) {
                outcome.set(status);
              }
            });
    if (sent) {
      assertEquals("Bearer secret", assertInstanceOf(Metadata.class, outcome.get()).get(TOKEN));
    } else {
      assertEquals(Code.UNAUTHENTICATED, ((Status) outcome.get()).getCode());
    }
  }

  /** A call as gRPC tells credentials of it. */
  private static final class Request extends CallCredentials.RequestInfo {
    private final String authority;
    private final String peer;
    private final SecurityLevel level;

    Request(String authority, String peer, SecurityLevel level) {
      this.authority = authority;
      this.peer = peer;
      this.level = level;
    }

    @Override
    public MethodDescriptor<?, ?> getMethodDescriptor() {
      return SessionServiceGrpc.getGetSessionMethod();
    }

    @Override
    public SecurityLevel getSecurityLevel() {
      return level;
    }

    @Override
    public String getAuthority() {
      return authority;
    }

    @Override
    public Attributes getTransportAttrs() {
      return Attributes.newBuilder()
          .set(Grpc.TRANSPORT_ATTR_REMOTE_ADDR, new InetSocketAddress(peer, 50051))
          .build();
    }
  }

  @ParameterizedTest
  @ValueSource(strings = {"", "http://127.0.0.1:1", "127.0.0.1", ":1", "a b:1", "a:0", "a:65536"})
  void anAddressIsHostAndPort(String address) {
    assertThrows(IllegalArgumentException.class, () -> Broker.connect(address));
  }

  @ParameterizedTest
  @ValueSource(strings = {"", "secret\n", "zwei Wörter", "two words"})
  void aTokenThatCannotBeOneIsNotShown(String token) {
    IllegalArgumentException refusal =
        assertThrows(IllegalArgumentException.class, () -> new BearerToken(token));
    assertTrue(token.isEmpty() || !refusal.getMessage().contains(token));
    assertEquals("BearerToken", new BearerToken("secret").toString());
  }

  @Test
  void whatTheBrokerCouldNotServeIsAskedAgain() {
    peer.answers(
        ScriptedBroker.fails(storeAway()),
        ScriptedBroker.fails(storeAway()),
        ScriptedBroker.says(FOUND));
    assertEquals(FOUND, get(Duration.ofSeconds(10)));
    assertEquals(3, peer.asked.size());
    assertEquals(
        1, peer.asked.stream().map(asked -> asked.metadata().get(CORRELATION)).distinct().count());
  }

  @Test
  void whatCannotSucceedInTimeFailsAtOnce() {
    RetryInfo later =
        RetryInfo.newBuilder()
            .setRetryDelay(com.google.protobuf.Duration.newBuilder().setSeconds(60))
            .build();
    peer.answers(
        ScriptedBroker.fails(
            Errors.of(Code.UNAVAILABLE, "x", Errors.info("GATEWAY_DRAINING", Map.of()), later)));
    assertThrows(GatewayDrainingException.class, () -> get(Duration.ofSeconds(10)));
    assertEquals(1, peer.asked.size());
  }

  @Test
  void whatWasAnsweredOtherwiseIsNotAskedAgain() {
    peer.answers(ScriptedBroker.fails(Errors.of(Code.INTERNAL, "INTERNAL")));
    assertThrows(BrokerInternalException.class, () -> get(Duration.ofSeconds(10)));
    assertEquals(1, peer.asked.size());
  }

  @Test
  void withoutABackoffNothingIsAskedAgain() {
    peer.answers(ScriptedBroker.fails(storeAway()));
    try (Broker once = Broker.connect(peer.address()).backoff(null).build()) {
      assertThrows(
          StoreUnavailableException.class,
          () -> once.call(SessionServiceGrpc.getGetSessionMethod(), ANY));
    }
    assertEquals(1, peer.asked.size());
  }

  @Test
  void whenNobodyAnswersOnlyWhatIsSafeIsAskedAgain() throws Exception {
    peer.stop();
    assertThrows(
        BrokerUnreachableException.class,
        () ->
            broker.call(
                SessionServiceGrpc.getVerifySessionMethod(),
                VerifySessionRequest.getDefaultInstance()));
    assertThrows(
        BrokerUnreachableException.class,
        () ->
            broker.call(
                SessionServiceGrpc.getOpenSessionMethod(),
                OpenSessionRequest.getDefaultInstance()));
    assertThrows(
        BrokerUnreachableException.class,
        () ->
            broker.call(
                GatewayServiceGrpc.getDrainGatewayMethod(),
                DrainGatewayRequest.getDefaultInstance()));

    OpenSessionRequest repeatable = OpenSessionRequest.newBuilder().setRequestId("r").build();
    peer.answers(ScriptedBroker.says(OpenSessionResponse.getDefaultInstance()));
    CompletableFuture<OpenSessionResponse> answer =
        CompletableFuture.supplyAsync(
            () -> broker.call(SessionServiceGrpc.getOpenSessionMethod(), repeatable));
    TimeUnit.MILLISECONDS.sleep(500);
    peer.start();
    assertEquals(OpenSessionResponse.getDefaultInstance(), answer.get());
  }

  @ParameterizedTest
  @ValueSource(longs = {-1, 0, 300})
  void aCallEndsInTime(long millis) {
    peer.answers(ScriptedBroker.tells());
    CallTimeoutException error =
        assertThrows(CallTimeoutException.class, () -> get(Duration.ofMillis(millis)));
    assertTrue(error.message().contains(peer.address()));
    assertTrue(millis <= 0 || !error.correlationId().isEmpty());
  }

  @Test
  void aTimeoutMayBeHuge() {
    peer.answers(ScriptedBroker.says(FOUND));
    assertEquals(FOUND, get(Duration.ofSeconds(Long.MAX_VALUE)));
    assertThrows(CallTimeoutException.class, () -> get(Duration.ofSeconds(Long.MIN_VALUE)));
  }

  @Test
  void aPauseMayBeHuge() {
    Thread.currentThread().interrupt();
    assertThrows(
        InterruptedException.class, () -> broker.pause(Duration.ofSeconds(Long.MAX_VALUE)));
  }

  @Test
  void anInterruptCancelsTheCall() throws Exception {
    peer.answers(ScriptedBroker.tells());
    AtomicReference<Throwable> outcome = new AtomicReference<>();
    AtomicReference<Boolean> flag = new AtomicReference<>();
    Thread caller =
        new Thread(
            () -> {
              outcome.set(assertThrows(BrokerException.class, () -> get(Duration.ofSeconds(10))));
              flag.set(Thread.currentThread().isInterrupted());
            });
    caller.start();
    Eventually.holds(() -> peer.asked.size() == 1);
    caller.interrupt();
    caller.join();
    assertInstanceOf(CancelledException.class, outcome.get());
    assertTrue(flag.get());
    Eventually.holds(() -> peer.cancelled.get() == 1);
  }

  @Test
  void anInterruptEndsTheWaitBeforeTheNextTry() throws Exception {
    peer.answers(ScriptedBroker.fails(storeAway()));
    AtomicReference<Throwable> outcome = new AtomicReference<>();
    Thread caller =
        new Thread(
            () ->
                outcome.set(assertThrows(BrokerException.class, () -> get(Duration.ofMinutes(5)))));
    caller.start();
    Eventually.holds(() -> !peer.asked.isEmpty());
    caller.interrupt();
    caller.join();
    assertInstanceOf(CancelledException.class, outcome.get());
  }

  @Test
  void closingCutsCallsAndRefusesOthers() throws Exception {
    peer.answers(ScriptedBroker.tells());
    CompletableFuture<Throwable> cut =
        CompletableFuture.supplyAsync(
            () -> assertThrows(BrokerException.class, () -> get(Duration.ofSeconds(10))));
    Eventually.holds(() -> peer.asked.size() == 1);
    broker.close();
    assertInstanceOf(BrokerClosedException.class, cut.get());
    assertThrows(BrokerClosedException.class, () -> get(Duration.ofSeconds(10)));
    assertThrows(BrokerClosedException.class, () -> broker.pause(Duration.ofSeconds(10)));
    broker.close();
    Eventually.holds(() -> peer.cancelled.get() == 1);
  }

  @Test
  void waitsGrowToALimitAndKeepToWhatTheBrokerSays() {
    Backoff backoff = new Backoff(Duration.ofMillis(200), Duration.ofSeconds(5));
    assertEquals(Duration.ofMillis(100), backoff.delay(0, Optional.empty(), 0));
    assertEquals(Duration.ofMillis(400), backoff.delay(1, Optional.empty(), 1));
    assertEquals(Duration.ofSeconds(5), backoff.delay(Integer.MAX_VALUE, Optional.empty(), 1));
    assertEquals(
        Duration.ofMillis(75_000), backoff.delay(3, Optional.of(Duration.ofMinutes(1)), 1));
    assertEquals(Duration.ofMillis(200), backoff.delay(3, Optional.of(Duration.ZERO), 0));
    Backoff extreme = new Backoff(Duration.ofNanos(2), Duration.ofSeconds(Long.MAX_VALUE));
    assertEquals(Duration.ofNanos(1024), extreme.delay(10, Optional.empty(), 0));
    Duration longest = extreme.delay(0, Optional.of(Duration.ofSeconds(Long.MAX_VALUE)), 1);
    assertEquals(Long.MAX_VALUE, longest.toNanos());
    assertThrows(
        IllegalArgumentException.class, () -> new Backoff(Duration.ZERO, Duration.ofSeconds(1)));
    assertThrows(
        IllegalArgumentException.class,
        () -> new Backoff(Duration.ofSeconds(2), Duration.ofSeconds(1)));
  }

  @Test
  void withoutAnOwnerAndATokenNeitherIsSent() {
    peer.answers(ScriptedBroker.says(FOUND));
    try (Broker anybody = Broker.connect(peer.address()).build()) {
      anybody.call(SessionServiceGrpc.getGetSessionMethod(), ANY);
    }
    assertNull(peer.asked.get(0).metadata().get(OWNER));
    assertNull(peer.asked.get(0).metadata().get(TOKEN));
  }
}
