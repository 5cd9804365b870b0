package keeper;

import io.github.gatewaybroker.ibgateway.broker.v1.WatchSessionsResponse;
import io.github.gatewaybroker.ibgateway.client.BrokerException;
import java.time.Duration;

/** What a watch tells. */
public sealed interface Item {
  /**
   * Where another watch, also in another process, would continue after this item; empty if it would
   * have to begin anew.
   */
  String token();

  /** What the broker has told. */
  record Told(WatchSessionsResponse message, String token) implements Item {}

  /** The stream is lost: nothing is known until Resumed, which comes by itself. */
  record Interrupted(BrokerException error, Duration retryIn, String token) implements Item {}

  /** The stream is open again; what was missed follows. */
  record Resumed(String token) implements Item {}
}
