/** Says the kind of each item that a watch of all sessions tells, a line each, until it is killed. */

import { connect } from "ibgateway-client";

const [address, silence] = process.argv.slice(2);
for await (const { kind } of connect(address).watch({ silence: Number(silence) })) {
  console.log(kind);
}
