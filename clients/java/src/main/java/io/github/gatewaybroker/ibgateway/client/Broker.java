package io.github.gatewaybroker.ibgateway.client;

import io.grpc.CallOptions;
import io.grpc.Channel;
import io.grpc.ChannelCredentials;
import io.grpc.ClientCall;
import io.grpc.ClientInterceptor;
import io.grpc.ClientInterceptors;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.ManagedChannelBuilder;
import io.grpc.MethodDescriptor;
import io.grpc.StatusRuntimeException;
import io.grpc.stub.ClientCalls;
import java.lang.System.Logger.Level;
import java.time.Duration;
import java.time.temporal.ChronoUnit;
import java.util.Objects;
import java.util.UUID;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ThreadLocalRandom;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicBoolean;

/**
 * A connection to a broker: calls with a deadline and typed errors, and a channel for stubs. For
 * any number of threads.
 *
 * <pre>{@code
 * try (Broker broker = Broker.connect("127.0.0.1:50051").owner("momentum").build()) {
 *   Session session =
 *       broker
 *           .call(
 *               SessionServiceGrpc.getGetSessionMethod(),
 *               GetSessionRequest.newBuilder().setSessionId(id).build())
 *           .getSession();
 * }
 * }</pre>
 *
 * <p>It keeps nothing: leases are renewed, and watches resumed, by its user. The example shows how.
 */
public final class Broker implements AutoCloseable {
  private static final System.Logger LOG = System.getLogger("ibgateway.client");

  /** What a try should have left; with less, what is known already says more than its end. */
  private static final Duration LAST_TRY = Duration.ofMillis(100);

  private static final Duration LONGEST = Duration.ofDays(365);
  private static final Duration LEAVE = Duration.ofSeconds(5);

  private final String address;
  private final ManagedChannel connection;
  private final Channel channel;
  private final Backoff backoff;
  private final CountDownLatch closed = new CountDownLatch(1);

  /** Whether the last call had to be repeated: an outage is a warning once. */
  private final AtomicBoolean isTroubled = new AtomicBoolean();

  private Broker(Builder given) {
    this.address = given.address;
    this.backoff = given.backoff;
    this.connection = given.connect();
    this.channel = given.intercept(connection);
  }

  /**
   * Says where the broker is. Nothing is sent before the first call.
   *
   * @param address HOST:PORT
   * @return what else can be said
   * @throws IllegalArgumentException if the address is none
   */
  public static Builder connect(String address) {
    return new Builder(address);
  }

  /**
   * Where the broker is.
   *
   * @return HOST:PORT
   */
  public String address() {
    return address;
  }

  /**
   * For stubs, such as {@code SessionServiceGrpc.newBlockingV2Stub(broker.channel())}: their calls
   * have the owner, the token, a correlation id and a deadline, too. They are not repeated, and
   * {@link BrokerException#from(StatusRuntimeException)} makes typed errors of theirs.
   *
   * @return the channel; it ends with this
   */
  public Channel channel() {
    return channel;
  }

  /**
   * Makes one call, with the default timeout of its method: 10 s, 30 s to verify or close a
   * session, 120 s to drain a gateway of its sessions, 300 s to open a session.
   *
   * @param <Q> the request
   * @param <A> the answer
   * @param method such as {@code SessionServiceGrpc.getGetSessionMethod()}
   * @param request what is asked
   * @return the answer
   * @throws BrokerException if it failed
   */
  public <Q, A> A call(MethodDescriptor<Q, A> method, Q request) {
    return call(method, request, Methods.timeout(method, request));
  }

  /**
   * Makes one call, and repeats it within its timeout where that is safe: every call that the
   * broker could not serve just now and says so with the time to ask again (CIRCUIT_OPEN,
   * GATEWAY_DRAINING, BROKER_DRAINING, STORE_UNAVAILABLE); and, when nobody answers, reads,
   * CloseSession, RenewSession, AcknowledgeData, and OpenSession with a request_id.
   *
   * <p>An interrupt cancels the call, and is left set; what a cancellation means is the method's to
   * say.
   *
   * @param <Q> the request
   * @param <A> the answer
   * @param method such as {@code SessionServiceGrpc.getGetSessionMethod()}
   * @param request what is asked
   * @param timeout for all tries together; above 0
   * @return the answer
   * @throws BrokerException if it failed; of several failures the last, with the one before it
   *     suppressed
   */
  public <Q, A> A call(MethodDescriptor<Q, A> method, Q request, Duration timeout) {
    Duration whole = bounded(timeout);
    long deadline = System.nanoTime() + whole.toNanos();
    boolean idempotent = Methods.isIdempotent(method, request);
    CallOptions options =
        CallOptions.DEFAULT.withOption(CallMetadata.CORRELATION_ID, UUID.randomUUID().toString());
    BrokerException before = null;
    for (int failures = 0; ; failures++) {
      Duration left = Duration.ofNanos(deadline - System.nanoTime());
      try {
        CallOptions within = options.withDeadlineAfter(left.toNanos(), TimeUnit.NANOSECONDS);
        A answer = tryOnce(method, request, within, whole);
        isTroubled.set(false);
        return answer;
      } catch (BrokerException error) {
        Duration delay = delay(error, failures, idempotent);
        Duration rest = Duration.ofNanos(deadline - System.nanoTime()).minus(LAST_TRY);
        if (delay == null || delay.compareTo(rest) >= 0) {
          if (before != null) {
            error.addSuppressed(before);
          }
          throw error;
        }
        before = error;
        Level level = isTroubled.getAndSet(true) ? Level.INFO : Level.WARNING;
        LOG.log(
            level,
            "{0}; trying again in {1}",
            error.getMessage(),
            delay.truncatedTo(ChronoUnit.MILLIS));
        try {
          pause(delay);
        } catch (InterruptedException interrupt) {
          Thread.currentThread().interrupt();
          throw new CancelledException(
              Told.here("the call was cancelled", error.correlationId(), interrupt));
        }
        dialNow();
      }
    }
  }

  /**
   * Ends gRPC's own wait before it dials a broker that it did not find, which grows to two minutes
   * and cannot be configured. For who opens a stream again after a pause of his own; {@link #call}
   * does it.
   */
  public void dialNow() {
    connection.resetConnectBackoff();
  }

  /**
   * Waits, unless this is closed meanwhile.
   *
   * @param delay how long
   * @throws BrokerClosedException if it was closed
   * @throws InterruptedException if the thread was interrupted
   */
  public void pause(Duration delay) throws InterruptedException {
    if (closed.await(bounded(delay).toNanos(), TimeUnit.NANOSECONDS)) {
      throw closedError(null);
    }
  }

  /**
   * Ends every call, for good: with BrokerClosedException those of {@link #call}, with UNAVAILABLE
   * those of stubs. Sessions stay open. Closing twice is no error.
   */
  @Override
  public void close() {
    closed.countDown();
    connection.shutdownNow();
    try {
      connection.awaitTermination(LEAVE.toMillis(), TimeUnit.MILLISECONDS);
    } catch (InterruptedException interrupt) {
      Thread.currentThread().interrupt();
    }
  }

  private <Q, A> A tryOnce(
      MethodDescriptor<Q, A> method, Q request, CallOptions options, Duration timeout) {
    try {
      return ClientCalls.blockingUnaryCall(channel, method, options, request);
    } catch (StatusRuntimeException error) {
      if (closed.getCount() == 0) {
        throw closedError(error);
      }
      throw StatusDecoder.decode(error.getStatus(), error.getTrailers(), error, address, timeout);
    }
  }

  /** How long until a call may be repeated; null if it must not be. */
  private Duration delay(BrokerException error, int failures, boolean idempotent) {
    boolean refused =
        error instanceof CircuitBreakerOpenException
            || error instanceof GatewayDrainingException
            || error instanceof BrokerDrainingException
            || error instanceof StoreUnavailableException;
    boolean unheard =
        error instanceof BrokerUnreachableException && !(error instanceof CallTimeoutException);
    if (backoff == null || !(refused || (unheard && idempotent))) {
      return null;
    }
    return backoff.delay(failures, error.retryAfter(), ThreadLocalRandom.current().nextDouble());
  }

  /** What can be counted in nanoseconds from now on. */
  private static Duration bounded(Duration span) {
    if (span.isNegative()) {
      return Duration.ZERO;
    }
    return span.compareTo(LONGEST) < 0 ? span : LONGEST;
  }

  private BrokerClosedException closedError(Throwable cause) {
    return new BrokerClosedException(
        Told.here("the connection to the broker at " + address + " was closed", "", cause));
  }

  /** How to connect. */
  public static final class Builder {
    private final String address;
    private CallMetadata metadata = new CallMetadata(null);
    private BearerToken token;
    private ChannelCredentials credentials;
    private Backoff backoff = Backoff.DEFAULT;

    private Builder(String address) {
      if (!address.matches("[^/\\s]+:\\d{1,5}") || !isPort(address)) {
        throw new IllegalArgumentException(
            "address must be HOST:PORT, such as \"127.0.0.1:50051\", not \"" + address + "\"");
      }
      this.address = address;
    }

    /** Whether it ends with a number that a port may have: gRPC waits for ever for others. */
    private static boolean isPort(String address) {
      int port = Integer.parseInt(address.substring(address.lastIndexOf(':') + 1));
      return port >= 1 && port <= 65_535;
    }

    /**
     * Under which name sessions are opened.
     *
     * @param name printable ASCII, at most 128 characters; null leaves it to the broker: "local",
     *     or whom the token or the certificate names. A broker that asks for one of these refuses
     *     any other name.
     * @return this
     * @throws IllegalArgumentException if it can be no owner
     */
    public Builder owner(String name) {
      this.metadata = new CallMetadata(name);
      return this;
    }

    /**
     * Shown with each call. It is sent over TLS, or to this machine, and never elsewhere.
     *
     * @param text the token; null shows none
     * @return this
     * @throws IllegalArgumentException if it can be no token
     */
    public Builder token(String text) {
      this.token = text == null ? null : new BearerToken(text);
      return this;
    }

    /**
     * For TLS.
     *
     * @param tls such as {@code TlsChannelCredentials.newBuilder().trustManager(ca).build()}; null
     *     is plain text
     * @return this
     */
    public Builder credentials(ChannelCredentials tls) {
      this.credentials = tls;
      return this;
    }

    /**
     * The waits between repeated calls.
     *
     * @param waits null repeats no call
     * @return this
     */
    public Builder backoff(Backoff waits) {
      this.backoff = waits;
      return this;
    }

    /**
     * Makes the connection.
     *
     * @return the connection, which the caller must close
     * @throws IllegalArgumentException if the token would be sent for everybody to read
     */
    public Broker build() {
      if (token != null && credentials == null && !BearerToken.isLocal(address)) {
        throw new IllegalArgumentException(
            "a token must not be sent to "
                + address
                + " in plain text; give credentials for TLS, such as TlsChannelCredentials");
      }
      return new Broker(this);
    }

    private ManagedChannel connect() {
      ManagedChannelBuilder<?> builder =
          Grpc.newChannelBuilder(
                  address,
                  Objects.requireNonNullElseGet(credentials, InsecureChannelCredentials::create))
              // A broker whose machine has died is noticed within 40 s, also by a call that waits
              // long.
              .keepAliveTime(30, TimeUnit.SECONDS)
              .keepAliveTimeout(10, TimeUnit.SECONDS)
              // Repeating is done here, by what the broker says.
              .disableRetry();
      if (credentials == null && BearerToken.isLocal(address)) {
        // A proxy of the environment is on no way to this machine.
        builder.proxyDetector(target -> null);
      }
      return builder.build();
    }

    private Channel intercept(ManagedChannel connection) {
      if (token == null) {
        return ClientInterceptors.intercept(connection, metadata);
      }
      return ClientInterceptors.intercept(connection, metadata, new Shown(token));
    }
  }

  /** Puts a token on each call of a channel. */
  private record Shown(BearerToken token) implements ClientInterceptor {
    @Override
    public <Q, A> ClientCall<Q, A> interceptCall(
        MethodDescriptor<Q, A> method, CallOptions options, Channel next) {
      return next.newCall(method, options.withCallCredentials(token));
    }
  }
}
