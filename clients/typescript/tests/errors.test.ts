/** What the end of a call means: each reason, and what no broker has sent. */

import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";

import { create } from "@bufbuild/protobuf";
import { status } from "@grpc/grpc-js";
import * as client from "ibgateway-client";
import {
  ConnectionFailureSchema,
  ErrorReason,
  ErrorReasonSchema,
} from "ibgateway-client/broker/v1/error_pb";

import { Refusal, ScriptedBroker, statusOf, written } from "./scripted_broker.js";

const PREFIX = "ERROR_REASON_";
const REASONS = ErrorReasonSchema.values
  .filter(({ number }) => number !== ErrorReason.UNSPECIFIED)
  .map(({ name }) => name.slice(PREFIX.length));

const KINDS: Record<string, new (...args: never[]) => client.BrokerError> = {
  IB_CONN_001: client.GatewayConnectionError,
  IB_CONN_002: client.ClientIdInUseError,
  IB_CONN_003: client.GatewayTimeoutError,
  IB_CONN_004: client.NetworkUnreachableError,
  IB_CONN_005: client.AuthenticationError,
  IB_CONN_006: client.IncompatibleVersionError,
  CIRCUIT_OPEN: client.CircuitBreakerOpenError,
  GATEWAY_DRAINING: client.GatewayDrainingError,
  BROKER_DRAINING: client.BrokerDrainingError,
  STORE_UNAVAILABLE: client.StoreUnavailableError,
  SESSION_LIMIT: client.SessionLimitError,
  CLIENT_IDS_EXHAUSTED: client.ClientIdsExhaustedError,
  SLOW_CONSUMER: client.SlowConsumerError,
  SESSION_NOT_CONNECTED: client.SessionNotConnectedError,
  SESSION_CLOSED: client.SessionEndedError,
  REQUEST_ID_REUSED: client.RequestIdReusedError,
  SESSION_NOT_FOUND: client.SessionNotFoundError,
  GATEWAY_NOT_FOUND: client.GatewayNotFoundError,
  INVALID_ARGUMENT: client.InvalidArgumentError,
  UNAUTHENTICATED: client.UnauthenticatedError,
  PERMISSION_DENIED: client.PermissionDeniedError,
  INTERNAL: client.BrokerInternalError,
};

/** What a broker written in Python has packed with the libraries of Google; IB_CONN_001. */
const PACKED = Buffer.from(
  "CA4SB3JlZnVzZWQacQoodHlwZS5nb29nbGVhcGlzLmNvbS9nb29nbGUucnBjLkVycm9ySW5mbxJFCgtJQl9DT05OXzAwMRIT" +
    "aWJnYXRld2F5LmJyb2tlci52MRoTCgpnYXRld2F5X2lkEgVwYXBlchoMCgVwaGFzZRIDdGNwGjsKK3R5cGUuZ29vZ2xlYXBp" +
    "cy5jb20vZ29vZ2xlLnJwYy5SZXNvdXJjZUluZm8SDAoHc2Vzc2lvbhIBeBo2Cih0eXBlLmdvb2dsZWFwaXMuY29tL2dvb2ds" +
    "ZS5ycGMuUmV0cnlJbmZvEgoKCAgCEIDKte4BGkAKKXR5cGUuZ29vZ2xlYXBpcy5jb20vZ29vZ2xlLnJwYy5CYWRSZXF1ZXN0" +
    "EhMKEQoGbGFiZWxzEgdaw7xyaWNoGmgKOXR5cGUuZ29vZ2xlYXBpcy5jb20vaWJnYXRld2F5LmJyb2tlci52MS5Db25uZWN0" +
    "aW9uRmFpbHVyZRIrCAESC0lCX0NPTk5fMDAxGAEiA3RjcDIHcmVmdXNlZDoIc3RhcnQgaXRAAw==",
  "base64",
);

describe("the end of a call", () => {
  let peer: ScriptedBroker;
  let broker: client.Broker;

  before(async () => {
    peer = await ScriptedBroker.start();
    broker = client.connect(peer.address, { backoff: false });
  });
  after(async () => {
    await broker.close();
    await peer.stop();
  });

  /** The error of a call that ends so. */
  async function endOf(refusal: Refusal): Promise<client.BrokerError> {
    peer.on("GetSession", refusal);
    const error = await broker.getSession("x").then(
      () => assert.fail("it was answered"),
      (thrown: unknown) => thrown,
    );
    assert.ok(error instanceof client.BrokerError, String(error));
    return error;
  }

  test("every reason of the contract has a class", () => {
    assert.deepEqual(Object.keys(KINDS).sort(), [...REASONS].sort());
  });

  for (const [reason, kind] of Object.entries(KINDS)) {
    test(`${reason} is a ${kind.name}`, async () => {
      const metadata = { gateway_id: "paper", needed_role: "trader" };
      const error = await endOf(new Refusal(status.ABORTED, { reason, metadata, retryAfter: 1.5 }));
      assert.equal(error.constructor, kind);
      assert.equal(error.name, kind.name);
      assert.equal(error.reason, reason);
      assert.equal(error.message, "refused");
      assert.deepEqual(error.metadata, metadata);
      assert.equal(error.retryAfter, 1.5);
      assert.match(error.correlationId, /^[\da-f-]{36}$/);
      assert.doesNotMatch(error.hint, /\{\w+\}/);
    });
  }

  test("what Google's own libraries have packed is read", async () => {
    const error = await endOf(new Refusal(status.UNAVAILABLE, { packed: PACKED }));
    assert.ok(error instanceof client.GatewayConnectionError);
    assert.deepEqual(error.metadata, { gateway_id: "paper", phase: "tcp" });
    assert.equal(error.retryAfter, 2.5);
    assert.equal(error.hint, "start it");
    assert.deepEqual([error.retryable, error.phase, error.attempt], [true, "tcp", 3]);
    assert.match(String(error), /^IB_CONN_001: refused. Hint: start it \(correlation id .+\)$/);
  });

  test("a failure that needs a human is not retryable", async () => {
    const failure = create(ConnectionFailureSchema, { reason: "IB_CONN_005", twsCode: 10141 });
    const error = await endOf(new Refusal(status.ABORTED, { reason: "IB_CONN_005", failure }));
    assert.ok(error instanceof client.AuthenticationError);
    assert.deepEqual([error.retryable, error.twsCode], [false, 10141]);
  });

  test("each field that is wrong is named", async () => {
    const violations: [string, string][] = [
      ["client_id", "must be between 1 and 9999"],
      ["labels", "Zürich 東京 🦀"],
    ];
    const reason = "INVALID_ARGUMENT";
    const error = await endOf(new Refusal(status.INVALID_ARGUMENT, { reason, violations }));
    assert.ok(error instanceof client.InvalidArgumentError);
    assert.deepEqual(
      error.violations.map(({ field, description }) => [field, description]),
      violations,
    );
  });

  test("who may is named", async () => {
    const metadata = { needed_role: "operator" };
    const error = await endOf(
      new Refusal(status.PERMISSION_DENIED, { reason: "PERMISSION_DENIED", metadata }),
    );
    assert.ok(error instanceof client.PermissionDeniedError);
    assert.equal(error.neededRole, "operator");
    assert.match(error.hint, /whose role is operator/);
  });

  test("a reason of a newer broker is a plain BrokerError", async () => {
    const error = await endOf(new Refusal(status.ABORTED, { reason: "LUNCH", message: "noon" }));
    assert.equal(error.constructor, client.BrokerError);
    assert.deepEqual([error.reason, error.message, error.retryable], ["LUNCH", "noon", false]);
  });

  const info: [string, Uint8Array] = ["google.rpc.ErrorInfo", written([1, "INTERNAL"], [2, "x"])];
  const broken: [string, Uint8Array][] = [
    ["nothing", new Uint8Array()],
    ["noise", new Uint8Array([255, 255, 255, 255, 255, 255])],
    ["half a message", PACKED.subarray(0, PACKED.length - 20)],
    ["another domain", statusOf([info])],
    ["text that is none", statusOf([["google.rpc.ErrorInfo", written([1, Buffer.of(0xff)])]])],
    ["details that are noise", statusOf([["google.rpc.ErrorInfo", new Uint8Array([7, 7])]])],
    ["no ErrorInfo", statusOf([["google.rpc.RetryInfo", written([1, new Uint8Array()])]])],
  ];
  for (const [what, packed] of broken) {
    test(`details that are broken or another's say nothing: ${what}`, async () => {
      const unavailable = await endOf(new Refusal(status.UNAVAILABLE, { packed }));
      assert.equal(unavailable.constructor, client.BrokerUnreachableError);
      const other = await endOf(new Refusal(status.UNIMPLEMENTED, { packed }));
      assert.ok(other instanceof client.UnexpectedAnswerError);
      assert.equal(other.code, "UNIMPLEMENTED");
      assert.match(other.message, /answered UNIMPLEMENTED: refused/);
    });
  }

  test("a bare status says what can be known", async () => {
    const kindOf = async (code: status) => (await endOf(new Refusal(code))).constructor;
    assert.equal(await kindOf(status.DEADLINE_EXCEEDED), client.CallTimeoutError);
    assert.equal(await kindOf(status.CANCELLED), client.BrokerUnreachableError);
    assert.equal(await kindOf(status.UNAVAILABLE), client.BrokerUnreachableError);
    assert.equal(await kindOf(status.UNKNOWN), client.UnexpectedAnswerError);
  });
});
