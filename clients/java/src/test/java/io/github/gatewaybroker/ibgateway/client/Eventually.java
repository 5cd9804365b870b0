package io.github.gatewaybroker.ibgateway.client;

import static org.junit.jupiter.api.Assertions.fail;

import java.util.concurrent.TimeUnit;
import java.util.function.BooleanSupplier;

/** Waits until something is so. */
public final class Eventually {
  private Eventually() {}

  /** Fails if it is not so within 30 s. */
  public static void holds(BooleanSupplier condition) throws InterruptedException {
    for (int tries = 0; tries < 3_000; tries++) {
      if (condition.getAsBoolean()) {
        return;
      }
      TimeUnit.MILLISECONDS.sleep(10);
    }
    fail("it is not so, after 30 s");
  }
}
