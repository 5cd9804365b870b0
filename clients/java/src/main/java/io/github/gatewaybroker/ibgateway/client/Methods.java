package io.github.gatewaybroker.ibgateway.client;

import io.github.gatewaybroker.ibgateway.broker.v1.BrokerServiceGrpc;
import io.github.gatewaybroker.ibgateway.broker.v1.DrainGatewayRequest;
import io.github.gatewaybroker.ibgateway.broker.v1.GatewayServiceGrpc;
import io.github.gatewaybroker.ibgateway.broker.v1.OpenSessionRequest;
import io.github.gatewaybroker.ibgateway.broker.v1.SessionServiceGrpc;
import io.grpc.MethodDescriptor;
import java.time.Duration;
import java.util.Map;
import java.util.Set;

/** How long each method may take unless the caller says it, and which may be repeated. */
final class Methods {
  private static final Duration SHORT = Duration.ofSeconds(10);
  private static final Duration DRAIN = Duration.ofSeconds(120);

  /** Those that wait for a Gateway: longer than the broker itself waits for it. */
  private static final Map<MethodDescriptor<?, ?>, Duration> LONG =
      Map.of(
          SessionServiceGrpc.getOpenSessionMethod(), Duration.ofSeconds(300),
          SessionServiceGrpc.getVerifySessionMethod(), Duration.ofSeconds(30),
          SessionServiceGrpc.getCloseSessionMethod(), Duration.ofSeconds(30));

  private static final Set<MethodDescriptor<?, ?>> IDEMPOTENT =
      Set.of(
          SessionServiceGrpc.getCloseSessionMethod(),
          SessionServiceGrpc.getGetSessionMethod(),
          SessionServiceGrpc.getListSessionsMethod(),
          SessionServiceGrpc.getRenewSessionMethod(),
          SessionServiceGrpc.getListSessionEventsMethod(),
          SessionServiceGrpc.getAcknowledgeDataMethod(),
          GatewayServiceGrpc.getListGatewaysMethod(),
          GatewayServiceGrpc.getGetGatewayMethod(),
          BrokerServiceGrpc.getGetBrokerInfoMethod());

  private Methods() {}

  /** How long a method may take, whatever is asked. */
  static Duration timeout(MethodDescriptor<?, ?> method) {
    return LONG.getOrDefault(method, SHORT);
  }

  /** How long a request may take. */
  static Duration timeout(MethodDescriptor<?, ?> method, Object request) {
    return request instanceof DrainGatewayRequest drain && drain.getCloseSessions()
        ? DRAIN
        : timeout(method);
  }

  /** Whether a request may be sent again though nobody knows what became of it. */
  static boolean isIdempotent(MethodDescriptor<?, ?> method, Object request) {
    if (request instanceof OpenSessionRequest open) {
      return !open.getRequestId().isEmpty() || open.getValidateOnly();
    }
    return IDEMPOTENT.contains(method);
  }
}
