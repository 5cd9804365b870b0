package io.github.gatewaybroker.ibgateway.client;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertInstanceOf;
import static org.junit.jupiter.api.Assertions.assertNotEquals;
import static org.junit.jupiter.api.Assertions.assertSame;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.google.protobuf.Any;
import com.google.protobuf.ByteString;
import com.google.protobuf.Duration;
import com.google.rpc.BadRequest;
import com.google.rpc.ErrorInfo;
import com.google.rpc.RetryInfo;
import io.github.gatewaybroker.ibgateway.broker.v1.ConnectionFailure;
import io.github.gatewaybroker.ibgateway.broker.v1.ErrorReason;
import io.grpc.Status;
import io.grpc.Status.Code;
import io.grpc.StatusRuntimeException;
import java.util.Map;
import java.util.Optional;
import java.util.concurrent.CancellationException;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.EnumSource;

final class BrokerExceptionTest {
  private static final ConnectionFailure FAILURE =
      ConnectionFailure.newBuilder()
          .setReason("IB_CONN_003")
          .setRetryable(true)
          .setPhase("handshake")
          .setTwsCode(326)
          .setMessage("silence")
          .setHint("look at it")
          .setAttempt(4)
          .build();

  private static String name(ErrorReason reason) {
    return reason.name().replace("ERROR_REASON_", "");
  }

  @ParameterizedTest
  @EnumSource(
      value = ErrorReason.class,
      mode = EnumSource.Mode.EXCLUDE,
      names = {"ERROR_REASON_UNSPECIFIED", "UNRECOGNIZED"})
  void everyReasonOfTheContractHasAClassOfItsOwn(ErrorReason reason) {
    BrokerException error = BrokerException.from(Errors.of(Code.ABORTED, name(reason)));
    assertNotEquals(BrokerException.class, error.getClass());
    assertEquals(name(reason), error.reason());
    assertEquals("c-1", error.correlationId());
  }

  @ParameterizedTest
  @CsvSource({
    "IB_CONN_001,GatewayConnectionException",
    "IB_CONN_002,ClientIdInUseException",
    "IB_CONN_003,GatewayTimeoutException",
    "IB_CONN_004,NetworkUnreachableException",
    "IB_CONN_005,AuthenticationException",
    "IB_CONN_006,IncompatibleVersionException"
  })
  void theSixCodesKeepTheirFailure(String reason, String type) {
    ConnectionFailure failure = FAILURE.toBuilder().setReason(reason).build();
    GatewayException error =
        assertInstanceOf(
            GatewayException.class,
            BrokerException.from(
                Errors.of(
                    Code.UNAVAILABLE, "silence", Errors.info(reason, Map.of("a", "b")), failure)));
    assertEquals(type, error.getClass().getSimpleName());
    assertEquals(failure, error.failure());
    assertEquals("handshake", error.phase());
    assertEquals(326, error.twsCode());
    assertEquals(4, error.attempt());
    assertEquals(Map.of("a", "b"), error.metadata());
    assertTrue(error.retryable());
    assertEquals(reason + ": silence. Hint: look at it (correlation id c-1)", error.getMessage());
  }

  @Test
  void aCodeWithoutAFailureHasWhatIsKnown() {
    GatewayException error =
        (GatewayException) BrokerException.from(Errors.of(Code.UNAVAILABLE, "IB_CONN_001"));
    assertEquals("refused", error.failure().getMessage());
    assertEquals("IB_CONN_001", error.failure().getReason());
    assertFalse(error.retryable());
  }

  @Test
  void allViolationsAreTold() {
    BadRequest bad =
        BadRequest.newBuilder()
            .addFieldViolations(
                BadRequest.FieldViolation.newBuilder().setField("a").setDescription("too long"))
            .addFieldViolations(BadRequest.FieldViolation.newBuilder().setField("b"))
            .build();
    InvalidArgumentException error =
        (InvalidArgumentException)
            BrokerException.from(
                Errors.of(
                    Code.INVALID_ARGUMENT, "a", Errors.info("INVALID_ARGUMENT", Map.of()), bad));
    assertEquals(bad.getFieldViolationsList(), error.violations());
  }

  @ParameterizedTest
  @CsvSource({"2,500000000,PT2.5S", "-5,-1,PT0S", "9223372036854775807,0,PT87660000H"})
  void theTimeToAskAgainIsTold(long seconds, int nanos, java.time.Duration expected) {
    RetryInfo retry =
        RetryInfo.newBuilder()
            .setRetryDelay(Duration.newBuilder().setSeconds(seconds).setNanos(nanos))
            .build();
    BrokerException error =
        BrokerException.from(
            Errors.of(Code.UNAVAILABLE, "later", Errors.info("CIRCUIT_OPEN", Map.of()), retry));
    assertEquals(Optional.of(expected), error.retryAfter());
    assertTrue(error.retryable());
  }

  @Test
  void hintsNameWhatTheMetadataSays() {
    assertEquals(
        "ask somebody whose role is operator, or the owner of the session",
        BrokerException.from(
                Errors.of(
                    Code.PERMISSION_DENIED,
                    "no",
                    Errors.info("PERMISSION_DENIED", Map.of("needed_role", "operator"))))
            .hint());
    assertEquals(
        "look for error_id  in the broker's log",
        BrokerException.from(Errors.of(Code.INTERNAL, "INTERNAL")).hint());
  }

  @Test
  void aReasonOfTheFutureIsAPlainError() {
    BrokerException error = BrokerException.from(Errors.of(Code.ABORTED, "MOON_PHASE"));
    assertSame(BrokerException.class, error.getClass());
    assertEquals("MOON_PHASE", error.reason());
    assertEquals("MOON_PHASE: refused (correlation id c-1)", error.getMessage());
  }

  @Test
  void whatIsBrokenOrSomebodyElsesIsReadByItsStatus() {
    byte[] garbage = {1, 2, 3};
    byte[] brokenDetail =
        com.google.rpc.Status.newBuilder()
            .addDetails(
                Any.pack(Errors.info("INTERNAL", Map.of())).toBuilder()
                    .setValue(ByteString.copyFrom(garbage)))
            .build()
            .toByteArray();
    ErrorInfo foreign = ErrorInfo.newBuilder().setDomain("other").setReason("INTERNAL").build();
    for (StatusRuntimeException given :
        new StatusRuntimeException[] {
          Errors.packed(Code.INTERNAL, "?", garbage),
          Errors.packed(Code.INTERNAL, "?", brokenDetail),
          Errors.packed(Code.INTERNAL, "?", new byte[0]),
          Errors.of(Code.INTERNAL, "?", foreign),
          Status.INTERNAL.withDescription("?").asRuntimeException(),
        }) {
      UnexpectedAnswerException error =
          assertInstanceOf(UnexpectedAnswerException.class, BrokerException.from(given));
      assertEquals(Code.INTERNAL, error.code());
      assertEquals("", error.reason());
      assertSame(given, error.getCause());
    }
  }

  @ParameterizedTest
  @CsvSource({
    "UNAVAILABLE,BrokerUnreachableException",
    "CANCELLED,BrokerUnreachableException",
    "DEADLINE_EXCEEDED,CallTimeoutException",
    "UNIMPLEMENTED,UnexpectedAnswerException",
    "UNAUTHENTICATED,UnexpectedAnswerException"
  })
  void aBareStatusIsNoBrokersWord(Code code, String type) {
    BrokerException error = BrokerException.from(code.toStatus().asException());
    assertEquals(type, error.getClass().getSimpleName());
    assertEquals("", error.correlationId());
  }

  @Test
  void whoCancelsACallHearsThatHeDid() {
    Status own = Status.CANCELLED.withCause(new CancellationException("enough"));
    assertInstanceOf(CancelledException.class, BrokerException.from(own.asRuntimeException()));
  }

  @Test
  void theCauseOfAnOutageIsInItsMessage() {
    Status status =
        Status.UNAVAILABLE.withDescription("io exception").withCause(new Exception("refused"));
    assertEquals(
        "no broker answers: io exception: refused",
        BrokerException.from(status.asRuntimeException()).message());
  }
}
