package io.github.gatewaybroker.ibgateway.client;

/** The request_id belongs to an open with other parameters. */
public final class RequestIdReusedException extends BrokerException {
  RequestIdReusedException(Told told) {
    super(
        told,
        "send a new request_id for each open, and the same one only to repeat it unchanged",
        false);
  }
}
