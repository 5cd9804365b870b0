package io.github.gatewaybroker.ibgateway.client;

import io.grpc.CallCredentials;
import io.grpc.Grpc;
import io.grpc.Metadata;
import io.grpc.SecurityLevel;
import io.grpc.Status;
import java.net.InetSocketAddress;
import java.net.SocketAddress;
import java.util.Locale;
import java.util.concurrent.Executor;

/**
 * The token that says who calls, for {@code stub.withCallCredentials}; a {@link Broker} has it. It
 * is sent over TLS or to this machine, and never elsewhere: both the connection that is open and
 * the name that was asked for must be of this machine, since a name may lead away from it, and a
 * proxy on it, too. Elsewhere the call fails with UNAUTHENTICATED before anything is sent.
 */
public final class BearerToken extends CallCredentials {
  private static final Metadata.Key<String> TOKEN_KEY =
      Metadata.Key.of("authorization", Metadata.ASCII_STRING_MARSHALLER);

  private final String token;

  /**
   * Makes it.
   *
   * @param token as whoever runs the broker has given it, without blanks or a line's end
   * @throws IllegalArgumentException if it can be no token; the message does not show it
   */
  public BearerToken(String token) {
    if (!Ascii.isPrintable(token) || token.indexOf(' ') >= 0) {
      // It is not shown: errors end in logs.
      throw new IllegalArgumentException(
          "token must be printable ASCII without blanks: strip the file's end");
    }
    this.token = token;
  }

  @Override
  public void applyRequestMetadata(RequestInfo call, Executor executor, MetadataApplier applier) {
    SocketAddress peer = call.getTransportAttrs().get(Grpc.TRANSPORT_ATTR_REMOTE_ADDR);
    if (call.getSecurityLevel() != SecurityLevel.PRIVACY_AND_INTEGRITY
        && !(isLocal(peer) && isLocal(call.getAuthority()))) {
      applier.fail(
          Status.UNAUTHENTICATED.withDescription(
              "a token must not be sent to "
                  + call.getAuthority()
                  + " by "
                  + peer
                  + " in plain text; use TLS"));
      return;
    }
    Metadata headers = new Metadata();
    headers.put(TOKEN_KEY, "Bearer " + token);
    applier.apply(headers);
  }

  /** Whether HOST or HOST:PORT is on this machine, whatever a name server says. */
  static boolean isLocal(String address) {
    String host = address.replaceFirst(":\\d+$", "").toLowerCase(Locale.ROOT);
    return host.equals("localhost")
        || host.equals("[::1]")
        || host.matches("127(\\.\\d{1,3}){3}");
  }

  private static boolean isLocal(SocketAddress peer) {
    return peer instanceof InetSocketAddress address
        && address.getAddress() != null
        && address.getAddress().isLoopbackAddress();
  }

  /** Without the token: what is printed ends in logs. */
  @Override
  public String toString() {
    return "BearerToken";
  }
}
