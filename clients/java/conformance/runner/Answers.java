package runner;

import com.google.gson.JsonArray;
import com.google.gson.JsonNull;
import com.google.gson.JsonObject;
import io.github.gatewaybroker.ibgateway.broker.v1.Gateway;
import io.github.gatewaybroker.ibgateway.broker.v1.GetBrokerInfoResponse;
import io.github.gatewaybroker.ibgateway.broker.v1.Role;
import io.github.gatewaybroker.ibgateway.broker.v1.SessionEvent;
import io.github.gatewaybroker.ibgateway.broker.v1.WatchSessionsResponse;
import io.github.gatewaybroker.ibgateway.client.BrokerException;
import io.github.gatewaybroker.ibgateway.client.GatewayException;
import io.github.gatewaybroker.ibgateway.client.InvalidArgumentException;
import java.util.Locale;
import keeper.Item;

/** What the client gives, as the protocol of runners has it. */
final class Answers {
  private Answers() {}

  static JsonObject gateway(Gateway gateway) {
    JsonObject object = Json.of(gateway);
    object.add("circuit_breaker", object.getAsJsonObject("circuit_breaker").get("state"));
    object.addProperty("drained", gateway.hasDrain());
    return object;
  }

  static JsonObject info(GetBrokerInfoResponse info) {
    JsonObject object = Json.of(info);
    Role role = info.getAccess().getRole();
    object.addProperty("caller", info.getAccess().getCaller());
    object.addProperty(
        "role",
        role == Role.ROLE_UNSPECIFIED
            ? null
            : Json.name(info.getAccess().getRole().getValueDescriptor()));
    return object;
  }

  static JsonObject event(SessionEvent event, String token) {
    JsonObject object = Json.of(event);
    object.addProperty("kind", "event");
    object.addProperty("token", token);
    String kind = event.getChangeCase().name().toLowerCase(Locale.ROOT);
    if (object.has(kind)) {
      JsonObject change = object.getAsJsonObject(kind);
      change.addProperty("kind", kind);
      object.add("change", change);
    } else {
      object.add("change", JsonNull.INSTANCE);
    }
    return object;
  }

  static JsonObject item(Item item) {
    JsonObject object = new JsonObject();
    if (item instanceof Item.Interrupted interrupted) {
      object.addProperty("kind", "interrupted");
      object.add("error", error(interrupted.error()));
    } else if (item instanceof Item.Resumed) {
      object.addProperty("kind", "resumed");
    } else if (item instanceof Item.Told told) {
      WatchSessionsResponse message = told.message();
      if (message.hasEvent()) {
        return event(message.getEvent(), item.token());
      }
      object.addProperty("kind", message.getMessageCase().name().toLowerCase(Locale.ROOT));
      if (message.hasSnapshot()) {
        object.add("session", Json.of(message.getSnapshot()));
      } else if (message.hasReset()) {
        object.addProperty("reason", message.getReset().getReason());
      }
    }
    object.addProperty("token", item.token());
    return object;
  }

  static JsonObject error(BrokerException error) {
    JsonObject object = new JsonObject();
    object.addProperty("type", error.getClass().getSimpleName());
    object.addProperty("reason", error.reason());
    object.addProperty("message", error.message());
    object.addProperty("hint", error.hint());
    JsonObject metadata = new JsonObject();
    error.metadata().forEach(metadata::addProperty);
    object.add("metadata", metadata);
    object.addProperty("retryable", error.retryable());
    object.add(
        "retry_after",
        error
            .retryAfter()
            .<com.google.gson.JsonElement>map(Json::seconds)
            .orElse(JsonNull.INSTANCE));
    object.addProperty("correlation_id", error.correlationId());
    JsonArray violations = new JsonArray();
    if (error instanceof InvalidArgumentException invalid) {
      invalid.violations().forEach(violation -> violations.add(Json.of(violation)));
    }
    object.add("violations", violations);
    object.add(
        "failure",
        error instanceof GatewayException gateway ? Json.of(gateway.failure()) : JsonNull.INSTANCE);
    return object;
  }
}
