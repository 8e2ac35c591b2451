/**
 * REST: requests with a deadline, the token, and problems as {@link ChatError}.
 *
 * Invariant: a request is repeated only when the caller says that it is safe, and only for errors that may pass.
 */
import { ChatError, type ErrorCode } from "./errors.js";
import type { Settings } from "./settings.js";
import { fullJitter, pause } from "./timer.js";
import type { TokenKeeper } from "./token.js";
import type { Problem } from "./types.gen.js";

export type Method = "GET" | "POST" | "PUT" | "PATCH" | "DELETE";

/** How often a request that is safe to repeat is made at most. */
const ATTEMPTS = 4;

export class Http {
  private readonly closing = new AbortController();

  constructor(
    private readonly base: string,
    private readonly fetcher: typeof fetch,
    private readonly tokens: TokenKeeper,
    private readonly settings: Settings,
  ) {}

  /** A request whose errors the caller deals with. */
  async once<T>(method: Method, path: string, body?: object, key?: string): Promise<T> {
    const token = await this.tokens.get();
    try {
      return await this.attempt<T>(method, path, token, body, key);
    } catch (thrown) {
      const error = ChatError.from(thrown);
      if (!error.aboutToken || !this.tokens.renewable) throw error;
      this.tokens.refuse(token);
      return this.attempt<T>(method, path, await this.tokens.get(), body, key);
    }
  }

  /** A request that may be repeated without harm, by itself or because of its idempotency key. */
  async repeated<T>(method: Method, path: string, body?: object, key?: string): Promise<T> {
    const { backoffFirstMs, backoffLastMs } = this.settings.timing;
    for (let failures = 0; ; failures++) {
      try {
        return await this.once<T>(method, path, body, key);
      } catch (thrown) {
        const error = ChatError.from(thrown);
        if (!error.retryable || failures + 1 >= ATTEMPTS || this.closing.signal.aborted) throw error;
        const jitterMs = fullJitter(failures, backoffFirstMs, backoffLastMs, this.settings.random);
        await pause((error.retryAfterMs ?? 0) + jitterMs, this.closing.signal);
      }
    }
  }

  /** Gives up what is under way and refuses what comes. */
  close(): void {
    this.closing.abort();
  }

  private async attempt<T>(method: Method, path: string, token: string, body?: object, key?: string): Promise<T> {
    if (this.closing.signal.aborted) throw new ChatError("client_closed", "the client was closed");
    const deadline = new AbortController();
    const abort = () => deadline.abort();
    const timer = setTimeout(abort, this.settings.timing.answerTimeoutMs);
    this.closing.signal.addEventListener("abort", abort);
    try {
      const response = await this.fetcher(`${this.base}${path}`, {
        method,
        signal: deadline.signal,
        headers: {
          Authorization: `Bearer ${token}`,
          ...(body && { "Content-Type": "application/json" }),
          ...(key && { "Idempotency-Key": key }),
        },
        ...(body && { body: JSON.stringify(body) }),
      });
      return await read<T>(response);
    } catch (thrown) {
      if (thrown instanceof ChatError) throw thrown;
      throw this.brokenOff(thrown, deadline.signal.aborted);
    } finally {
      clearTimeout(timer);
      this.closing.signal.removeEventListener("abort", abort);
    }
  }

  private brokenOff(thrown: unknown, aborted: boolean): ChatError {
    if (this.closing.signal.aborted) return new ChatError("client_closed", "the client was closed");
    if (aborted) return new ChatError("timeout", `no answer within ${this.settings.timing.answerTimeoutMs} ms`);
    return new ChatError("connection_lost", ChatError.from(thrown).message);
  }
}

async function read<T>(response: Response): Promise<T> {
  const text = await response.text();
  if (response.ok) return (text === "" ? undefined : JSON.parse(text)) as T;
  throw ChatError.fromProblem(problemOf(text, response), codeOf(response.status));
}

function problemOf(text: string, response: Response): Partial<Problem> {
  const seconds = Number(response.headers.get("Retry-After") ?? Number.NaN);
  const header = Number.isFinite(seconds) ? { retryAfterMs: seconds * 1000 } : {};
  try {
    const body: unknown = JSON.parse(text);
    return typeof body === "object" && body !== null ? { ...header, ...body } : header;
  } catch {
    return { ...header, detail: `the server answered ${response.status}` };
  }
}

/** For answers that something in between gave. */
function codeOf(status: number): ErrorCode {
  if (status === 401) return "unauthenticated";
  if (status === 403) return "forbidden";
  if (status === 404) return "not_found";
  if (status === 429) return "rate_limited";
  if (status === 504) return "deadline_exceeded";
  if (status === 502 || status === 503) return "overloaded";
  return status >= 500 ? "internal" : "invalid_request";
}
