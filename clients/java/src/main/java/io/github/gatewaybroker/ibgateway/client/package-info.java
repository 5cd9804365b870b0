/**
 * What everybody who uses the stubs of gateway-broker needs besides them: a connection whose calls
 * have a deadline, an owner, a token and a correlation id, and typed errors.
 *
 * <p>{@link io.github.gatewaybroker.ibgateway.client.Broker} is the way in. Every error is a {@link
 * io.github.gatewaybroker.ibgateway.client.BrokerException}; its subclasses say who must act.
 */
package io.github.gatewaybroker.ibgateway.client;
