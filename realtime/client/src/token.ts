/**
 * The token in use, and getting the next one.
 *
 * Invariants: a token that was refused is not used again as long as the function gives another. No wait for the application's
 * function is longer than {@link Timing.tokenTimeoutMs}; while it takes no longer, it runs once at a time.
 */
import { ChatError } from "./errors.js";
import type { TokenSource } from "./settings.js";
import { within } from "./timer.js";
import type { UserId } from "./types.gen.js";

export class TokenKeeper {
  private current: string | undefined;
  private pending: Promise<string> | undefined;
  private asked = 0;
  private newest = 0;

  constructor(
    private source: TokenSource,
    private readonly timeoutMs: number,
  ) {}

  /** Can a new one be got without the application's doing? */
  get renewable(): boolean {
    return typeof this.source === "function";
  }

  /** A token that is here already. */
  get known(): string | undefined {
    return typeof this.source === "string" ? this.source : this.current;
  }

  /** The token in use; got first if there is none. */
  async get(): Promise<string> {
    return this.current ?? this.renew();
  }

  /** A new token, where there is a function to get one; otherwise the same. */
  async renew(): Promise<string> {
    if (typeof this.source === "string") return (this.current = this.source);
    if (this.pending) return this.pending;
    const asking = (this.pending = this.ask(this.source).finally(() => {
      if (this.pending === asking) this.pending = undefined;
    }));
    return asking;
  }

  /** `token` was refused: the next {@link get} asks for another. */
  refuse(token: string): void {
    if (this.renewable && this.current === token) this.current = undefined;
  }

  /** Uses another source from now on. */
  replace(source: TokenSource): void {
    this.source = source;
    this.current = undefined;
    this.pending = undefined;
  }

  private async ask(source: () => Promise<string>): Promise<string> {
    const late = () => new ChatError("auth_unavailable", `the token function gave nothing within ${this.timeoutMs} ms`);
    const nth = ++this.asked;
    const given = Promise.resolve()
      .then(source)
      .then(
        (token) => this.take(source, nth, token),
        (thrown: unknown) => {
          throw new ChatError("auth_unavailable", `the token function failed: ${ChatError.from(thrown).message}`);
        },
      );
    return within(this.timeoutMs, given, late);
  }

  /** A token that comes too late for those who waited is good for the next. */
  private take(source: TokenSource, nth: number, token: unknown): string {
    if (typeof token !== "string" || token === "") throw new ChatError("auth_unavailable", "the token function gave no token");
    if (source === this.source && nth > this.newest) {
      this.newest = nth;
      this.current = token;
    }
    return token;
  }
}

/** The user of a token, read without checking it: the server does that. Undefined when it cannot be read. */
export function userOf(token: string): UserId | undefined {
  const payload = token.split(".")[1];
  if (payload === undefined) return undefined;
  try {
    const bytes = Uint8Array.from(atob(payload.replaceAll("-", "+").replaceAll("_", "/")), (char) => char.charCodeAt(0));
    const claims: unknown = JSON.parse(new TextDecoder().decode(bytes));
    const subject = (claims as { sub?: unknown } | null)?.sub;
    return typeof subject === "string" ? subject : undefined;
  } catch {
    return undefined;
  }
}
