package io.github.gatewaybroker.ibgateway.client;

import com.google.protobuf.Any;
import com.google.protobuf.Message;
import com.google.rpc.ErrorInfo;
import com.google.rpc.Status;
import io.grpc.Metadata;
import io.grpc.StatusRuntimeException;
import java.util.Map;

/** Errors as a broker packs them. */
public final class Errors {
  static final Metadata.Key<byte[]> DETAILS =
      Metadata.Key.of("grpc-status-details-bin", Metadata.BINARY_BYTE_MARSHALLER);

  private Errors() {}

  public static ErrorInfo info(String reason, Map<String, String> metadata) {
    return ErrorInfo.newBuilder()
        .setDomain("ibgateway.broker.v1")
        .setReason(reason)
        .putAllMetadata(metadata)
        .build();
  }

  /** With details of ours. */
  public static StatusRuntimeException of(
      io.grpc.Status.Code code, String message, Message... details) {
    Status.Builder status = Status.newBuilder().setCode(code.value()).setMessage(message);
    for (Message detail : details) {
      status.addDetails(Any.pack(detail));
    }
    return packed(code, message, status.build().toByteArray());
  }

  /** With whatever as details. */
  public static StatusRuntimeException packed(
      io.grpc.Status.Code code, String message, byte[] details) {
    Metadata trailers = new Metadata();
    trailers.put(DETAILS, details);
    trailers.put(CallMetadata.CORRELATION_KEY, "c-1");
    return code.toStatus().withDescription(message).asRuntimeException(trailers);
  }

  public static StatusRuntimeException of(io.grpc.Status.Code code, String reason) {
    return of(code, "refused", info(reason, Map.of()));
  }
}
