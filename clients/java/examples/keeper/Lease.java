package keeper;

import io.github.gatewaybroker.ibgateway.broker.v1.RenewSessionRequest;
import io.github.gatewaybroker.ibgateway.broker.v1.Session;
import io.github.gatewaybroker.ibgateway.broker.v1.SessionServiceGrpc;
import io.github.gatewaybroker.ibgateway.client.Backoff;
import io.github.gatewaybroker.ibgateway.client.Broker;
import io.github.gatewaybroker.ibgateway.client.BrokerClosedException;
import io.github.gatewaybroker.ibgateway.client.CancelledException;
import io.github.gatewaybroker.ibgateway.client.InvalidArgumentException;
import java.lang.System.Logger.Level;
import java.time.Duration;
import java.util.Optional;
import java.util.concurrent.ThreadLocalRandom;

/**
 * Renews the lease of a session at a third of what the broker grants, in a thread of its own, until
 * this is closed. It does not give up before: a broker that restarts takes its sessions up, and
 * their leases begin anew, even one that the broker before it took for ended, if that was not on
 * record yet.
 *
 * <p>That the session has ended is told by its watch; then it is time to close this.
 */
public final class Lease implements AutoCloseable {
  private static final System.Logger LOG = System.getLogger("keeper");
  private static final Backoff BACKOFF = new Backoff(Duration.ofMillis(500), Duration.ofSeconds(5));

  private final Broker broker;
  private final String sessionId;
  private final Thread thread;
  private Duration ttl;

  /** Begins, just after the broker's answer: the lease began with that. */
  public Lease(Broker broker, Session session) {
    this.broker = broker;
    this.sessionId = session.getSessionId();
    this.ttl = ttl(session);
    this.thread = new Thread(this::keep, "lease-" + sessionId);
    this.thread.setDaemon(true);
    this.thread.start();
  }

  /** Ends the thread, and waits for it. The lease runs out unless the session is closed. */
  @Override
  public void close() {
    thread.interrupt();
    try {
      thread.join(Duration.ofSeconds(5).toMillis());
    } catch (InterruptedException interrupt) {
      Thread.currentThread().interrupt();
    }
  }

  private void keep() {
    try {
      Duration wait = third();
      int failures = 0;
      // A session without a lease has nothing to renew.
      while (!ttl.isZero()) {
        broker.pause(wait);
        try {
          ttl = ttl(renew());
          wait = third();
          failures = 0;
        } catch (InvalidArgumentException none) {
          LOG.log(Level.WARNING, "there is no lease to renew any more: {0}", none.getMessage());
          return;
        } catch (BrokerClosedException | CancelledException stop) {
          return;
        } catch (RuntimeException error) {
          // Whatever it is: to give up would end the session.
          LOG.log(
              failures == 0 ? Level.WARNING : Level.DEBUG,
              "a lease could not be renewed; trying again: {0}",
              error.getMessage());
          Duration pause =
              BACKOFF.delay(failures, Optional.empty(), ThreadLocalRandom.current().nextDouble());
          wait = pause.compareTo(third()) < 0 ? pause : third();
          failures++;
        }
      }
    } catch (InterruptedException | BrokerClosedException stop) {
      // As close() wishes, or since nothing can be sent any more.
    }
  }

  private Session renew() {
    RenewSessionRequest request = RenewSessionRequest.newBuilder().setSessionId(sessionId).build();
    return broker
        .call(SessionServiceGrpc.getRenewSessionMethod(), request, patience())
        .getSession();
  }

  private Duration third() {
    return ttl.dividedBy(3);
  }

  /** A part of the lease, so that there is time for another try. */
  private Duration patience() {
    long millis = Math.min(10_000, Math.max(500, third().toMillis()));
    return Duration.ofMillis(millis);
  }

  private static Duration ttl(Session session) {
    return Duration.ofSeconds(session.getLeaseTtl().getSeconds(), session.getLeaseTtl().getNanos());
  }
}
