/**
 * Keeps a WebSocket open: connects, resumes, renews the token, measures, and connects again with full jitter.
 *
 * Invariants: at most one socket is open. After a terminal closing (4500–4999) no attempt is made until
 * {@link Connection.start} is called again; a token that has expired is the exception where a new one can be got.
 */
import { ChatError, CLOSE_TOKEN_EXPIRED, FIRST_TERMINAL_CLOSE } from "./errors.js";
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

/** The least time between two renewals of a token, whatever the clocks say. */
const RENEW_AGAIN_MS = 1_000;
/** When the server's end of a token lies in this clock's past, the clocks disagree: renew after this. */
const RENEW_SKEWED_MS = 5_000;
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
    void this.connect();
  }

  stop(): void {
    this.attempt += 1;
    this.setPhase("stopped");
    for (const timer of [this.retry, this.stable, this.ping, this.renewal]) timer.stop();
    this.socket?.close();
    this.socket = undefined;
  }

  /** The network is back: an attempt that waits is made now, unless the server asked for the wait. */
  hurry(): void {
    if (this.currentPhase !== "waiting") return;
    this.retry.start(Math.max(0, this.notBefore - Date.now()), () => void this.connect());
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
      const { expiresAt } = await live.command("refresh_token", { token });
      if (live === this.openSocket) this.renewBefore(expiresAt);
    } catch (thrown) {
      this.error = ChatError.from(thrown);
      this.handlers.changed();
      if (live === this.openSocket && this.tokens.renewable) this.renewal.start(RENEW_SKEWED_MS, () => void this.renew());
    }
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
    const resume = this.handlers.resume();
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
      closed: (closing) => current() && this.down(closing, token),
    });
    return socket;
  }

  private up(socket: Socket, hello: Hello, resumed: Resume | undefined): void {
    this.openSocket = socket;
    this.notBefore = 0;
    this.error = undefined;
    this.latency.forget();
    this.stable.start(this.settings.timing.stableAfterMs, () => (this.failureCount = 0));
    this.renewBefore(hello.expiresAt);
    this.setPhase("open");
    this.handlers.up(hello, resumed);
    void this.measure(socket);
  }

  private receive(name: string, data: unknown): void {
    if (name !== "reconnect") return this.handlers.event(name, data);
    const { afterMs } = data as { afterMs: number };
    this.notBefore = Date.now() + afterMs;
    this.retry.start(afterMs, () => this.drop(new ChatError("shutting_down", "the server asked to connect again")));
  }

  private down({ code, error }: Closing, token: string): void {
    const wasOpen = this.openSocket !== undefined;
    this.socket = this.openSocket = undefined;
    for (const timer of [this.retry, this.stable, this.ping, this.renewal]) timer.stop();
    if (wasOpen) this.handlers.down();
    if (error.aboutToken) this.tokens.refuse(token);
    const renewed = code === CLOSE_TOKEN_EXPIRED && this.tokens.renewable;
    if (code >= FIRST_TERMINAL_CLOSE && code < 5000 && !renewed) return this.terminate(error);
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
    const asked = this.notBefore - Date.now();
    this.retry.start(asked > 0 ? asked : jitter, () => void this.connect());
    this.setPhase("waiting");
  }

  private setPhase(phase: Phase): void {
    if (phase !== "open") this.openSocket = undefined;
    this.currentPhase = phase;
    this.handlers.changed();
  }

  private async measure(socket: Socket): Promise<void> {
    const sentAt = Date.now();
    try {
      await socket.command("ping", {}, { timeoutMs: this.settings.timing.pongTimeoutMs });
    } catch (thrown) {
      const error = ChatError.from(thrown);
      if (error.code === "timeout" && socket === this.openSocket) return this.drop(error);
      if (socket !== this.openSocket) return;
    }
    if (socket !== this.openSocket) return;
    this.latency.add(Date.now() - sentAt);
    this.handlers.changed();
    this.ping.start(this.settings.timing.pingEveryMs, () => void this.measure(socket));
  }

  private renewBefore(expiresAt: string): void {
    if (!this.tokens.renewable) return;
    const remainingMs = Date.parse(expiresAt) - Date.now();
    const leadMs = Math.min(this.settings.timing.refreshBeforeMs, remainingMs / 2);
    const delayMs = remainingMs > 0 ? Math.max(remainingMs - leadMs, RENEW_AGAIN_MS) : RENEW_SKEWED_MS;
    if (Number.isNaN(delayMs)) return;
    this.renewal.start(Math.min(delayMs, TIMER_MAX_MS), () => void this.renew());
  }
}
