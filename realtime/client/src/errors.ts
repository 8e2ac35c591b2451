/**
 * Failures, as one type with the server's own codes.
 *
 * Invariant: a command or request that was not answered is `unknown`, never a failure. It may have happened, so it may
 * only be repeated where repeating is safe.
 */
import type { Problem, ProblemCode } from "./types.gen.js";

/** Codes of the server (REST problems, WebSocket errors and closings), and those this client adds. */
export type ErrorCode =
  | ProblemCode
  | CloseName
  /** Not answered in time; it may have happened. */
  | "timeout"
  /** The connection went before the answer; it may have happened. */
  | "connection_lost"
  /** There is no connection; it did not happen. */
  | "not_connected"
  /** It waited longer than the server is sure to recognise a repeat; it may have happened. */
  | "too_old"
  /** A queue of this client is full; it did not happen. */
  | "queue_full"
  /** The application took it back before it was stored. */
  | "discarded"
  /** The client was closed. */
  | "client_closed";

/** Names of the WebSocket's close codes. */
export type CloseName = (typeof CLOSE_NAMES)[keyof typeof CLOSE_NAMES];

/** The server's close codes: 4000–4499 mean connect again and resume, 4500–4999 do not. */
export const CLOSE_NAMES = {
  4000: "shutting_down",
  4001: "internal",
  4002: "idle",
  4008: "slow_consumer",
  4009: "lagged",
  4029: "rate_limited",
  4500: "unauthenticated",
  4501: "token_expired",
  4502: "token_invalid",
  4503: "invalid_frame",
  4504: "frame_too_large",
  4505: "too_many_connections",
} as const;

/** The first close code after which this client does not connect again. */
export const FIRST_TERMINAL_CLOSE = 4500;
/** Get a new token first. */
export const CLOSE_TOKEN_EXPIRED = 4501;

const RETRYABLE: ReadonlySet<string> = new Set([
  "request_timeout",
  "overloaded",
  "shard_unavailable",
  "archive_unavailable",
  "directory_unavailable",
  "auth_unavailable",
  "shutting_down",
  "deadline_exceeded",
  "rate_limited",
  "not_connected",
  "timeout",
  "connection_lost",
]);
const UNKNOWN_OUTCOME: ReadonlySet<string> = new Set(["timeout", "connection_lost", "deadline_exceeded", "too_old"]);
const TOKEN_CODES: ReadonlySet<string> = new Set(["token_expired", "unauthenticated", "token_invalid"]);

/** Every error this package throws or reports. */
export class ChatError extends Error {
  override readonly name = "ChatError";

  constructor(
    /** The kind of failure, for programs. A server may have codes that this client does not know. */
    readonly code: ErrorCode | (string & {}),
    message: string,
    /** When the same may succeed, in milliseconds from now; from the server only. */
    readonly retryAfterMs?: number,
    /** The server's name for the request, to quote in a report. */
    readonly requestId?: string,
  ) {
    super(message);
  }

  /** The same may succeed later without a change. */
  get retryable(): boolean {
    return this.retryAfterMs !== undefined || RETRYABLE.has(this.code);
  }

  /** It may have happened all the same. */
  get outcomeUnknown(): boolean {
    return UNKNOWN_OUTCOME.has(this.code);
  }

  /** A new token may help. */
  get aboutToken(): boolean {
    return TOKEN_CODES.has(this.code);
  }

  /** From a problem document of REST; `fallback` when the body was none. */
  static fromProblem(problem: Partial<Problem>, fallback: ErrorCode): ChatError {
    return new ChatError(
      problem.code ?? fallback,
      problem.detail ?? problem.title ?? fallback,
      problem.retryAfterMs ?? undefined,
      problem.requestId,
    );
  }

  /** Whatever was thrown, as a {@link ChatError}. */
  static from(thrown: unknown): ChatError {
    if (thrown instanceof ChatError) return thrown;
    const message = thrown instanceof Error ? thrown.message : String(thrown);
    return new ChatError("internal", message);
  }
}
