package io.github.gatewaybroker.ibgateway.client;

/** The broker knows who calls, and does not let him do this. */
public final class PermissionDeniedException extends BrokerException {
  PermissionDeniedException(Told told) {
    super(
        told,
        "ask somebody whose role is " + neededRole(told) + ", or the owner of the session",
        false);
  }

  private static String neededRole(Told told) {
    return told.metadata().getOrDefault("needed_role", "");
  }

  /**
   * Who may do it.
   *
   * @return {@code "viewer"}, {@code "trader"} or {@code "operator"}; empty if it was not said
   */
  public String neededRole() {
    return metadata().getOrDefault("needed_role", "");
  }
}
