/**
 * The hub behind a real WebSocket and HTTP server on a port of its own.
 */
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { WebSocketServer, type WebSocket } from "ws";
import { Hub } from "./hub.js";

export interface Running {
  hub: Hub;
  url: string;
  /** Breaks every connection without a close frame. */
  cut(): void;
  stop(): Promise<void>;
}

export async function start(): Promise<Running> {
  const hub = new Hub();
  const server = createServer((request, response) => void serve(hub, request, response));
  const sockets = new WebSocketServer({ server, path: "/ws/chat" });
  sockets.on("connection", (socket) => accept(hub, socket));
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo;
  const cut = () => sockets.clients.forEach((socket) => socket.terminate());
  return {
    hub,
    url: `http://127.0.0.1:${port}`,
    cut,
    stop: async () => {
      cut();
      sockets.close();
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

function accept(hub: Hub, socket: WebSocket): void {
  const session = hub.accept({
    send: (text) => socket.send(text),
    close: (code, reason) => socket.close(code, reason),
  });
  socket.on("message", (data) => session.receive(String(data)));
  socket.on("close", () => session.gone());
}

async function serve(hub: Hub, request: IncomingMessage, response: ServerResponse): Promise<void> {
  const chunks: Buffer[] = [];
  for await (const chunk of request) chunks.push(chunk as Buffer);
  const text = Buffer.concat(chunks).toString();
  const url = new URL(request.url ?? "/", "http://127.0.0.1");
  const { status, body } = hub.rest({
    method: request.method ?? "GET",
    path: url.pathname,
    query: url.searchParams,
    body: text ? JSON.parse(text) : undefined,
    token: (request.headers.authorization ?? "").slice("Bearer ".length),
  });
  response.writeHead(status, { "Content-Type": status < 400 ? "application/json" : "application/problem+json" }).end(JSON.stringify(body));
}
