package runner;

import com.google.gson.Gson;
import com.google.gson.GsonBuilder;
import com.google.gson.JsonArray;
import com.google.gson.JsonElement;
import com.google.gson.JsonNull;
import com.google.gson.JsonObject;
import com.google.gson.JsonParser;
import com.google.protobuf.Message;
import io.github.gatewaybroker.ibgateway.broker.v1.*;
import io.github.gatewaybroker.ibgateway.client.Broker;
import io.github.gatewaybroker.ibgateway.client.BrokerException;
import io.github.gatewaybroker.ibgateway.client.CancelledException;
import io.github.gatewaybroker.ibgateway.simulator.v1.SimulatorServiceGrpc;
import io.grpc.MethodDescriptor;
import io.grpc.TlsChannelCredentials;
import java.io.BufferedReader;
import java.io.File;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.HashMap;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.FutureTask;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import keeper.Watch;

/**
 * The runner of the Java client: see clients/conformance/README.md. It does what it is told, one
 * request a line, and says what came of it. Its watches are those of the example.
 */
public final class Runner {
  private static final Gson GSON = new GsonBuilder().serializeNulls().create();

  /** For a request to end that was cancelled. */
  private static final Duration CANCELS = Duration.ofSeconds(10);

  /** What the client refuses before anything is sent. */
  private static final class Refused extends RuntimeException {
    Refused(IllegalArgumentException why) {
      super(why.getMessage());
    }
  }

  /** A request that goes on by itself. */
  private record Background(FutureTask<JsonObject> outcome, Thread thread) {}

  private final Map<String, Broker> brokers = new ConcurrentHashMap<>();

  /** Without a layer a handle is a session_id. */
  private final Map<String, String> handles = new ConcurrentHashMap<>();

  private final Map<String, Watch> watches = new ConcurrentHashMap<>();
  private final Map<String, Background> background = new HashMap<>();

  /** Answers line by line until the input ends. */
  public static void main(String[] arguments) throws IOException, InterruptedException {
    PrintStream out = new PrintStream(System.out, true, StandardCharsets.UTF_8);
    BufferedReader in =
        new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
    Runner runner = new Runner();
    for (String line = in.readLine(); line != null; line = in.readLine()) {
      out.println(GSON.toJson(runner.answer(line)));
    }
    runner.background.values().forEach(each -> each.thread().interrupt());
    runner.brokers.values().forEach(Broker::close);
  }

  private JsonObject answer(String line) throws InterruptedException {
    try {
      JsonObject request = JsonParser.parseString(line).getAsJsonObject();
      String name = request.get("do").getAsString();
      String on = request.has("on") ? request.get("on").getAsString() : "main";
      JsonObject with = request.has("with") ? request.getAsJsonObject("with") : new JsonObject();
      with.entrySet().removeIf(field -> field.getValue().isJsonNull());
      if (name.equals("await") || name.equals("cancel")) {
        return ended(with, name.equals("cancel"));
      }
      if (!request.has("background") || request.get("background").isJsonNull()) {
        return outcome(name, on, with);
      }
      FutureTask<JsonObject> task = new FutureTask<>(() -> outcome(name, on, with));
      Thread thread = new Thread(task, "background");
      thread.setDaemon(true);
      background.put(request.get("background").getAsString(), new Background(task, thread));
      thread.start();
      return result(new JsonObject());
    } catch (RuntimeException bug) {
      return broken(bug.toString());
    }
  }

  /** The outcome of a request in the background. */
  private JsonObject ended(JsonObject with, boolean cancel) throws InterruptedException {
    Background request = background.get(with.get("name").getAsString());
    Duration within = CANCELS;
    if (cancel) {
      request.thread().interrupt();
    } else {
      within = within(with);
    }
    try {
      return request.outcome().get(within.toMillis(), TimeUnit.MILLISECONDS);
    } catch (TimeoutException late) {
      return broken("it has not ended within " + within);
    } catch (ExecutionException bug) {
      return broken(bug.getCause().toString());
    }
  }

  private JsonObject outcome(String name, String on, JsonObject with) {
    JsonObject answer = new JsonObject();
    try {
      return result(result(name, on, with));
    } catch (CancelledException | InterruptedException cancelled) {
      answer.addProperty("type", "Cancelled");
    } catch (BrokerException error) {
      answer = Answers.error(error);
    } catch (Refused refused) {
      answer.addProperty("type", "Refused");
      answer.addProperty("message", refused.getMessage());
    } catch (RuntimeException bug) {
      bug.printStackTrace();
      return broken(bug.toString());
    }
    JsonObject whole = new JsonObject();
    whole.add("error", answer);
    return whole;
  }

  private JsonElement result(String name, String on, JsonObject with) throws InterruptedException {
    return switch (name) {
      case "hello" -> hello();
      case "connect" -> connect(on, with);
      case "disconnect" -> {
        Broker broker = brokers.remove(on);
        if (broker != null) {
          broker.close();
        }
        yield new JsonObject();
      }
      case "open_session" -> open(on, with);
      case "validate_session" -> {
        with.addProperty("validate_only", true);
        open(on, with);
        yield new JsonObject();
      }
      case "detach" -> new JsonObject();
      case "close_handle" -> {
        with.addProperty("session_id", handles.get(with.remove("handle").getAsString()));
        yield call(on, SessionServiceGrpc.getCloseSessionMethod(), with);
      }
      case "get_session" -> call(on, SessionServiceGrpc.getGetSessionMethod(), with);
      case "list_sessions" -> pages(on, SessionServiceGrpc.getListSessionsMethod(), with);
      case "close_session" -> call(on, SessionServiceGrpc.getCloseSessionMethod(), with);
      case "renew_session" -> call(on, SessionServiceGrpc.getRenewSessionMethod(), with);
      case "verify_session" -> call(on, SessionServiceGrpc.getVerifySessionMethod(), with);
      case "list_session_events" ->
          pages(on, SessionServiceGrpc.getListSessionEventsMethod(), with);
      case "acknowledge_data" -> call(on, SessionServiceGrpc.getAcknowledgeDataMethod(), with);
      case "watch" -> watch(on, with);
      case "next" ->
          watches
              .get(text(with, "watch"))
              .next(within(with))
              .<JsonElement>map(Answers::item)
              .orElse(JsonNull.INSTANCE);
      case "stop_watch" -> stop(with);
      case "list_gateways" -> gateways(on);
      case "get_gateway" -> gateway(on, GatewayServiceGrpc.getGetGatewayMethod(), with);
      case "drain_gateway" -> gateway(on, GatewayServiceGrpc.getDrainGatewayMethod(), with);
      case "resume_gateway" -> gateway(on, GatewayServiceGrpc.getResumeGatewayMethod(), with);
      case "reset_circuit_breaker" ->
          gateway(on, GatewayServiceGrpc.getResetCircuitBreakerMethod(), with);
      case "get_broker_info" ->
          Answers.info(
              brokers
                  .get(on)
                  .call(
                      BrokerServiceGrpc.getGetBrokerInfoMethod(),
                      GetBrokerInfoRequest.getDefaultInstance()));
      case "simulate" -> simulate(with);
      default -> throw new UnsupportedOperationException(name + " is for clients with a layer");
    };
  }

  private static JsonObject hello() {
    JsonObject object = new JsonObject();
    object.addProperty("language", "Java");
    object.addProperty("version", Runtime.version().toString());
    object.addProperty("layer", false);
    return object;
  }

  private JsonObject connect(String on, JsonObject with) {
    try {
      Broker.Builder builder =
          Broker.connect(text(with, "address"))
              .owner(text(with, "owner"))
              .token(text(with, "token"));
      if (with.has("ca")) {
        builder.credentials(
            TlsChannelCredentials.newBuilder().trustManager(new File(text(with, "ca"))).build());
      }
      if (with.has("retry") && !with.get("retry").getAsBoolean()) {
        builder.backoff(null);
      }
      brokers.put(on, builder.build());
    } catch (IllegalArgumentException refused) {
      throw new Refused(refused);
    } catch (IOException unreadable) {
      throw new IllegalStateException(unreadable);
    }
    return new JsonObject();
  }

  private JsonObject open(String on, JsonObject with) {
    JsonElement handle = with.remove("handle");
    JsonObject answer = call(on, SessionServiceGrpc.getOpenSessionMethod(), with);
    if (handle != null && answer.get("session").isJsonObject()) {
      String id = answer.getAsJsonObject("session").get("session_id").getAsString();
      handles.put(handle.getAsString(), id);
    }
    return answer;
  }

  private JsonObject watch(String on, JsonObject with) {
    String name = with.remove("name").getAsString();
    WatchSessionsRequest wanted = Json.parse(with, WatchSessionsRequest.getDefaultInstance());
    watches.put(name, new Watch(brokers.get(on), wanted));
    return new JsonObject();
  }

  private JsonObject stop(JsonObject with) {
    Watch watch = watches.remove(text(with, "watch"));
    watch.close();
    JsonObject object = new JsonObject();
    object.addProperty("token", watch.token());
    return object;
  }

  private JsonObject gateways(String on) {
    JsonArray all = new JsonArray();
    brokers
        .get(on)
        .call(GatewayServiceGrpc.getListGatewaysMethod(), ListGatewaysRequest.getDefaultInstance())
        .getGatewaysList()
        .forEach(gateway -> all.add(Answers.gateway(gateway)));
    JsonObject object = new JsonObject();
    object.add("gateways", all);
    return object;
  }

  private <Q extends Message, A extends Message> JsonObject gateway(
      String on, MethodDescriptor<Q, A> method, JsonObject with) {
    A answer = brokers.get(on).call(method, Json.parse(with, prototype(method)));
    JsonObject object = new JsonObject();
    object.add(
        "gateway",
        Answers.gateway(
            (Gateway) answer.getField(answer.getDescriptorForType().findFieldByName("gateway"))));
    return object;
  }

  /** A call whose answer is told as it is. */
  private <Q extends Message, A extends Message> JsonObject call(
      String on, MethodDescriptor<Q, A> method, JsonObject with) {
    JsonElement deadline = with.remove("deadline");
    Q request = Json.parse(with, prototype(method));
    Broker broker = brokers.get(on);
    return Json.of(
        deadline == null
            ? broker.call(method, request)
            : broker.call(method, request, seconds(deadline)));
  }

  /** A call whose answer has pages, the things of all of them. */
  private <Q extends Message, A extends Message> JsonObject pages(
      String on, MethodDescriptor<Q, A> method, JsonObject with) {
    JsonArray all = new JsonArray();
    String name;
    String token;
    do {
      A page = brokers.get(on).call(method, Json.parse(with, prototype(method)));
      if (page instanceof ListSessionsResponse found) {
        found.getSessionsList().forEach(each -> all.add(Json.of(each)));
        name = "sessions";
        token = found.getNextPageToken();
      } else {
        ListSessionEventsResponse found = (ListSessionEventsResponse) page;
        found.getEventsList().forEach(each -> all.add(Answers.event(each, "")));
        name = "events";
        token = found.getNextPageToken();
      }
      with.addProperty("page_token", token);
    } while (!token.isEmpty());
    JsonObject whole = new JsonObject();
    whole.add(name, all);
    return whole;
  }

  private static JsonObject simulate(JsonObject with) {
    String rpc = text(with, "rpc");
    JsonObject fields = with.has("fields") ? with.getAsJsonObject("fields") : new JsonObject();
    try (Broker simulator = Broker.connect(text(with, "address")).build()) {
      for (MethodDescriptor<?, ?> method :
          SimulatorServiceGrpc.getServiceDescriptor().getMethods()) {
        if (rpc.equals(method.getBareMethodName())) {
          send(simulator, method, fields);
          return new JsonObject();
        }
      }
    }
    throw new IllegalArgumentException("the simulator has no " + rpc);
  }

  /** A method whose types are not known here. */
  @SuppressWarnings("unchecked")
  private static void send(Broker simulator, MethodDescriptor<?, ?> method, JsonObject fields) {
    MethodDescriptor<Message, Message> untyped = (MethodDescriptor<Message, Message>) method;
    simulator.call(untyped, Json.parse(fields, prototype(untyped)));
  }

  @SuppressWarnings("unchecked")
  private static <Q extends Message> Q prototype(MethodDescriptor<Q, ?> method) {
    var marshaller = (MethodDescriptor.PrototypeMarshaller<Q>) method.getRequestMarshaller();
    return marshaller.getMessagePrototype();
  }

  private static Duration within(JsonObject with) {
    return seconds(with.get("within"));
  }

  private static Duration seconds(JsonElement given) {
    return Duration.ofNanos(given.getAsBigDecimal().movePointRight(9).longValue());
  }

  private static String text(JsonObject with, String name) {
    return with.has(name) ? with.get(name).getAsString() : null;
  }

  private static JsonObject result(JsonElement result) {
    JsonObject whole = new JsonObject();
    whole.add("result", result);
    return whole;
  }

  private static JsonObject broken(String what) {
    JsonObject whole = new JsonObject();
    whole.addProperty("broken", what);
    return whole;
  }
}
