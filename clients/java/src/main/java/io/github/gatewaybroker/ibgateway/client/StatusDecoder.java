package io.github.gatewaybroker.ibgateway.client;

import com.google.protobuf.Any;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.rpc.BadRequest;
import com.google.rpc.ErrorInfo;
import com.google.rpc.RetryInfo;
import io.github.gatewaybroker.ibgateway.broker.v1.ConnectionFailure;
import io.grpc.Context;
import io.grpc.Metadata;
import io.grpc.Status;
import java.time.Duration;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.Optional;
import java.util.concurrent.CancellationException;
import java.util.function.Function;
import java.util.stream.Collectors;
import java.util.stream.Stream;

/**
 * From the status of a call to an error; nowhere else.
 *
 * <p>The broker packs a {@code google.rpc.Status} into the trailing metadata. An error without our
 * ErrorInfo in it does not come from a broker.
 */
final class StatusDecoder {
  private static final String DOMAIN = "ibgateway.broker.v1";

  /** Seconds that google.protobuf.Duration may have. */
  private static final long LONGEST = 315_576_000_000L;

  private static final Metadata.Key<byte[]> DETAILS =
      Metadata.Key.of("grpc-status-details-bin", Metadata.BINARY_BYTE_MARSHALLER);

  private static final Map<String, Function<Told, BrokerException>> ERRORS =
      Map.ofEntries(
          Map.entry("IB_CONN_001", GatewayConnectionException::new),
          Map.entry("IB_CONN_002", ClientIdInUseException::new),
          Map.entry("IB_CONN_003", GatewayTimeoutException::new),
          Map.entry("IB_CONN_004", NetworkUnreachableException::new),
          Map.entry("IB_CONN_005", AuthenticationException::new),
          Map.entry("IB_CONN_006", IncompatibleVersionException::new),
          Map.entry("INVALID_ARGUMENT", InvalidArgumentException::new),
          Map.entry("SESSION_NOT_FOUND", SessionNotFoundException::new),
          Map.entry("GATEWAY_NOT_FOUND", GatewayNotFoundException::new),
          Map.entry("REQUEST_ID_REUSED", RequestIdReusedException::new),
          Map.entry("SESSION_CLOSED", SessionEndedException::new),
          Map.entry("SESSION_NOT_CONNECTED", SessionNotConnectedException::new),
          Map.entry("SESSION_LIMIT", SessionLimitException::new),
          Map.entry("CLIENT_IDS_EXHAUSTED", ClientIdsExhaustedException::new),
          Map.entry("UNAUTHENTICATED", UnauthenticatedException::new),
          Map.entry("PERMISSION_DENIED", PermissionDeniedException::new),
          Map.entry("SLOW_CONSUMER", SlowConsumerException::new),
          Map.entry("CIRCUIT_OPEN", CircuitBreakerOpenException::new),
          Map.entry("GATEWAY_DRAINING", GatewayDrainingException::new),
          Map.entry("BROKER_DRAINING", BrokerDrainingException::new),
          Map.entry("STORE_UNAVAILABLE", StoreUnavailableException::new),
          Map.entry("INTERNAL", BrokerInternalException::new));

  private StatusDecoder() {}

  /**
   * What the end of a call means.
   *
   * @param trailers may be null
   * @param cause what the stub threw
   * @param address whom was asked, for the message; null if that is unknown
   * @param timeout what the caller gave it; null if that is unknown
   */
  static BrokerException decode(
      Status status, Metadata trailers, Throwable cause, String address, Duration timeout) {
    Metadata sent = trailers == null ? new Metadata() : trailers;
    String correlationId = Optional.ofNullable(sent.get(CallMetadata.CORRELATION_KEY)).orElse("");
    String said = Optional.ofNullable(status.getDescription()).orElse("");
    return ours(sent.get(DETAILS), said, correlationId, cause)
        .orElseGet(() -> foreign(status, said, correlationId, cause, address, timeout));
  }

  private static Optional<BrokerException> ours(
      byte[] packed, String said, String correlationId, Throwable cause) {
    if (packed == null) {
      return Optional.empty();
    }
    ErrorInfo info = ErrorInfo.getDefaultInstance();
    BadRequest bad = BadRequest.getDefaultInstance();
    Duration retryAfter = null;
    ConnectionFailure failure = null;
    try {
      for (Any detail : com.google.rpc.Status.parseFrom(packed).getDetailsList()) {
        if (detail.is(ErrorInfo.class)) {
          info = detail.unpack(ErrorInfo.class);
        } else if (detail.is(BadRequest.class)) {
          bad = detail.unpack(BadRequest.class);
        } else if (detail.is(RetryInfo.class)) {
          retryAfter = delay(detail.unpack(RetryInfo.class));
        } else if (detail.is(ConnectionFailure.class)) {
          failure = detail.unpack(ConnectionFailure.class);
        }
      }
    } catch (InvalidProtocolBufferException broken) {
      return Optional.empty();
    }
    if (!info.getDomain().equals(DOMAIN)) {
      return Optional.empty();
    }
    if (failure == null) {
      failure = ConnectionFailure.newBuilder().setReason(info.getReason()).setMessage(said).build();
    }
    Told told =
        new Told(
            said,
            info.getReason(),
            Map.copyOf(info.getMetadataMap()),
            retryAfter,
            List.copyOf(bad.getFieldViolationsList()),
            failure,
            correlationId,
            cause);
    return Optional.of(
        ERRORS
            .getOrDefault(told.reason(), unknown -> new BrokerException(unknown, "", false))
            .apply(told));
  }

  private static Duration delay(RetryInfo info) {
    com.google.protobuf.Duration told = info.getRetryDelay();
    long seconds = Math.min(Math.max(told.getSeconds(), 0), LONGEST);
    return Duration.ofSeconds(seconds, Math.max(told.getNanos(), 0));
  }

  private static BrokerException foreign(
      Status status,
      String said,
      String correlationId,
      Throwable cause,
      String address,
      Duration timeout) {
    switch (status.getCode()) {
      case DEADLINE_EXCEEDED:
        String within = timeout == null ? "in time" : "within " + timeout.toMillis() + " ms";
        return new CallTimeoutException(
            Told.here(
                "the broker" + at(address) + " has not answered " + within, correlationId, cause));
      case CANCELLED:
        if (isOwnWish(status)) {
          return new CancelledException(
              Told.here("the call was cancelled: " + said, correlationId, cause));
        }
        // A server that has too many calls waiting, and proxies, end a call with a bare CANCELLED.
        return unreachable(status, correlationId, cause, address);
      case UNAVAILABLE:
        return unreachable(status, correlationId, cause, address);
      default:
        return new UnexpectedAnswerException(
            Told.here(
                "what listens" + at(address) + " answered " + status.getCode() + ": " + said,
                correlationId,
                cause),
            status.getCode());
    }
  }

  /** Whether it is this program that has cancelled the call. */
  private static boolean isOwnWish(Status status) {
    return status.getCause() instanceof InterruptedException
        || status.getCause() instanceof CancellationException
        || Context.current().isCancelled();
  }

  private static BrokerException unreachable(
      Status status, String correlationId, Throwable cause, String address) {
    // gRPC says "io exception", and only its cause what it was.
    String said =
        Stream.of(status.getDescription(), status.getCause())
            .filter(Objects::nonNull)
            .map(why -> why instanceof Throwable thrown ? thrown.getMessage() : why.toString())
            .filter(Objects::nonNull)
            .collect(Collectors.joining(": "));
    return new BrokerUnreachableException(
        Told.here("no broker answers" + at(address) + ": " + said, correlationId, cause));
  }

  private static String at(String address) {
    return address == null ? "" : " at " + address;
  }
}
