/** Uses all that goes on by itself, closes it, and must then end: nothing may keep the process alive. */

import assert from "node:assert/strict";

import { BrokerClosedError, connect } from "ibgateway-client";

const broker = connect(process.argv[2]);
const session = await broker.openSession();
await session.waitConnected();
const left = await broker.openSession({ signal: AbortSignal.timeout(60_000) });
const told = assert.rejects(broker.watch().next(), BrokerClosedError);
const ended = assert.rejects(left.waitEnded(), BrokerClosedError);
left.detach();
await session.close();
await broker.close();
await Promise.all([told, ended]);
console.log("closed");
