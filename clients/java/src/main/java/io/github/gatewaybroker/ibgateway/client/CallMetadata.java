package io.github.gatewaybroker.ibgateway.client;

import io.grpc.CallOptions;
import io.grpc.Channel;
import io.grpc.ClientCall;
import io.grpc.ClientInterceptor;
import io.grpc.ForwardingClientCall.SimpleForwardingClientCall;
import io.grpc.ForwardingClientCallListener.SimpleForwardingClientCallListener;
import io.grpc.Metadata;
import io.grpc.MethodDescriptor;
import io.grpc.Status;
import java.util.UUID;
import java.util.concurrent.TimeUnit;

/**
 * What goes with each call: the owner, a correlation id, and a deadline if the caller has set none.
 * A {@link Broker} has it; who makes a channel of his own puts it there with {@code
 * ClientInterceptors.intercept} or the channel's builder.
 *
 * <p>Streams get no deadline. Errors of calls that nobody has answered have the correlation id that
 * was sent.
 */
public final class CallMetadata implements ClientInterceptor {
  /** A UUID4 for a call, {@code stub.withOption(CORRELATION_ID, id)}; unless given one is made. */
  public static final CallOptions.Key<String> CORRELATION_ID =
      CallOptions.Key.create("ibgateway-correlation-id");

  static final Metadata.Key<String> CORRELATION_KEY =
      Metadata.Key.of("x-correlation-id", Metadata.ASCII_STRING_MARSHALLER);
  private static final Metadata.Key<String> OWNER_KEY =
      Metadata.Key.of("x-broker-owner", Metadata.ASCII_STRING_MARSHALLER);

  private final String owner;

  /**
   * Makes it.
   *
   * @param owner the name under which sessions are opened, printable ASCII; null leaves it to the
   *     broker: "local", or whom the token or the certificate names
   * @throws IllegalArgumentException if the owner can be no such name
   */
  public CallMetadata(String owner) {
    if (owner != null && !Ascii.isPrintable(owner)) {
      throw new IllegalArgumentException("owner must be a name in printable ASCII");
    }
    this.owner = owner;
  }

  @Override
  public <Q, A> ClientCall<Q, A> interceptCall(
      MethodDescriptor<Q, A> method, CallOptions options, Channel next) {
    CallOptions given = options;
    if (options.getDeadline() == null && method.getType() == MethodDescriptor.MethodType.UNARY) {
      given = options.withDeadlineAfter(Methods.timeout(method).toMillis(), TimeUnit.MILLISECONDS);
    }
    String chosen = options.getOption(CORRELATION_ID);
    String correlationId = chosen == null ? UUID.randomUUID().toString() : chosen;
    return new SimpleForwardingClientCall<>(next.newCall(method, given)) {
      @Override
      public void start(Listener<A> listener, Metadata headers) {
        headers.put(CORRELATION_KEY, correlationId);
        if (owner != null) {
          headers.put(OWNER_KEY, owner);
        }
        super.start(
            new SimpleForwardingClientCallListener<>(listener) {
              @Override
              public void onClose(Status status, Metadata trailers) {
                if (!trailers.containsKey(CORRELATION_KEY)) {
                  trailers.put(CORRELATION_KEY, correlationId);
                }
                super.onClose(status, trailers);
              }
            },
            headers);
      }
    };
  }
}
