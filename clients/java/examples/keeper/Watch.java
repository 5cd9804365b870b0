package keeper;

import io.github.gatewaybroker.ibgateway.broker.v1.Reset;
import io.github.gatewaybroker.ibgateway.broker.v1.Session;
import io.github.gatewaybroker.ibgateway.broker.v1.SessionServiceGrpc;
import io.github.gatewaybroker.ibgateway.broker.v1.WatchSessionsRequest;
import io.github.gatewaybroker.ibgateway.broker.v1.WatchSessionsResponse;
import io.github.gatewaybroker.ibgateway.client.Backoff;
import io.github.gatewaybroker.ibgateway.client.Broker;
import io.github.gatewaybroker.ibgateway.client.BrokerException;
import io.github.gatewaybroker.ibgateway.client.BrokerUnreachableException;
import io.github.gatewaybroker.ibgateway.client.GatewayNotFoundException;
import io.github.gatewaybroker.ibgateway.client.InvalidArgumentException;
import io.github.gatewaybroker.ibgateway.client.PermissionDeniedException;
import io.github.gatewaybroker.ibgateway.client.UnauthenticatedException;
import io.github.gatewaybroker.ibgateway.client.UnexpectedAnswerException;
import io.github.gatewaybroker.ibgateway.client.WatchGapException;
import io.grpc.Channel;
import io.grpc.ClientInterceptors;
import io.grpc.Metadata;
import io.grpc.Status;
import io.grpc.StatusException;
import io.grpc.stub.BlockingClientCall;
import io.grpc.stub.MetadataUtils;
import java.time.Duration;
import java.util.Map;
import java.util.Optional;
import java.util.Set;
import java.util.concurrent.ThreadLocalRandom;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import java.util.concurrent.atomic.AtomicReference;

/**
 * A watch that outlives its streams. Whenever its stream is lost it tells Interrupted, resumes
 * where it was, and tells Resumed: nothing is lost and nothing comes twice, but for events that are
 * not persisted.
 *
 * <p>It has no thread: everything happens in {@link #next}, which one thread calls at a time.
 * gRPC's flow control is what holds back a broker that tells faster than that.
 */
public final class Watch implements AutoCloseable {
  /** Three times the interval at which a broker says that nothing has happened. */
  public static final Duration SILENCE = Duration.ofSeconds(30);

  /** For spans without end: those that are added to System.nanoTime() must not overflow. */
  private static final Duration LONGEST = Duration.ofDays(365);

  /** A wait that is told though its cause was. */
  private static final Duration LONG_WAIT = Duration.ofSeconds(30);

  /** Longer than this nobody waits, whatever a broker asks for. */
  private static final Duration LONGEST_WAIT = Duration.ofHours(1);

  /** A stream that has lived for so long counts as one that works. */
  private static final Duration STEADY = Duration.ofSeconds(10);

  /** A broker that cannot serve a stream says so right after it has answered it. */
  private static final Duration SETTLED = Duration.ofMillis(500);

  /** Statuses, not of a broker's own making, that no wait will change. */
  private static final Set<Status.Code> REFUSALS =
      Set.of(
          Status.Code.UNIMPLEMENTED,
          Status.Code.UNAUTHENTICATED,
          Status.Code.PERMISSION_DENIED,
          Status.Code.INVALID_ARGUMENT,
          Status.Code.NOT_FOUND);

  private final Broker broker;
  private final WatchSessionsRequest wanted;
  private final Duration silence;
  private final Continuity continuity;

  private BlockingClientCall<?, WatchSessionsResponse> stream;
  private AtomicReference<Metadata> headers = new AtomicReference<>();
  private boolean isClosed;

  /** Why there is no stream; null if there is one. */
  private BrokerException lost;

  /** Read already, but not told: something else must be told before it. */
  private WatchSessionsResponse held;

  private boolean halfSnapshot;
  private int failures;
  // By System.nanoTime().
  private long openedAt;
  private long retryAt = System.nanoTime();
  private long heardAt;

  /** Watches what a request says, from its token on. */
  public Watch(Broker broker, WatchSessionsRequest wanted) {
    this(broker, wanted, SILENCE);
  }

  /** Watches, and takes a stream for dead that says nothing for so long. */
  public Watch(Broker broker, WatchSessionsRequest wanted, Duration silence) {
    this.broker = broker;
    this.wanted = wanted;
    this.silence = shorter(silence, LONGEST);
    this.continuity = new Continuity(wanted);
  }

  /** The sessions that match, by id, as of the last item that was told. */
  public Map<String, Session> sessions() {
    return continuity.sessions();
  }

  /** Where another watch would continue after the last item that was told. */
  public String token() {
    return continuity.token();
  }

  /**
   * The next item.
   *
   * @param within how long to wait for it
   * @return empty if there was none within that time; it is not lost
   * @throws InterruptedException if the thread was interrupted; no item is lost
   * @throws WatchGapException if the stream is not complete
   * @throws BrokerException if the watch is refused, now and for ever: its filter or token is
   *     wrong, or the caller is not, or no longer, known; or the broker's connection was closed
   */
  public Optional<Item> next(Duration within) throws InterruptedException {
    long deadline = System.nanoTime() + shorter(within, LONGEST).toNanos();
    while (!isClosed) {
      Optional<Item> item;
      try {
        item = step(deadline);
      } catch (BrokerException error) {
        close();
        throw error;
      }
      if (item.isPresent() || deadline - System.nanoTime() <= 0) {
        return item;
      }
    }
    throw new IllegalStateException("this watch has ended");
  }

  /** Ends the stream. Called by the thread that calls next. */
  @Override
  public void close() {
    isClosed = true;
    drop();
  }

  /** One thing at a time: open the stream, or take a message of it, or lose it. */
  private Optional<Item> step(long deadline) throws InterruptedException {
    if (stream == null) {
      open(deadline);
      return Optional.empty();
    }
    try {
      if (held == null) {
        held = read(deadline);
      }
    } catch (BrokerException error) {
      return lose(error);
    }
    if (lost != null && (held != null || isSettled())) {
      lost = null;
      return Optional.of(new Item.Resumed(continuity.token()));
    }
    if (held == null) {
      return Optional.empty();
    }
    WatchSessionsResponse message = held;
    if (halfSnapshot) {
      halfSnapshot = false;
      message =
          WatchSessionsResponse.newBuilder()
              .setReset(Reset.newBuilder().setReason("SNAPSHOT_INCOMPLETE"))
              .build();
    } else {
      held = null;
    }
    continuity.accept(message);
    return Optional.of(new Item.Told(message, continuity.token()));
  }

  private void open(long deadline) throws InterruptedException {
    long now = System.nanoTime();
    long wait = Math.min(retryAt - now, deadline - now);
    if (wait > 0) {
      broker.pause(Duration.ofNanos(wait).plusMillis(1));
    }
    if (retryAt - System.nanoTime() > 0) {
      return;
    }
    halfSnapshot |= continuity.begin();
    headers = new AtomicReference<>();
    Channel channel =
        ClientInterceptors.intercept(
            broker.channel(),
            MetadataUtils.newCaptureMetadataInterceptor(headers, new AtomicReference<>()));
    broker.dialNow();
    openedAt = System.nanoTime();
    heardAt = openedAt;
    stream =
        SessionServiceGrpc.newBlockingV2Stub(channel)
            .watchSessions(wanted.toBuilder().setResumeToken(continuity.token()).build());
  }

  /**
   * The next message; null if none came in time, or if it is to be seen whether the stream has
   * settled.
   */
  private WatchSessionsResponse read(long deadline) throws InterruptedException {
    long now = System.nanoTime();
    long until = Math.min(deadline - now, heardAt + silence.toNanos() - now);
    if (lost != null) {
      until = Math.min(until, SETTLED.toNanos());
    }
    try {
      WatchSessionsResponse message = stream.read(Math.max(until, 0), TimeUnit.NANOSECONDS);
      heardAt = System.nanoTime();
      if (message == null) {
        // It has ended well: the broker stops.
        throw BrokerUnreachableException.lostStream(
            "the broker at " + broker.address() + " has ended the stream");
      }
      return message;
    } catch (TimeoutException quiet) {
      if (System.nanoTime() - heardAt >= silence.toNanos()) {
        throw BrokerUnreachableException.lostStream(
            "the broker at " + broker.address() + " has sent nothing for " + silence);
      }
      return null;
    } catch (StatusException error) {
      throw BrokerException.from(error);
    }
  }

  /** Whether the broker has answered the stream, and not refused it right after that. */
  private boolean isSettled() {
    return headers.get() != null && System.nanoTime() - openedAt >= SETTLED.toNanos();
  }

  /** The stream is lost: say so, unless that was said, and decide when to try again. */
  private Optional<Item> lose(BrokerException error) throws InterruptedException {
    // Before anything has changed: after an interrupt the next call is told of the same loss.
    broker.pause(Duration.ZERO);
    drop();
    if (isRefusal(error)) {
      throw error;
    }
    long now = System.nanoTime();
    if (headers.get() != null && now - openedAt > STEADY.toNanos()) {
      failures = 0;
    }
    Duration delay =
        Backoff.DEFAULT.delay(
            failures, error.retryAfter(), ThreadLocalRandom.current().nextDouble());
    delay = shorter(delay, LONGEST_WAIT);
    failures++;
    retryAt = now + delay.toNanos();
    BrokerException told = lost;
    lost = error;
    if (told != null
        && told.getClass() == error.getClass()
        && told.reason().equals(error.reason())
        && delay.compareTo(LONG_WAIT) <= 0) {
      return Optional.empty();
    }
    return Optional.of(new Item.Interrupted(error, delay, continuity.token()));
  }

  private void drop() {
    if (stream != null) {
      stream.cancel("the watch has dropped this stream", null);
      stream = null;
    }
    held = null;
  }

  private static Duration shorter(Duration one, Duration other) {
    return one.compareTo(other) < 0 ? one : other;
  }

  private static boolean isRefusal(BrokerException error) {
    if (error instanceof UnexpectedAnswerException unexpected) {
      return REFUSALS.contains(unexpected.code());
    }
    return error instanceof InvalidArgumentException
        || error instanceof GatewayNotFoundException
        || error instanceof UnauthenticatedException
        || error instanceof PermissionDeniedException;
  }
}
