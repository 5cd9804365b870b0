/**
 * Uses all that goes on by itself, closes it, and must then end: nothing may keep the process alive. With
 * "silent" its peer accepts connections and does not speak TLS.
 */

import assert from "node:assert/strict";

import { BrokerClosedError, CallTimeoutError, connect } from "ibgateway-client";

const [address, mode] = process.argv.slice(2);
// gRPC's own patience with such a peer is no help: it is longer than that of the test.
const channelOptions = { "grpc.min_reconnect_backoff_ms": 300_000 };
const broker = connect(address, mode === "silent" ? { credentials: {}, channelOptions } : {});
if (mode === "silent") {
  await assert.rejects(broker.info({ timeout: 0.5 }), CallTimeoutError);
  await broker.close();
} else {
  const session = await broker.openSession();
  await session.waitConnected();
  const left = await broker.openSession({ signal: AbortSignal.timeout(60_000) });
  const told = assert.rejects(broker.watch().next(), BrokerClosedError);
  const ended = assert.rejects(left.waitEnded(), BrokerClosedError);
  left.detach();
  await session.close();
  await broker.close();
  await Promise.all([told, ended]);
}
console.log("closed");
