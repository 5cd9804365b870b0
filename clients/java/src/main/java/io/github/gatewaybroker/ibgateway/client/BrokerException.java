package io.github.gatewaybroker.ibgateway.client;

import io.grpc.StatusException;
import io.grpc.StatusRuntimeException;
import java.time.Duration;
import java.util.Map;
import java.util.Optional;

/**
 * A call to the broker failed. The subclasses say how:
 *
 * <pre>
 * BrokerException
 * ├── GatewayException                    a connection to IB Gateway failed; failure() says more
 * │   ├── GatewayConnectionException      IB_CONN_001  refused, reset, closed by the Gateway
 * │   ├── ClientIdInUseException          IB_CONN_002  error 326, or the broker holds the id
 * │   ├── GatewayTimeoutException         IB_CONN_003  silence
 * │   ├── NetworkUnreachableException     IB_CONN_004  no route, no such host
 * │   ├── AuthenticationException         IB_CONN_005  a human must act at the Gateway
 * │   └── IncompatibleVersionException    IB_CONN_006  the Gateway is too old
 * ├── InvalidArgumentException            a field is wrong; violations() says which
 * ├── SessionNotFoundException            no such session
 * ├── GatewayNotFoundException            no such gateway
 * ├── RequestIdReusedException            the request_id belongs to another open
 * ├── SessionEndedException               the session is over
 * ├── SessionNotConnectedException        the session has no link now
 * ├── SessionLimitException               all sessions are in use
 * ├── ClientIdsExhaustedException         the gateway's pool of client ids is empty
 * ├── UnauthenticatedException            the broker does not know who calls
 * ├── PermissionDeniedException           the caller may not do this
 * ├── SlowConsumerException               a watcher read too slowly
 * ├── CircuitBreakerOpenException         the gateway has failed repeatedly
 * ├── GatewayDrainingException            an operator takes the gateway out of use
 * ├── BrokerDrainingException             the broker stops
 * ├── StoreUnavailableException           the broker's database is away
 * ├── BrokerInternalException             the broker erred
 * ├── BrokerUnreachableException          no answer at all
 * │   └── CallTimeoutException            no answer within the time given
 * ├── UnexpectedAnswerException           what answers is no gateway-broker, or an older one
 * ├── WatchGapException                   a watch has proof that an event is missing
 * ├── CancelledException                  this program has cancelled the call
 * └── BrokerClosedException               the call was made, or cut, when the Broker was closed
 * </pre>
 *
 * <p>A reason that this library does not know, of a newer broker, is a plain BrokerException.
 */
public class BrokerException extends RuntimeException {
  private final Told told;
  private final String hint;
  private final boolean retryable;

  BrokerException(Told told, String hint, boolean retryable) {
    super(told.message(), told.cause());
    this.told = told;
    this.hint = hint;
    this.retryable = retryable;
  }

  /**
   * What the end of a call of a bare stub means.
   *
   * @param error what a blocking or asynchronous stub gave
   * @return the error, with the given one as its cause
   */
  public static BrokerException from(StatusRuntimeException error) {
    return StatusDecoder.decode(error.getStatus(), error.getTrailers(), error, null, null);
  }

  /**
   * What the end of a call of a bare stub means.
   *
   * @param error what a stub of the kind BlockingV2 gave
   * @return the error, with the given one as its cause
   */
  public static BrokerException from(StatusException error) {
    return StatusDecoder.decode(error.getStatus(), error.getTrailers(), error, null, null);
  }

  /**
   * What the broker calls it: an ErrorReason without its prefix.
   *
   * @return the reason; empty if it is not the broker that says so
   */
  public String reason() {
    return told.reason();
  }

  /**
   * What happened, without what {@link #getMessage} adds.
   *
   * @return a sentence for people
   */
  public String message() {
    return told.message();
  }

  /**
   * What to do about it, and who must.
   *
   * @return a sentence for people; may be empty
   */
  public String hint() {
    return hint;
  }

  /**
   * Every dynamic part of the message, for machines.
   *
   * @return as docs/errors.md has it
   */
  public Map<String, String> metadata() {
    return told.metadata();
  }

  /**
   * Whether the same request may succeed later without anybody's help.
   *
   * @return true if it may
   */
  public boolean retryable() {
    return retryable;
  }

  /**
   * How long to wait until the same request may succeed.
   *
   * @return empty if the broker did not say
   */
  public Optional<Duration> retryAfter() {
    return Optional.ofNullable(told.retryAfter());
  }

  /**
   * What to look for in the broker's log and events.
   *
   * @return a UUID4; empty if nothing was sent
   */
  public String correlationId() {
    return told.correlationId();
  }

  /** The reason, the message, the hint and the correlation id in one line. */
  @Override
  public String getMessage() {
    String text = reason().isEmpty() ? message() : reason() + ": " + message();
    if (!hint.isEmpty()) {
      text = (text.endsWith(".") ? text : text + ".") + " Hint: " + hint;
    }
    return correlationId().isEmpty() ? text : text + " (correlation id " + correlationId() + ")";
  }
}
