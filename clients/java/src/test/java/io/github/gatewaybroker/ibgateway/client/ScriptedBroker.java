package io.github.gatewaybroker.ibgateway.client;

import static org.junit.jupiter.api.Assertions.assertInstanceOf;

import io.github.gatewaybroker.ibgateway.broker.v1.CloseSessionRequest;
import io.github.gatewaybroker.ibgateway.broker.v1.CloseSessionResponse;
import io.github.gatewaybroker.ibgateway.broker.v1.GetSessionRequest;
import io.github.gatewaybroker.ibgateway.broker.v1.GetSessionResponse;
import io.github.gatewaybroker.ibgateway.broker.v1.OpenSessionRequest;
import io.github.gatewaybroker.ibgateway.broker.v1.OpenSessionResponse;
import io.github.gatewaybroker.ibgateway.broker.v1.RenewSessionRequest;
import io.github.gatewaybroker.ibgateway.broker.v1.RenewSessionResponse;
import io.github.gatewaybroker.ibgateway.broker.v1.SessionServiceGrpc;
import io.github.gatewaybroker.ibgateway.broker.v1.VerifySessionRequest;
import io.github.gatewaybroker.ibgateway.broker.v1.VerifySessionResponse;
import io.github.gatewaybroker.ibgateway.broker.v1.WatchSessionsRequest;
import io.github.gatewaybroker.ibgateway.broker.v1.WatchSessionsResponse;
import io.grpc.Context;
import io.grpc.Contexts;
import io.grpc.Deadline;
import io.grpc.ForwardingServerCall.SimpleForwardingServerCall;
import io.grpc.Metadata;
import io.grpc.Server;
import io.grpc.ServerCall;
import io.grpc.ServerCallHandler;
import io.grpc.ServerInterceptor;
import io.grpc.netty.shaded.io.grpc.netty.NettyServerBuilder;
import io.grpc.stub.ServerCallStreamObserver;
import io.grpc.stub.StreamObserver;
import java.io.IOException;
import java.net.BindException;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.util.List;
import java.util.concurrent.ConcurrentLinkedDeque;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.concurrent.ThreadLocalRandom;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.function.Consumer;

/**
 * A peer on a real socket that answers as a test says. It speaks the contract; it is no broker.
 * Each answer is for one call, the last one for all that follow.
 */
public final class ScriptedBroker implements AutoCloseable {
  /** A call that came. */
  public record Asked(Object request, Metadata metadata, Deadline deadline) {}

  /** What is done with the caller of a call. */
  public interface Answer extends Consumer<StreamObserver<Object>> {}

  /** Below those that the system gives away. */
  private static final AtomicInteger LAST_PORT =
      new AtomicInteger(ThreadLocalRandom.current().nextInt(10_000, 25_000));

  private static final Context.Key<Metadata> SENT = Context.key("sent");

  public final List<Asked> asked = new CopyOnWriteArrayList<>();
  public final AtomicInteger cancelled = new AtomicInteger();
  private final ConcurrentLinkedDeque<Answer> answers = new ConcurrentLinkedDeque<>();
  private Server server;
  private int port;

  /** Listens on a port of its own, so that nobody else does while it is stopped. */
  public ScriptedBroker() throws IOException {
    while (server == null) {
      port = LAST_PORT.incrementAndGet();
      try {
        start();
      } catch (IOException taken) {
        assertInstanceOf(BindException.class, taken.getCause());
      }
    }
  }

  public String address() {
    return "127.0.0.1:" + port;
  }

  /** What is said, one call after the other. */
  public ScriptedBroker answers(Answer... given) {
    answers.addAll(List.of(given));
    return this;
  }

  /** Listens, on the same port as before. */
  public void start() throws IOException {
    Server listening =
        NettyServerBuilder.forAddress(new InetSocketAddress(InetAddress.getLoopbackAddress(), port))
            .intercept(new Reads())
            .addService(new Sessions())
            .build()
            .start();
    server = listening;
  }

  /** Cuts every connection, and listens no longer. */
  public void stop() throws InterruptedException {
    close();
    server.awaitTermination(5, TimeUnit.SECONDS);
  }

  @Override
  public void close() {
    server.shutdownNow();
  }

  /** An answer, or a whole stream that ends well. */
  public static Answer says(Object... messages) {
    return caller -> {
      List.of(messages).forEach(caller::onNext);
      caller.onCompleted();
    };
  }

  /** The beginning of a stream that stays open. */
  public static Answer tells(Object... messages) {
    return caller -> List.of(messages).forEach(caller::onNext);
  }

  /** Messages, and then an error. */
  public static Answer fails(Throwable error, Object... messages) {
    return caller -> {
      List.of(messages).forEach(caller::onNext);
      caller.onError(error);
    };
  }

  private <A> void answer(Object request, StreamObserver<A> caller) {
    asked.add(new Asked(request, SENT.get(), Context.current().getDeadline()));
    ((ServerCallStreamObserver<A>) caller).setOnCancelHandler(cancelled::incrementAndGet);
    Answer next = answers.size() > 1 ? answers.poll() : answers.peek();
    @SuppressWarnings("unchecked")
    StreamObserver<Object> untyped = (StreamObserver<Object>) caller;
    next.accept(untyped);
  }

  private final class Sessions extends SessionServiceGrpc.SessionServiceImplBase {
    @Override
    public void getSession(GetSessionRequest request, StreamObserver<GetSessionResponse> caller) {
      answer(request, caller);
    }

    @Override
    public void openSession(
        OpenSessionRequest request, StreamObserver<OpenSessionResponse> caller) {
      answer(request, caller);
    }

    @Override
    public void closeSession(
        CloseSessionRequest request, StreamObserver<CloseSessionResponse> caller) {
      answer(request, caller);
    }

    @Override
    public void renewSession(
        RenewSessionRequest request, StreamObserver<RenewSessionResponse> caller) {
      answer(request, caller);
    }

    @Override
    public void verifySession(
        VerifySessionRequest request, StreamObserver<VerifySessionResponse> caller) {
      answer(request, caller);
    }

    @Override
    public void watchSessions(
        WatchSessionsRequest request, StreamObserver<WatchSessionsResponse> caller) {
      answer(request, caller);
    }
  }

  /** Keeps what was sent beside a request, and answers headers at once, as the broker does. */
  private static final class Reads implements ServerInterceptor {
    @Override
    public <Q, A> ServerCall.Listener<Q> interceptCall(
        ServerCall<Q, A> call, Metadata headers, ServerCallHandler<Q, A> next) {
      call.sendHeaders(new Metadata());
      ServerCall<Q, A> answered =
          new SimpleForwardingServerCall<>(call) {
            @Override
            public void sendHeaders(Metadata again) {
              // They are on their way.
            }
          };
      return Contexts.interceptCall(
          Context.current().withValue(SENT, headers), answered, headers, next);
    }
  }
}
