package io.github.gatewaybroker.ibgateway.client;

import com.google.rpc.BadRequest;
import io.github.gatewaybroker.ibgateway.broker.v1.ConnectionFailure;
import java.time.Duration;
import java.util.List;
import java.util.Map;

/** What is known of a call that failed, however it was told. */
record Told(
    String message,
    String reason,
    Map<String, String> metadata,
    Duration retryAfter,
    List<BadRequest.FieldViolation> violations,
    ConnectionFailure failure,
    String correlationId,
    Throwable cause) {

  /** What this library says by itself. */
  static Told here(String message, String correlationId, Throwable cause) {
    return new Told(message, "", Map.of(), null, List.of(), null, correlationId, cause);
  }
}
