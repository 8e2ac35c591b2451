/**
 * Keeps a WebSocket open: connects, resumes, renews the token, measures, and connects again with full jitter.
 *
 * Invariants: at most one socket is open. Attempts end only where the protocol says that neither waiting nor a new token helps, where
 * the token is a text that was refused, or where the application's function gives no token that the server ever accepted. Waits are
 * counted by a clock that only goes on.
 */
import { monotonicMs } from "./clock.js";
import { ChatError, closingOf } from "./errors.js";
import { Latency } from "./latency.js";
import type { Settings, WebSocketConstructor } from "./settings.js";
import { Socket, type Closing } from "./socket.js";
import { fullJitter, Timer } from "./timer.js";
import type { TokenKeeper } from "./token.js";
import type { Hello, Resume } from "./types.gen.js";

/** Where the connection stands. */
export type Phase = "stopped" | "connecting" | "open" | "waiting";

export interface ConnectionHandlers {
  /** The position to resume from, requested at every attempt. */
  resume(): Resume | undefined;
  /** Connected. `resumed` is what was asked for. */
  up(hello: Hello, resumed: Resume | undefined): void;
  event(name: string, data: unknown): void;
  /** Not connected any more; every command was settled before. */
  down(): void;
  /** Phase, failures, latency or error changed. */
  changed(): void;
  /** No attempt will be made. */
  terminated(error: ChatError): void;
}

/** The least time between two renewals of a token that worked. */
const RENEW_AGAIN_MS = 1_000;
/** After how long a renewal that failed is tried again; the wait doubles. */
const RENEW_FAILED_MS = 5_000;
/** The longest wait after a renewal that failed. */
const RENEW_FAILED_LAST_MS = 60_000;
/** After a closing that means "later" the wait is at least that after so many failures. */
const FAILURES_LATER = 2;
/** The longest delay a timer takes. */
const TIMER_MAX_MS = 2 ** 31 - 1;

export class Connection {
  readonly latency = new Latency();
  private socket: Socket | undefined;
  private openSocket: Socket | undefined;
  private currentPhase: Phase = "stopped";
  private attempt = 0;
  private failureCount = 0;
  private notBefore = 0;
  private error: ChatError | undefined;
  /** The token of the open connection, or of the attempt. */
  private token = "";
  /** Tokens that were refused since one was accepted. */
  private refusedTokens = 0;
  private everAccepted = false;
  private renewalsFailed = 0;
  /** What was resumed was refused: the next attempt begins anew. */
  private afresh = false;
  private readonly retry = new Timer();
  private readonly stable = new Timer();
  private readonly ping = new Timer();
  private readonly renewal = new Timer();

  constructor(
    private readonly make: WebSocketConstructor,
    private readonly address: string,
    private readonly tokens: TokenKeeper,
    private readonly settings: Settings,
    private readonly handlers: ConnectionHandlers,
  ) {}

  get phase(): Phase {
    return this.currentPhase;
  }

  /** Attempts that failed since a connection was last stable. */
  get failures(): number {
    return this.failureCount;
  }

  /** Why it is not open. */
  get lastError(): ChatError | undefined {
    return this.error;
  }

  /** The socket commands go to, while open. */
  get live(): Socket | undefined {
    return this.openSocket;
  }

  start(): void {
    if (this.currentPhase !== "stopped") return;
    this.failureCount = 0;
    this.notBefore = 0;
    this.error = undefined;
    this.refusedTokens = 0;
    void this.connect();
  }

  stop(): void {
    this.attempt += 1;
    this.setPhase("stopped");
    for (const timer of [this.retry, this.stable, this.ping, this.renewal]) timer.stop();
    this.socket?.close();
    this.socket = undefined;
  }

  /**
   * The network is back, or the device: an attempt that waits is made now, unless the server asked for the wait, and a connection that
   * looks open has to prove it.
   */
  hurry(): void {
    if (this.openSocket) void this.measure(this.openSocket, this.settings.timing.wakeTimeoutMs);
    if (this.currentPhase !== "waiting") return;
    this.retry.start(Math.max(0, this.notBefore - monotonicMs()), () => void this.connect());
  }

  /** There is another token: the open connection goes on with it, and an attempt with the old one is made anew. */
  tokenReplaced(): void {
    this.refusedTokens = 0;
    if (this.openSocket) return void this.renew();
    if (this.currentPhase === "stopped") return;
    this.retry.stop();
    this.attempt += 1;
    this.socket?.close();
    this.socket = undefined;
    void this.connect();
  }

  /** Drops the socket, as if the network had, and connects again at once: for callers that find it dead. */
  drop(reason: ChatError): void {
    this.socket?.close(reason);
  }

  /** Goes on with a new token on the open connection. */
  async renew(): Promise<void> {
    const live = this.openSocket;
    if (!live) return;
    try {
      const token = await this.tokens.renew();
      if (live !== this.openSocket) return;
      this.token = token;
      const { expiresInMs } = await live.command("refresh_token", { token });
      if (live !== this.openSocket) return;
      this.error = undefined;
      this.renewalsFailed = 0;
      this.renewBefore(expiresInMs);
    } catch (thrown) {
      this.error = ChatError.from(thrown);
      this.handlers.changed();
      if (live === this.openSocket && this.tokens.renewable) this.renewAgain();
    }
  }

  private renewAgain(): void {
    const delayMs = Math.min(RENEW_FAILED_MS * 2 ** this.renewalsFailed, RENEW_FAILED_LAST_MS);
    this.renewalsFailed += 1;
    this.renewal.start(delayMs, () => void this.renew());
  }

  private async connect(): Promise<void> {
    const attempt = ++this.attempt;
    this.setPhase("connecting");
    let token: string;
    try {
      token = await this.tokens.get();
    } catch (thrown) {
      if (attempt === this.attempt) this.failed(ChatError.from(thrown));
      return;
    }
    if (attempt !== this.attempt) return;
    this.token = token;
    const resume = this.afresh ? undefined : this.handlers.resume();
    try {
      this.socket = this.open(attempt, token, resume);
    } catch (thrown) {
      this.failed(ChatError.from(thrown));
    }
  }

  private open(attempt: number, token: string, resume: Resume | undefined): Socket {
    const login = resume ? { token, resume } : { token };
    const current = () => attempt === this.attempt;
    const socket: Socket = new Socket(this.make, this.address, login, this.settings, {
      hello: (hello) => current() && this.up(socket, hello, resume),
      event: (name, data) => current() && this.receive(name, data),
      closed: (closing) => current() && this.down(closing, socket.accepted, resume !== undefined),
    });
    return socket;
  }

  private up(socket: Socket, hello: Hello, resumed: Resume | undefined): void {
    this.openSocket = socket;
    this.everAccepted = true;
    this.afresh = false;
    this.refusedTokens = 0;
    this.renewalsFailed = 0;
    this.notBefore = 0;
    this.error = undefined;
    this.latency.forget();
    this.stable.start(this.settings.timing.stableAfterMs, () => (this.failureCount = 0));
    this.renewBefore(hello.expiresInMs);
    this.setPhase("open");
    this.handlers.up(hello, resumed);
    void this.measure(socket, this.settings.timing.pongTimeoutMs);
  }

  private receive(name: string, data: unknown): void {
    if (name !== "reconnect") return this.handlers.event(name, data);
    const { afterMs } = data as { afterMs: number };
    this.notBefore = monotonicMs() + afterMs;
    this.retry.start(afterMs, () => this.drop(new ChatError("shutting_down", "the server asked to connect again")));
  }

  private down({ code, error }: Closing, accepted: boolean, resumed: boolean): void {
    const wasOpen = this.openSocket !== undefined;
    this.socket = this.openSocket = undefined;
    for (const timer of [this.retry, this.stable, this.ping, this.renewal]) timer.stop();
    if (wasOpen) this.handlers.down();
    const { name, comesBack } = closingOf(code);
    switch (comesBack) {
      case "never":
        if (accepted || !resumed) return this.terminate(error);
        this.afresh = true; // a login that resumes more than the server takes is refused whole
        return this.failed(error);
      case "with a new token":
        return this.refused(error);
      case "later":
        if (name !== undefined) this.failureCount = Math.max(this.failureCount, FAILURES_LATER);
        return this.failed(error);
      case "at once":
        return this.failed(error);
    }
  }

  /** The token was refused: a new one is asked for, at once the first time. */
  private refused(error: ChatError): void {
    this.tokens.refuse(this.token);
    this.refusedTokens += 1;
    if (!this.tokens.renewable) return this.terminate(error);
    if (this.refusedTokens > 1 && !this.everAccepted) return this.terminate(error);
    if (this.refusedTokens > 1) this.failureCount = Math.max(this.failureCount, FAILURES_LATER);
    this.failed(error);
  }

  private terminate(error: ChatError): void {
    this.error = error;
    this.attempt += 1;
    this.setPhase("stopped");
    this.handlers.terminated(error);
  }

  private failed(error: ChatError): void {
    this.error = error;
    const { backoffFirstMs, backoffLastMs } = this.settings.timing;
    const jitter = fullJitter(this.failureCount, backoffFirstMs, backoffLastMs, this.settings.random);
    this.failureCount += 1;
    const asked = this.notBefore - monotonicMs();
    this.retry.start(asked > 0 ? asked : jitter, () => void this.connect());
    this.setPhase("waiting");
  }

  private setPhase(phase: Phase): void {
    if (phase !== "open") this.openSocket = undefined;
    this.currentPhase = phase;
    this.handlers.changed();
  }

  private async measure(socket: Socket, timeoutMs: number): Promise<void> {
    const sentAt = monotonicMs();
    try {
      await socket.command("ping", {}, { timeoutMs });
    } catch (thrown) {
      const error = ChatError.from(thrown);
      if (error.code === "timeout" && socket === this.openSocket) return this.drop(error);
      if (socket !== this.openSocket) return;
    }
    if (socket !== this.openSocket) return;
    this.latency.add(Math.round(monotonicMs() - sentAt));
    this.handlers.changed();
    this.ping.start(this.settings.timing.pingEveryMs, () => void this.measure(socket, this.settings.timing.pongTimeoutMs));
  }

  /** The token's life is counted from now, as the server says it: this device's clock may be wrong. */
  private renewBefore(expiresInMs: number): void {
    if (!this.tokens.renewable || !Number.isFinite(expiresInMs)) return;
    const leadMs = Math.min(this.settings.timing.refreshBeforeMs, expiresInMs / 2);
    const delayMs = Math.max(expiresInMs - leadMs, RENEW_AGAIN_MS);
    this.renewal.start(Math.min(delayMs, TIMER_MAX_MS), () => void this.renew());
  }
}
