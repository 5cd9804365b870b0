/**
 * What is packed into the trailers of an error: the part of google.rpc.Status that this library reads.
 *
 * The messages of google.rpc are read field by field, since no package on npm has them for this
 * runtime. What is unknown is skipped, as protobuf has it.
 */

import { fromBinary } from "@bufbuild/protobuf";
import { BinaryReader, WireType } from "@bufbuild/protobuf/wire";
import { DurationSchema } from "@bufbuild/protobuf/wkt";
import type { Violation } from "./errors.js";
import {
  type ConnectionFailure,
  ConnectionFailureSchema,
} from "./gen/ibgateway/broker/v1/error_pb.js";
import { seconds } from "./time.js";

const DOMAIN = "ibgateway.broker.v1";

/** What the broker has packed into an error. */
export interface BrokerDetails {
  readonly reason: string;
  readonly metadata: Readonly<Record<string, string>>;
  readonly violations: readonly Violation[];
  readonly retryAfter: number | undefined;
  readonly failure: ConnectionFailure | undefined;
}

/** The details of an error of a broker; undefined if they are somebody else's, or broken. */
export function unpack(packed: Uint8Array): BrokerDetails | undefined {
  try {
    return read(packed);
  } catch {
    // Half a message, or text that is none: whoever sent it, it says nothing.
    return undefined;
  }
}

function read(packed: Uint8Array): BrokerDetails | undefined {
  let reason = "";
  let domain = "";
  let retryAfter: number | undefined;
  let failure: ConnectionFailure | undefined;
  const metadata: Record<string, string> = {};
  const violations: Violation[] = [];
  for (const [type, value] of details(packed)) {
    switch (type) {
      case "google.rpc.ErrorInfo": {
        const fields = parts(value);
        reason = text(fields, 1);
        domain = text(fields, 2);
        for (const entry of fields.filter(([field]) => field === 3)) {
          const pair = parts(entry[1]);
          metadata[text(pair, 1)] = text(pair, 2);
        }
        break;
      }
      case "google.rpc.BadRequest":
        for (const [field, violation] of parts(value)) {
          if (field === 1) {
            const pair = parts(violation);
            violations.push({ field: text(pair, 1), description: text(pair, 2) });
          }
        }
        break;
      case "google.rpc.RetryInfo": {
        const delay = parts(value).find(([field]) => field === 1);
        retryAfter = delay && seconds(fromBinary(DurationSchema, delay[1]));
        break;
      }
      case ConnectionFailureSchema.typeName:
        failure = fromBinary(ConnectionFailureSchema, value);
        break;
    }
  }
  return domain === DOMAIN ? { reason, metadata, violations, retryAfter, failure } : undefined;
}

/** The details of a google.rpc.Status: the name of each one's type, and its bytes. */
function details(status: Uint8Array): [string, Uint8Array][] {
  return parts(status)
    .filter(([field]) => field === 3)
    .map(([, any]) => {
      const fields = parts(any);
      const url = text(fields, 1);
      return [url.slice(url.lastIndexOf("/") + 1), last(fields, 2) ?? new Uint8Array()];
    });
}

/** The fields of a message that are texts, bytes or messages, in their order. */
function parts(message: Uint8Array): [number, Uint8Array][] {
  const found: [number, Uint8Array][] = [];
  const reader = new BinaryReader(message);
  while (reader.pos < reader.len) {
    const [field, type] = reader.tag();
    if (type === WireType.LengthDelimited) {
      found.push([field, reader.bytes()]);
    } else {
      reader.skip(type, field);
    }
  }
  return found;
}

function last(fields: [number, Uint8Array][], wanted: number): Uint8Array | undefined {
  return fields.findLast(([field]) => field === wanted)?.[1];
}

function text(fields: [number, Uint8Array][], wanted: number): string {
  const value = last(fields, wanted);
  return value === undefined ? "" : new TextDecoder("utf-8", { fatal: true }).decode(value);
}
