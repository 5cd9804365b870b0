package io.github.gatewaybroker.ibgateway.client;

import java.time.Duration;
import java.util.Objects;
import java.util.Optional;

/**
 * Waits that double, up to a limit, and differ from client to client.
 *
 * <p>The wait after the n-th failure in a row, from 0, is between a half and the whole of {@code
 * min(maximum, initial * 2^n)}. If the broker says when to ask again, it is that, and up to a
 * quarter longer: those who were refused together do not return together.
 *
 * @param initial the first wait, at most; above 0
 * @param maximum any wait, unless the broker asks for a longer one; not below initial
 */
public record Backoff(Duration initial, Duration maximum) {
  /** From 0.2 s to 5 s. */
  public static final Backoff DEFAULT = new Backoff(Duration.ofMillis(200), Duration.ofSeconds(5));

  private static final int MOST_DOUBLINGS = 32;

  /**
   * Checks the limits.
   *
   * @param initial the first wait, at most
   * @param maximum any wait, unless the broker asks for a longer one
   * @throws IllegalArgumentException if they contradict each other
   */
  public Backoff {
    Objects.requireNonNull(initial, "initial");
    Objects.requireNonNull(maximum, "maximum");
    if (initial.isNegative() || initial.isZero() || initial.compareTo(maximum) > 0) {
      throw new IllegalArgumentException(
          "0 < initial <= maximum must hold, not " + initial + " and " + maximum);
    }
  }

  /**
   * How long to wait.
   *
   * @param failures how many failures in a row came before this one
   * @param retryAfter what the broker asks for; empty if it does not
   * @param chance a random number, 0 to 1
   * @return the wait; its nanoseconds fit into a long
   */
  public Duration delay(int failures, Optional<Duration> retryAfter, double chance) {
    if (retryAfter.isPresent()) {
      double asked = Math.max(nanos(initial), nanos(retryAfter.get()));
      return Duration.ofNanos((long) (asked * (1 + chance / 4)));
    }
    double doubled = nanos(initial) * Math.pow(2, Math.min(failures, MOST_DOUBLINGS));
    return Duration.ofNanos((long) (Math.min(nanos(maximum), doubled) * (1 + chance) / 2));
  }

  /** As a number that does not overflow. */
  private static double nanos(Duration span) {
    return span.getSeconds() * 1e9 + span.getNano();
  }
}
