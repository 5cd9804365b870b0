package io.github.gatewaybroker.ibgateway.client;

/** What metadata may be: gRPC drops the rest, or fails with it in the message. */
final class Ascii {
  private Ascii() {}

  /** Whether a text has something in it, and nothing but printable ASCII. */
  static boolean isPrintable(String text) {
    return !text.isEmpty() && text.chars().allMatch(letter -> letter >= ' ' && letter <= '~');
  }
}
