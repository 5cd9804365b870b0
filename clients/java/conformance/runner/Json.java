package runner;

import com.google.gson.JsonArray;
import com.google.gson.JsonElement;
import com.google.gson.JsonNull;
import com.google.gson.JsonObject;
import com.google.gson.JsonPrimitive;
import com.google.protobuf.Descriptors.EnumDescriptor;
import com.google.protobuf.Descriptors.EnumValueDescriptor;
import com.google.protobuf.Descriptors.FieldDescriptor;
import com.google.protobuf.Duration;
import com.google.protobuf.Message;
import com.google.protobuf.Timestamp;
import java.math.BigDecimal;
import java.math.BigInteger;
import java.util.List;
import java.util.Map;

/**
 * Messages as the protocol of runners has them: fields by their names, durations in seconds, values
 * of enums without what they have in common, null for what is absent. Times are left out.
 */
final class Json {
  private static final BigInteger NANOS = BigInteger.valueOf(1_000_000_000);

  private Json() {}

  /** Puts the fields of an object into a message; those that are null are not set. */
  @SuppressWarnings("unchecked")
  static <M extends Message> M parse(JsonObject object, M prototype) {
    Message.Builder builder = prototype.newBuilderForType();
    for (Map.Entry<String, JsonElement> entry : object.entrySet()) {
      if (entry.getValue().isJsonNull()) {
        continue;
      }
      FieldDescriptor field = builder.getDescriptorForType().findFieldByName(entry.getKey());
      if (field == null) {
        throw new IllegalArgumentException("there is no field " + entry.getKey());
      }
      if (field.isMapField()) {
        entry.getValue().getAsJsonObject().entrySet().forEach(pair -> put(builder, field, pair));
      } else if (field.isRepeated()) {
        entry
            .getValue()
            .getAsJsonArray()
            .forEach(each -> builder.addRepeatedField(field, value(builder, field, each)));
      } else {
        builder.setField(field, value(builder, field, entry.getValue()));
      }
    }
    return (M) builder.build();
  }

  /** A message as an object. */
  static JsonObject of(Message message) {
    JsonObject object = new JsonObject();
    for (FieldDescriptor field : message.getDescriptorForType().getFields()) {
      boolean isAbsent = field.hasPresence() && !message.hasField(field);
      JsonElement value = isAbsent ? JsonNull.INSTANCE : plain(field, message.getField(field));
      if (value != null) {
        object.add(field.getName(), value);
      }
    }
    return object;
  }

  /** A duration in seconds. */
  static JsonPrimitive seconds(java.time.Duration duration) {
    return new JsonPrimitive(
        BigDecimal.valueOf(duration.getSeconds()).add(BigDecimal.valueOf(duration.getNano(), 9)));
  }

  /** The name of an enum's value without what all of them have in common. */
  static String name(EnumValueDescriptor value) {
    String prefix = prefix(value.getType());
    return value.getName().startsWith(prefix)
        ? value.getName().substring(prefix.length())
        : "UNKNOWN";
  }

  private static String prefix(EnumDescriptor type) {
    return type.findValueByNumber(0).getName().replace("UNSPECIFIED", "");
  }

  private static void put(
      Message.Builder builder, FieldDescriptor field, Map.Entry<String, JsonElement> pair) {
    Message.Builder entry = builder.newBuilderForField(field);
    entry.setField(field.getMessageType().findFieldByName("key"), pair.getKey());
    entry.setField(field.getMessageType().findFieldByName("value"), pair.getValue().getAsString());
    builder.addRepeatedField(field, entry.build());
  }

  private static Object value(Message.Builder builder, FieldDescriptor field, JsonElement given) {
    return switch (field.getJavaType()) {
      case INT -> given.getAsBigDecimal().intValueExact();
      case LONG -> given.getAsBigDecimal().longValueExact();
      case BOOLEAN -> given.getAsBoolean();
      case STRING -> given.getAsString();
      case ENUM -> {
        String name = prefix(field.getEnumType()) + given.getAsString();
        EnumValueDescriptor value = field.getEnumType().findValueByName(name);
        if (value == null) {
          throw new IllegalArgumentException("there is no " + name);
        }
        yield value;
      }
      case MESSAGE ->
          field.getMessageType().equals(Duration.getDescriptor())
              ? duration(given.getAsBigDecimal())
              : parse(given.getAsJsonObject(), builder.newBuilderForField(field).build());
      default -> throw new IllegalArgumentException("fields such as " + field + " are not known");
    };
  }

  private static Duration duration(BigDecimal seconds) {
    BigInteger[] parts = seconds.movePointRight(9).toBigInteger().divideAndRemainder(NANOS);
    return Duration.newBuilder()
        .setSeconds(parts[0].longValueExact())
        .setNanos(parts[1].intValueExact())
        .build();
  }

  /** A value of a field; null if it is a time. */
  private static JsonElement plain(FieldDescriptor field, Object value) {
    if (field.isMapField()) {
      JsonObject object = new JsonObject();
      for (Object pair : (List<?>) value) {
        Message entry = (Message) pair;
        FieldDescriptor key = field.getMessageType().findFieldByName("key");
        FieldDescriptor held = field.getMessageType().findFieldByName("value");
        object.add(entry.getField(key).toString(), single(held, entry.getField(held)));
      }
      return object;
    }
    if (field.isRepeated()) {
      JsonArray array = new JsonArray();
      ((List<?>) value).forEach(each -> array.add(single(field, each)));
      return array;
    }
    return single(field, value);
  }

  private static JsonElement single(FieldDescriptor field, Object value) {
    if (value instanceof Timestamp) {
      return null;
    }
    if (value instanceof Duration duration) {
      return seconds(java.time.Duration.ofSeconds(duration.getSeconds(), duration.getNanos()));
    }
    if (value instanceof Message message) {
      return of(message);
    }
    if (value instanceof EnumValueDescriptor named) {
      return new JsonPrimitive(name(named));
    }
    if (value instanceof Boolean flag) {
      return new JsonPrimitive(flag);
    }
    return value instanceof Number number
        ? new JsonPrimitive(number)
        : new JsonPrimitive((String) value);
  }
}
