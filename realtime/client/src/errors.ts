/**
 * Failures, as one type with the server's own codes.
 *
 * Invariant: a command or request that was not answered is `unknown`, never a failure. It may have happened, so it may
 * only be repeated where repeating is safe.
 */
import { CLOSINGS, ERRORS, type Failure, type Problem, type ProblemCode } from "./types.gen.js";

/** Codes of the server (REST problems, WebSocket errors and closings), and those this client adds. */
export type ErrorCode =
  | ProblemCode
  | CloseName
  /** Not answered in time; it may have happened. */
  | "timeout"
  /** The connection went before the answer; it may have happened. */
  | "connection_lost"
  /** Something between here and the server answered in its place; it may have happened. */
  | "intercepted"
  /** There is no connection; it did not happen. */
  | "not_connected"
  /** It waited longer than the server is sure to recognise a repeat; it may have happened. */
  | "too_old"
  /** A queue of this client is full; it did not happen. */
  | "queue_full"
  /** The application took it back before it was stored. */
  | "discarded"
  /** The server looked at a file and refused it; the message says why. */
  | "media_rejected"
  /** The client was closed. */
  | "client_closed";

/** Names of the WebSocket's close codes. */
export type CloseName = (typeof CLOSINGS)[keyof typeof CLOSINGS]["name"];

/** When the client may come back after a closing, or may try the same again after an error; in the words of the protocol. */
export type ComesBack = "at once" | "later" | "with a new token" | "never";

/** What a close code means. A code that the protocol does not have, such as 1006, is a network that broke. */
export function closingOf(code: number): { name: string | undefined; comesBack: ComesBack } {
  const known = (CLOSINGS as Record<number, { name: string; comesBack: ComesBack }>)[code];
  return known ?? { name: undefined, comesBack: "later" };
}

/** The network's failures: whether it was done is not known, or it was not; however often that happens, it is not the server's word. */
const NETWORK: ReadonlySet<string> = new Set(["timeout", "connection_lost", "not_connected", "intercepted"]);
const UNKNOWN_OUTCOME: ReadonlySet<string> = new Set(["timeout", "connection_lost", "intercepted", "deadline_exceeded", "too_old"]);

function comesBackAfter(code: string): ComesBack | undefined {
  if (Object.hasOwn(ERRORS, code)) return (ERRORS as Record<string, ComesBack>)[code];
  return Object.values(CLOSINGS).find(({ name }) => name === code)?.comesBack;
}

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
    /** The server's rate limit that refused it, with `rate_limited`. */
    readonly rule?: string,
  ) {
    super(message);
  }

  /** The same may succeed later without a change. */
  get retryable(): boolean {
    const comesBack = comesBackAfter(this.code);
    return this.retryAfterMs !== undefined || this.network || comesBack === "later" || comesBack === "at once";
  }

  /** The network failed, not the server. */
  get network(): boolean {
    return NETWORK.has(this.code);
  }

  /** It may have happened all the same. */
  get outcomeUnknown(): boolean {
    return UNKNOWN_OUTCOME.has(this.code);
  }

  /** A new token may help. */
  get aboutToken(): boolean {
    return comesBackAfter(this.code) === "with a new token";
  }

  /** From a problem document of REST. */
  static fromProblem({ code, detail, title, retryAfterMs, requestId, rule }: Problem): ChatError {
    return new ChatError(code, detail || title || code, retryAfterMs ?? undefined, requestId, rule ?? undefined);
  }

  /** From an answer or an event of the WebSocket. */
  static fromFailure({ code, message, retryAfterMs, rule }: Failure): ChatError {
    return new ChatError(code, message, retryAfterMs ?? undefined, undefined, rule ?? undefined);
  }

  /** Whatever was thrown, as a {@link ChatError}. */
  static from(thrown: unknown): ChatError {
    if (thrown instanceof ChatError) return thrown;
    const message = thrown instanceof Error ? thrown.message : String(thrown);
    return new ChatError("internal", message);
  }
}
