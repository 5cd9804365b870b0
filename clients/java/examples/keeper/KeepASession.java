package keeper;

import com.google.protobuf.Duration;
import io.github.gatewaybroker.ibgateway.broker.v1.ClientIdPolicy;
import io.github.gatewaybroker.ibgateway.broker.v1.CloseSessionRequest;
import io.github.gatewaybroker.ibgateway.broker.v1.OpenSessionRequest;
import io.github.gatewaybroker.ibgateway.broker.v1.Session;
import io.github.gatewaybroker.ibgateway.broker.v1.SessionEvent;
import io.github.gatewaybroker.ibgateway.broker.v1.SessionServiceGrpc;
import io.github.gatewaybroker.ibgateway.broker.v1.WatchSessionsRequest;
import io.github.gatewaybroker.ibgateway.broker.v1.WatchSessionsResponse;
import io.github.gatewaybroker.ibgateway.client.AuthenticationException;
import io.github.gatewaybroker.ibgateway.client.Broker;
import io.github.gatewaybroker.ibgateway.client.BrokerException;
import io.github.gatewaybroker.ibgateway.client.BrokerUnreachableException;
import io.github.gatewaybroker.ibgateway.client.CancelledException;
import io.github.gatewaybroker.ibgateway.client.CircuitBreakerOpenException;
import io.github.gatewaybroker.ibgateway.client.ClientIdInUseException;
import io.github.gatewaybroker.ibgateway.client.ClientIdsExhaustedException;
import io.github.gatewaybroker.ibgateway.client.GatewayDrainingException;
import io.github.gatewaybroker.ibgateway.client.GatewayException;
import io.github.gatewaybroker.ibgateway.client.GatewayNotFoundException;
import io.github.gatewaybroker.ibgateway.client.IncompatibleVersionException;
import io.github.gatewaybroker.ibgateway.client.InvalidArgumentException;
import io.github.gatewaybroker.ibgateway.client.PermissionDeniedException;
import io.github.gatewaybroker.ibgateway.client.RequestIdReusedException;
import io.github.gatewaybroker.ibgateway.client.SessionEndedException;
import io.github.gatewaybroker.ibgateway.client.SessionLimitException;
import io.github.gatewaybroker.ibgateway.client.UnauthenticatedException;
import io.github.gatewaybroker.ibgateway.client.WatchGapException;
import java.io.IOException;
import java.nio.file.Path;
import java.util.concurrent.atomic.AtomicInteger;

/**
 * Opens a session, keeps it, and says whatever happens to it. Ctrl-C closes it.
 *
 * <pre>KeepASession 127.0.0.1:50051 keeper.properties</pre>
 *
 * <p>When the process dies instead, the session lives until its lease runs out, and the next run
 * finds it by its request_id and continues to watch after the last item that was handled.
 */
public final class KeepASession {
  private static final int CLIENT_ID = 11;
  private static final java.time.Duration A_WHILE = java.time.Duration.ofMinutes(1);
  private static final java.time.Duration LEAVE = java.time.Duration.ofSeconds(15);

  private final Broker broker;
  private final StateFile state;

  private KeepASession(Broker broker, StateFile state) {
    this.broker = broker;
    this.state = state;
  }

  /** Runs until Ctrl-C, which is no error, or until the session cannot be kept, which is one. */
  public static void main(String[] arguments) throws IOException {
    if (arguments.length != 2) {
      System.err.println("usage: KeepASession HOST:PORT FILE");
      System.exit(2);
    }
    AtomicInteger exit = new AtomicInteger(1);
    Thread main = Thread.currentThread();
    // Whether Ctrl-C or the end of main has brought us here: wait until main has closed the
    // session,
    // and end with its word instead of the 130 of an interrupt.
    Thread last =
        new Thread(
            () -> {
              main.interrupt();
              try {
                main.join(LEAVE.plusSeconds(5).toMillis());
              } catch (InterruptedException impatient) {
                // Nothing is left to wait for.
              }
              Runtime.getRuntime().halt(exit.get());
            });
    StateFile state = new StateFile(Path.of(arguments[1]));
    Runtime.getRuntime().addShutdownHook(last);
    try (Broker broker = Broker.connect(arguments[0]).owner("example").build()) {
      new KeepASession(broker, state).run();
    } catch (InterruptedException | CancelledException wish) {
      say("stopped");
      exit.set(0);
    } catch (BrokerException error) {
      say(whoActs(error) + ": " + error.getMessage());
    }
  }

  /** Who can do something about an error that no repetition has mended. */
  static String whoActs(BrokerException error) {
    if (error instanceof ClientIdInUseException) {
      return "another program has the client id";
    }
    if (error instanceof AuthenticationException || error instanceof IncompatibleVersionException) {
      return "a human must act at the Gateway, no retry will help";
    }
    if (error instanceof GatewayException gateway) {
      return "the Gateway is away (" + gateway.phase() + "); the broker has tried for us";
    }
    if (error instanceof CircuitBreakerOpenException || error instanceof GatewayDrainingException) {
      return "not now, and it was so for as long as we could wait";
    }
    if (error instanceof SessionLimitException || error instanceof ClientIdsExhaustedException) {
      return "nothing is free, close something";
    }
    if (error instanceof InvalidArgumentException
        || error instanceof GatewayNotFoundException
        || error instanceof RequestIdReusedException) {
      return "this program, or its configuration, is wrong";
    }
    if (error instanceof UnauthenticatedException || error instanceof PermissionDeniedException) {
      return "ask whoever gives out tokens and roles";
    }
    if (error instanceof SessionEndedException) {
      return "somebody else has ended it";
    }
    if (error instanceof BrokerUnreachableException) {
      return "no broker answers; whether it has done anything is unknown";
    }
    return error.retryable() ? "try again later" : "see the broker's log";
  }

  @SuppressWarnings("try") // a lease is held, not used
  private void run() throws IOException, InterruptedException {
    Session session = open();
    say("client id " + session.getClientId() + ", accounts " + session.getAccountsList());
    try (Lease lease = new Lease(broker, session)) {
      follow(session);
    } catch (InterruptedException | CancelledException wish) {
      close(session);
      throw wish;
    } catch (SessionEndedException ended) {
      state.forgetRequest();
      throw ended;
    }
    // After any other error the session stays: the next run takes it up, or its lease runs out.
  }

  /** Opens the session, or takes up that of the run before. */
  private Session open() throws IOException {
    Session session = ask(state.requestId());
    if (Continuity.isFinal(session.getState())) {
      // It has ended while nobody was here.
      state.forgetRequest();
      session = ask(state.requestId());
    }
    return session;
  }

  private Session ask(String requestId) {
    OpenSessionRequest request =
        OpenSessionRequest.newBuilder()
            .setClientId(CLIENT_ID)
            // Orders belong to the id: rather none than another.
            .setClientIdPolicy(ClientIdPolicy.CLIENT_ID_POLICY_EXACT)
            .putLabels("desk", "fx")
            .setLeaseTtl(Duration.newBuilder().setSeconds(60))
            .setRequestId(requestId)
            .build();
    return broker.call(SessionServiceGrpc.getOpenSessionMethod(), request).getSession();
  }

  /** Watches the session until it ends. */
  private void follow(Session session) throws IOException, InterruptedException {
    while (true) {
      WatchSessionsRequest wanted =
          WatchSessionsRequest.newBuilder()
              .addSessionIds(session.getSessionId())
              .setIncludeFinal(true)
              .setResumeToken(state.token())
              .build();
      try (Watch watch = new Watch(broker, wanted)) {
        while (true) {
          Item item = watch.next(A_WHILE).orElse(null);
          if (item != null) {
            handle(item, watch, session);
            // After the item was handled: what was not is told again after a crash.
            state.keepToken(item.token());
          }
        }
      } catch (WatchGapException gap) {
        say("report this: " + gap.getMessage());
        state.keepToken("");
        broker.pause(java.time.Duration.ofSeconds(1));
      }
    }
  }

  private static void handle(Item item, Watch watch, Session session) {
    if (item instanceof Item.Told told) {
      handle(told.message(), watch, session);
    } else if (item instanceof Item.Interrupted interrupted) {
      say("nothing is known for now, do not trade: " + interrupted.error().getMessage());
    } else {
      say("the watch has resumed");
    }
  }

  private static void handle(WatchSessionsResponse message, Watch watch, Session session) {
    String id = session.getSessionId();
    switch (message.getMessageCase()) {
      case SNAPSHOT -> tell(message.getSnapshot(), "now");
      case EVENT -> tell(message.getEvent().getSession(), what(message.getEvent()));
      case RESET -> say("what was known is void: " + message.getReset().getReason());
      case DRAINING -> say("the broker is about to stop");
      case SNAPSHOT_COMPLETE -> {
        Session seen = watch.sessions().get(id);
        if (seen == null) {
          // The broker has no record of it.
          throw SessionEndedException.of(Session.newBuilder().setSessionId(id).build());
        }
        endIfFinal(seen);
      }
      default -> {
        // A bookmark: nothing has happened.
      }
    }
    if (message.hasEvent() && message.getEvent().getPersisted()) {
      endIfFinal(message.getEvent().getSession());
    }
  }

  private static void endIfFinal(Session session) {
    if (Continuity.isFinal(session.getState())) {
      throw SessionEndedException.of(session);
    }
  }

  private static String what(SessionEvent event) {
    return switch (event.getChangeCase()) {
      case TRANSITION -> event.getTransition().getReason();
      case ATTEMPT -> "not yet: " + event.getAttempt().getFailure().getMessage();
      case CONDITION ->
          event.getCondition().getType()
              + " "
              + event.getCondition().getStatus()
              + " "
              + event.getCondition().getMessage();
      case NOTICE -> event.getNotice().getMessage();
      case UPDATED -> "changed by " + event.getUpdated().getActor();
      case CHANGE_NOT_SET -> "something that this program does not know";
    };
  }

  private static void tell(Session session, String why) {
    say(session.getState().name().replace("SESSION_STATE_", "") + ": " + why);
  }

  private void close(Session session) throws IOException {
    // The wish to stop is no wish to leave the session behind.
    Thread.interrupted();
    try {
      CloseSessionRequest request =
          CloseSessionRequest.newBuilder()
              .setSessionId(session.getSessionId())
              .setReason("stopped")
              .build();
      broker.call(SessionServiceGrpc.getCloseSessionMethod(), request, LEAVE);
      state.forgetRequest();
      say("closed");
    } catch (BrokerException error) {
      say("not closed, it ends with its lease: " + error.getMessage());
    }
  }

  private static void say(String text) {
    System.out.println(text);
  }
}
