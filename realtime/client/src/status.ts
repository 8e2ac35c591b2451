/**
 * The state of the connection, for the application.
 */
import type { Connection } from "./connection.js";
import type { ChatError } from "./errors.js";
import type { HttpFallback } from "./fallback.js";
import type { Quality } from "./latency.js";

/**
 * - `connecting`: the first attempt;
 * - `connected`: commands get through, by the transport named;
 * - `reconnecting`: the connection was lost, and is being made again;
 * - `offline`: neither WebSocket nor HTTP get through; attempts go on;
 * - `closed`: closed by the application, or refused by the server for good; see `error`.
 */
export type ConnectionState = "connecting" | "connected" | "reconnecting" | "offline" | "closed";

export interface ConnectionInfo {
  readonly state: ConnectionState;
  /** By what commands get through. */
  readonly transport: "websocket" | "http" | null;
  readonly quality: Quality;
  /** The last round trip, in milliseconds. */
  readonly latencyMs?: number;
  /** A moving average of the round trips, in milliseconds. */
  readonly smoothedLatencyMs?: number;
  /** Why it is not connected. */
  readonly error?: ChatError;
}

export const CLOSED: ConnectionInfo = { state: "closed", transport: null, quality: "offline" };

/** Taken together; `wasConnected`: there was a connection since the application asked for one. */
export function infoOf(connection: Connection | undefined, fallback: HttpFallback, wasConnected: boolean): ConnectionInfo {
  if (connection?.phase === "open") {
    const { lastMs, smoothedMs, quality } = connection.latency;
    return {
      state: "connected",
      transport: "websocket",
      quality,
      ...(lastMs !== undefined && { latencyMs: lastMs }),
      ...(smoothedMs !== undefined && { smoothedLatencyMs: smoothedMs }),
    };
  }
  if (fallback.working) return { state: "connected", transport: "http", quality: "poor" };
  const error = fallback.lastError ?? connection?.lastError;
  return {
    state: fallback.lastError ? "offline" : wasConnected ? "reconnecting" : "connecting",
    transport: null,
    quality: "offline",
    ...(error && { error }),
  };
}

/** Does it say the same? */
export function sameInfo(a: ConnectionInfo, b: ConnectionInfo): boolean {
  return (
    a.state === b.state &&
    a.transport === b.transport &&
    a.quality === b.quality &&
    a.latencyMs === b.latencyMs &&
    a.smoothedLatencyMs === b.smoothedLatencyMs &&
    a.error === b.error
  );
}
