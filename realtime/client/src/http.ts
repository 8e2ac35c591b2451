/**
 * REST: requests with a deadline, the token, and problems as {@link ChatError}.
 *
 * Invariants: a request is repeated only when the caller says that it is safe, and only for errors that may pass. Only a problem
 * document of the server is its word: whatever else comes instead of an answer is the network's failure.
 */
import { ChatError } from "./errors.js";
import type { Settings } from "./settings.js";
import { fullJitter, pause, within } from "./timer.js";
import type { TokenKeeper } from "./token.js";
import type { Problem } from "./types.gen.js";

export type Method = "GET" | "POST" | "PUT" | "PATCH" | "DELETE";

/** How often a request that is safe to repeat is made at most. */
const ATTEMPTS = 4;
/** What the types of the server's problems begin with. */
const PROBLEM_TYPE = "urn:problem-type:backscroll:";

export class Http {
  private closing = new AbortController();

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

  /** A request that may be repeated without harm, by itself or because of its idempotency key. A wait longer than that between attempts to connect is the caller's. */
  async repeated<T>(method: Method, path: string, body?: object, key?: string): Promise<T> {
    const { backoffFirstMs, backoffLastMs } = this.settings.timing;
    for (let failures = 0; ; failures++) {
      try {
        return await this.once<T>(method, path, body, key);
      } catch (thrown) {
        const error = ChatError.from(thrown);
        const waitMs = error.retryAfterMs ?? 0;
        if (!error.retryable || waitMs > backoffLastMs || failures + 1 >= ATTEMPTS || this.closing.signal.aborted) throw error;
        const jitterMs = fullJitter(failures, backoffFirstMs, backoffLastMs, this.settings.random);
        await pause(waitMs + jitterMs, this.closing.signal);
      }
    }
  }

  /** Gives up what is under way, and refuses what comes until {@link reopen}. */
  close(): void {
    this.closing.abort();
  }

  /** Takes requests again. */
  reopen(): void {
    if (this.closing.signal.aborted) this.closing = new AbortController();
  }

  private async attempt<T>(method: Method, path: string, token: string, body?: object, key?: string): Promise<T> {
    const closing = this.closing.signal;
    if (closing.aborted) throw new ChatError("client_closed", "the client was closed");
    const deadline = new AbortController();
    const abort = () => deadline.abort();
    closing.addEventListener("abort", abort);
    const { answerTimeoutMs } = this.settings.timing;
    const late = () => {
      abort();
      return new ChatError("timeout", `no answer within ${answerTimeoutMs} ms from ${this.base}`);
    };
    try {
      return await within(answerTimeoutMs, this.request<T>(method, path, token, deadline.signal, body, key), late);
    } catch (thrown) {
      if (closing.aborted) throw new ChatError("client_closed", "the client was closed");
      if (thrown instanceof ChatError) throw thrown;
      throw new ChatError("connection_lost", `${ChatError.from(thrown).message}: ${adviceOn(this.base)}`);
    } finally {
      closing.removeEventListener("abort", abort);
    }
  }

  private async request<T>(method: Method, path: string, token: string, signal: AbortSignal, body?: object, key?: string): Promise<T> {
    const response = await this.fetcher(`${this.base}${path}`, {
      method,
      signal,
      redirect: "manual", // this server never redirects; a login page does
      headers: {
        Authorization: `Bearer ${token}`,
        ...(body && { "Content-Type": "application/json" }),
        ...(key && { "Idempotency-Key": key }),
      },
      ...(body && { body: JSON.stringify(body) }),
    });
    const text = await response.text();
    if (response.status === 204 && method !== "GET" && !body) return undefined as T; // what is asked for, or sent, has an answer
    const json = response.ok ? jsonOf(response, text) : undefined;
    if (json !== undefined) return json as T;
    throw failureOf(response, text, this.base, this.settings);
  }
}

/** The failure that an answer of `base` is: the server's word where it is a problem document, and the network's otherwise. */
export function failureOf(response: Response, text: string, base: string, { timing }: Settings): ChatError {
  const json = response.ok ? undefined : jsonOf(response, text);
  if (isProblem(json)) return ChatError.fromProblem(json);
  const wait = retryAfterMs(response, timing.backoffLastMs);
  return new ChatError("intercepted", `something answered ${response.status} in the server's place: ${adviceOn(base)}`, wait);
}

function adviceOn(base: string): string {
  return `if this goes on, check that \`url\` leads to the server (${base}), and that its server.cors_origins and server.cors_headers allow this page`;
}

function jsonOf(response: Response, text: string): unknown {
  const type = response.headers.get("Content-Type") ?? "";
  return /^application\/(problem\+)?json\b/i.test(type) ? parsed(text) : undefined;
}

/** A problem document of this server: only that is its word. */
function isProblem(body: unknown): body is Problem {
  const problem = body as Partial<Problem> | null | undefined;
  return typeof problem?.code === "string" && typeof problem.type === "string" && problem.type.startsWith(PROBLEM_TYPE);
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

/** What something in between asks for, within bounds. */
function retryAfterMs(response: Response, longestMs: number): number | undefined {
  const seconds = Number(response.headers.get("Retry-After") ?? Number.NaN);
  return Number.isFinite(seconds) && seconds >= 0 ? Math.min(seconds * 1000, longestMs) : undefined;
}
