/** A peer over TCP that answers as a test says. It speaks the contract; it is no broker. */

import assert from "node:assert/strict";
import { setTimeout as sleep } from "node:timers/promises";

import {
  create,
  fromBinary,
  type Message,
  type MessageInitShape,
  toBinary,
} from "@bufbuild/protobuf";
import { BinaryWriter, WireType } from "@bufbuild/protobuf/wire";
import { DurationSchema } from "@bufbuild/protobuf/wkt";
import {
  type handleServerStreamingCall,
  type handleUnaryCall,
  Metadata,
  type MethodDefinition,
  Server,
  ServerCredentials,
  type status,
} from "@grpc/grpc-js";
import { SessionState } from "ibgateway-client";
import { BrokerService } from "ibgateway-client/broker/v1/broker_service_pb";
import {
  type ConnectionFailure,
  ConnectionFailureSchema,
} from "ibgateway-client/broker/v1/error_pb";
import { GatewayService } from "ibgateway-client/broker/v1/gateway_service_pb";
import { SessionSchema } from "ibgateway-client/broker/v1/session_pb";
import {
  SessionService,
  type WatchSessionsResponse,
  WatchSessionsResponseSchema,
} from "ibgateway-client/broker/v1/session_service_pb";

import { duration } from "#client/time";

export const SESSION_ID = "11111111-1111-4111-8111-111111111111";
export const OTHER_ID = "22222222-2222-4222-8222-222222222222";

/** An error as the broker packs it; without a reason as a proxy would send it. */
export class Refusal {
  constructor(
    readonly code: status,
    readonly details: {
      reason?: string;
      message?: string;
      metadata?: Record<string, string>;
      retryAfter?: number;
      violations?: [string, string][];
      failure?: ConnectionFailure;
      domain?: string;
      /** Instead of all that. */
      packed?: Uint8Array;
    } = {},
  ) {}

  get message(): string {
    return this.details.message ?? "refused";
  }

  trailers(): Metadata {
    const trailers = new Metadata();
    const { packed, reason, failure, retryAfter, violations } = this.details;
    if (packed !== undefined) {
      trailers.set("grpc-status-details-bin", Buffer.from(packed));
    } else if (reason !== undefined) {
      const details: [string, Uint8Array][] = [["google.rpc.ErrorInfo", this.#info(reason)]];
      if (retryAfter !== undefined) {
        const delay = toBinary(DurationSchema, duration(retryAfter));
        details.push(["google.rpc.RetryInfo", written([1, delay])]);
      }
      if (violations !== undefined) {
        const fields = violations.map(([field, text]) => written([1, field], [2, text]));
        const all = fields.map((field): [number, Uint8Array] => [1, field]);
        details.push(["google.rpc.BadRequest", written(...all)]);
      }
      if (failure !== undefined) {
        const { typeName } = ConnectionFailureSchema;
        details.push([typeName, toBinary(ConnectionFailureSchema, failure)]);
      }
      trailers.set("grpc-status-details-bin", Buffer.from(statusOf(details)));
    }
    return trailers;
  }

  #info(reason: string): Uint8Array {
    const { metadata = {}, domain = "ibgateway.broker.v1" } = this.details;
    const entries = Object.entries(metadata).map(([key, value]) => written([1, key], [2, value]));
    const all = entries.map((entry): [number, Uint8Array] => [3, entry]);
    return written([1, reason], [2, domain], ...all);
  }
}

/** A message of fields that are texts, bytes or messages. */
export function written(...fields: [number, string | Uint8Array][]): Uint8Array {
  const writer = new BinaryWriter();
  for (const [field, value] of fields) {
    writer.tag(field, WireType.LengthDelimited);
    typeof value === "string" ? writer.string(value) : writer.bytes(value);
  }
  return writer.finish();
}

/** A google.rpc.Status with these details. */
export function statusOf(details: [string, Uint8Array][]): Uint8Array {
  const all = details.map(([type, value]): [number, Uint8Array] => [
    3,
    written([1, `type.googleapis.com/${type}`], [2, value]),
  ]);
  return written(...all);
}

/** A request that came. */
export interface Asked<T = Record<string, unknown>> {
  /** Milliseconds, as of `performance.now()`. */
  at: number;
  rpc: string;
  request: Message & T;
  metadata: Record<string, unknown>;
  /** Seconds until its deadline. */
  remaining: number;
}

/** What an rpc is answered with: fields of its message, an error, or nothing for as long as it lasts. */
export type Answer = object | Refusal | typeof SILENCE;
/** What a stream tells: messages; an error or its end, or it stays open and says nothing more. */
export type Script = AsyncGenerator<WatchSessionsResponse | Refusal, void, void>;
export const SILENCE = Symbol("silence");

/**
 * The port of the newest one. Each has its own, below those that the system gives away, so that nobody
 * listens there while it is away.
 */
let lastPort = 10_000 + Math.floor(Math.random() * 15_000);

/** Listens on loopback, on one port for its whole life; `stop` and `start` restart it. */
export class ScriptedBroker implements AsyncDisposable {
  readonly asked: Asked[] = [];
  /** Streams that are open now. */
  openStreams = 0;
  /** Messages that were written to streams, and not held back by flow control. */
  written = 0;
  #port = 0;
  #server: Server | undefined;
  readonly #answers = new Map<string, Answer[]>();
  readonly #streams: ((request: Record<string, unknown>) => Script)[] = [];

  static async start(): Promise<ScriptedBroker> {
    for (const broker = new ScriptedBroker(); ; ) {
      lastPort += 1;
      broker.#port = lastPort;
      try {
        await broker.start();
        return broker;
      } catch (error) {
        assert.match(String(error), /EADDRINUSE/);
      }
    }
  }

  get address(): string {
    return `127.0.0.1:${this.#port}`;
  }

  /** Answer an rpc, one answer after the other; the last one again and again. */
  on(rpc: string, ...answers: Answer[]): void {
    this.#answers.set(rpc, answers);
  }

  /** What streams tell, one script after the other; the last one again and again. */
  tells(...scripts: ((request: Record<string, unknown>) => Script)[]): void {
    this.#streams.splice(0, this.#streams.length, ...scripts);
  }

  /** The requests of an rpc that came so far. */
  requests<T>(rpc: string): Asked<T>[] {
    return this.asked.filter((asked) => asked.rpc === rpc) as Asked<T>[];
  }

  async start(): Promise<void> {
    const server = new Server({ "grpc.so_reuseport": 0 });
    for (const service of [SessionService, GatewayService, BrokerService]) {
      const methods: Record<string, MethodDefinition<Message, Message>> = {};
      const handlers: Record<string, handleUnaryCall<Message, Message>> = {};
      for (const { input, output, name, methodKind } of service.methods) {
        const isStream = methodKind === "server_streaming";
        methods[name] = {
          path: `/${service.typeName}/${name}`,
          requestStream: false,
          responseStream: isStream,
          requestSerialize: (value) => Buffer.from(toBinary(input, value)),
          requestDeserialize: (bytes) => fromBinary(input, bytes),
          responseSerialize: (value) => Buffer.from(toBinary(output, value)),
          responseDeserialize: (bytes) => fromBinary(output, bytes),
        };
        handlers[name] = (
          isStream
            ? this.#stream(name)
            : this.#unary(name, (fields) =>
                create(output, fields as object as Record<string, never>),
              )
        ) as handleUnaryCall<Message, Message>;
      }
      server.addService(methods, handlers);
    }
    await new Promise<void>((resolve, reject) => {
      const done = (error: Error | null) => (error ? reject(error) : resolve());
      server.bindAsync(this.address, ServerCredentials.createInsecure(), done);
    });
    this.#server = server;
  }

  async stop(): Promise<void> {
    this.#server?.forceShutdown();
    this.#server = undefined;
  }

  async restart(): Promise<void> {
    await this.stop();
    await this.start();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.stop();
  }

  #note(rpc: string, call: Parameters<handleUnaryCall<Message, Message>>[0]): void {
    const remaining = (Number(call.getDeadline()) - Date.now()) / 1000;
    const request = call.request as Asked["request"];
    const at = performance.now();
    this.asked.push({ at, rpc, request, metadata: call.metadata.getMap(), remaining });
  }

  #unary(rpc: string, made: (fields: object) => Message): handleUnaryCall<Message, Message> {
    return (call, reply) => {
      this.#note(rpc, call);
      const answers = this.#answers.get(rpc) ?? [{}];
      const answer = answers.length > 1 ? answers.shift() : answers[0];
      if (answer instanceof Refusal) {
        reply({ code: answer.code, details: answer.message, metadata: answer.trailers() });
      } else if (typeof answer === "object") {
        reply(null, made(answer));
      }
    };
  }

  #stream(rpc: string): handleServerStreamingCall<Message, WatchSessionsResponse> {
    return async (call) => {
      this.#note(rpc, call as unknown as Parameters<handleUnaryCall<Message, Message>>[0]);
      this.openStreams += 1;
      const gone = new Promise<void>((resolve) => {
        call.once("cancelled", resolve);
        call.once("close", resolve);
      });
      void gone.then(() => {
        this.openStreams -= 1;
      });
      call.sendMetadata(new Metadata());
      const script = this.#streams.length > 1 ? this.#streams.shift() : this.#streams[0];
      const request = call.request as unknown as Record<string, unknown>;
      for await (const message of script?.(request) ?? []) {
        if (call.cancelled) {
          return;
        }
        if (message instanceof Refusal) {
          const { code, message: details } = message;
          call.emit("error", { code, details, metadata: message.trailers() });
          return;
        }
        if (!call.write(message)) {
          const drained = new Promise<void>((resolve) => call.once("drain", resolve));
          await Promise.race([drained, gone]);
        }
        this.written += 1;
      }
      call.end();
    };
  }
}

/** Says these, then nothing more. */
export function says(...messages: (WatchSessionsResponse | Refusal)[]): () => Script {
  return async function* () {
    yield* messages;
    // Longer than any test lasts.
    await sleep(60_000, undefined, { ref: false });
  };
}

/** Waits within a script until something is so; the end of its test need not wait for that. */
export async function until(isSo: () => boolean): Promise<void> {
  while (!isSo()) {
    await sleep(10, undefined, { ref: false });
  }
}

/** Says these, then ends well. */
export function ends(...messages: (WatchSessionsResponse | Refusal)[]): () => Script {
  return async function* () {
    yield* messages;
  };
}

// Messages.

type Fields = MessageInitShape<typeof SessionSchema>;

/** A session. */
export function session(fields: Fields = {}) {
  const { sequence = 2n } = fields;
  return create(SessionSchema, {
    sessionId: SESSION_ID,
    gatewayId: "default",
    clientId: 7,
    state: SessionState.CONNECTED,
    sequence,
    revision: sequence,
    generation: 1n,
    accounts: ["DU1"],
    ...(fields as object),
  });
}

export function token(revision: bigint): string {
  return `t${revision}`;
}

function message(fields: MessageInitShape<typeof WatchSessionsResponseSchema>) {
  return create(WatchSessionsResponseSchema, fields);
}

export function snapshot(fields: Fields = {}): WatchSessionsResponse {
  const value = session(fields);
  return message({ resumeToken: "nowhere", message: { case: "snapshot", value } });
}

export function complete(revision: bigint): WatchSessionsResponse {
  const value = {};
  const resumeToken = token(revision);
  return message({ resumeToken, revision, message: { case: "snapshotComplete", value } });
}

/** An event; of one that is not persisted, `revision` is that of the last persisted one. */
export function event(
  revision: bigint,
  sequence: bigint,
  { persisted = true, ...fields }: Fields & { persisted?: boolean } = {},
): WatchSessionsResponse {
  const after = session({ ...(fields as Fields), sequence });
  const value = {
    revision: persisted ? revision : 0n,
    sequence,
    sessionId: after.sessionId,
    persisted,
    session: after,
    change: {
      case: "transition" as const,
      value: { to: after.state, reason: "SCRIPTED" },
    },
  };
  return message({ resumeToken: token(revision), revision, message: { case: "event", value } });
}

export function bookmark(revision: bigint): WatchSessionsResponse {
  const value = { oldestRevision: 1n };
  return message({ resumeToken: token(revision), revision, message: { case: "bookmark", value } });
}

export function reset(reason: string): WatchSessionsResponse {
  const value = { reason, oldestRevision: 5n };
  return message({ resumeToken: "nowhere", message: { case: "reset", value } });
}

export function draining(revision: bigint): WatchSessionsResponse {
  const value = {};
  return message({ resumeToken: token(revision), revision, message: { case: "draining", value } });
}
