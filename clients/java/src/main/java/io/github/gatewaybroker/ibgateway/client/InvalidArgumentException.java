package io.github.gatewaybroker.ibgateway.client;

import com.google.rpc.BadRequest;
import java.util.List;

/** The request was refused as written; nothing happened. */
public final class InvalidArgumentException extends BrokerException {
  private final List<BadRequest.FieldViolation> violations;

  InvalidArgumentException(Told told) {
    super(told, "", false);
    this.violations = told.violations();
  }

  /**
   * Which fields are wrong, and what is wrong with each.
   *
   * @return as the broker told it, not to be changed
   */
  public List<BadRequest.FieldViolation> violations() {
    return violations;
  }
}
