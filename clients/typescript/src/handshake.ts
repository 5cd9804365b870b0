/**
 * A bound on what `@grpc/grpc-js` waits for without end: that whoever has accepted a connection speaks
 * TLS, then HTTP/2. Without it a broker that has hung, behind a proxy or not, is never dialled again, and
 * a half-made connection keeps the process alive when the channel is closed.
 */

import type { Socket } from "node:net";
import type { ChannelCredentials } from "@grpc/grpc-js";

/**
 * Credentials whose connections are given up unless they are made in time. It relies on how grpc-js 1.14
 * uses credentials; package.json allows no other.
 *
 * @param credentials - of one channel, which are changed.
 * @param seconds - for TLS and HTTP/2 together.
 * @param isReady - whether the channel has a connection.
 */
export function impatient(
  credentials: ChannelCredentials,
  seconds: number,
  isReady: () => boolean,
): ChannelCredentials {
  const make = credentials._createSecureConnector.bind(credentials);
  credentials._createSecureConnector = (...given) => {
    const connector = make(...given);
    /** Connections that may not be made yet. */
    const sockets = new Set<Socket>();
    return {
      connect: (socket) =>
        new Promise((resolve, reject) => {
          const late = setTimeout(() => {
            sockets.delete(socket);
            if (!isReady()) {
              reject(new Error(`it has accepted, and said nothing for ${seconds} s`));
              // Without an error, for which nobody may listen.
              socket.destroy();
            }
          }, seconds * 1000).unref();
          sockets.add(socket);
          socket.once("close", () => {
            clearTimeout(late);
            sockets.delete(socket);
          });
          connector.connect(socket).then(resolve, reject);
        }),
      waitForReady: () => connector.waitForReady(),
      getCallCredentials: () => connector.getCallCredentials(),
      destroy: () => {
        connector.destroy();
        if (!isReady()) {
          for (const socket of sockets) {
            socket.destroy();
          }
        }
      },
    };
  };
  return credentials;
}
