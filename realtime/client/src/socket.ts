/**
 * One WebSocket from opening to closing: authentication, frames, answers, signs of life.
 *
 * Invariants: {@link SocketHandlers.closed} is called exactly once, and nothing after it. Every command is settled: by
 * its answer, at its deadline, or when the socket closes. Answers and events are handed on in the order in which they
 * arrived, on the caller's stack: what joins a conversation must be known before the conversation's first event is.
 */
import { ChatError, closingOf } from "./errors.js";
import { Pacer } from "./pacer.js";
import type { CommandAnswer, CommandData, CommandName, InFrame } from "./protocol.js";
import { DEFAULT_LIMITS, type Settings, type WebSocketConstructor, type WebSocketLike } from "./settings.js";
import { Timer } from "./timer.js";
import type { Hello, Resume, SessionLimits } from "./types.gen.js";

/** How a socket ended. */
export interface Closing {
  /** The WebSocket's close code; 1006 when it just broke. */
  code: number;
  error: ChatError;
}

export interface SocketHandlers {
  hello(hello: Hello): void;
  event(name: string, data: unknown): void;
  closed(closing: Closing): void;
}

export interface CommandOptions<Answer> {
  /** How long to wait for the answer, in milliseconds. */
  timeoutMs?: number;
  /** Called with the answer before anything that arrived later is handed on. */
  onAnswer?: (answer: Answer) => void;
}

interface Waiting {
  onAnswer: (answer: unknown) => void;
  reject: (error: ChatError) => void;
  timer: Timer;
  sent: boolean;
}

const CODE_BROKEN = 1006;
const CODE_NORMAL = 1000;

export class Socket {
  private readonly socket: WebSocketLike;
  private readonly waiting = new Map<number, Waiting>();
  private readonly pacer: Pacer;
  private readonly watchdog = new Timer();
  private readonly encoder = new TextEncoder();
  private nextAck = 1;
  private closed = false;
  private greeted = false;
  private silenceMs: number;
  private takes: SessionLimits = DEFAULT_LIMITS;

  constructor(
    make: WebSocketConstructor,
    address: string,
    login: { token: string; resume?: Resume },
    private readonly settings: Settings,
    private readonly handlers: SocketHandlers,
  ) {
    this.pacer = new Pacer(settings.bounds.commandsWaiting);
    this.silenceMs = settings.timing.connectTimeoutMs;
    this.socket = new make(address);
    this.socket.onopen = () => this.socket.send(JSON.stringify({ event: "authenticate", data: login }));
    this.socket.onmessage = ({ data }: { data: unknown }) => this.receive(data);
    // A close event follows, which says as much; but not when the page's Content-Security-Policy forbids the connection.
    this.socket.onerror = () => this.finish(CODE_BROKEN, "", new ChatError("connection_lost", "the WebSocket failed or was forbidden"));
    this.socket.onclose = ({ code, reason }: { code: number; reason: string }) => this.finish(code, reason);
    this.heard();
  }

  /** The server's limits. */
  get limits(): SessionLimits {
    return this.takes;
  }

  /** Sends a command, at most as fast as the server takes them, and waits for its answer. */
  command<Name extends CommandName>(
    name: Name,
    data: CommandData<Name>,
    options: CommandOptions<CommandAnswer<Name>> = {},
  ): Promise<CommandAnswer<Name>> {
    return new Promise((resolve, reject) => {
      const ack = this.nextAck++;
      const frame = JSON.stringify({ event: name, data, ack });
      const refusal = this.refusal(frame);
      if (refusal) return reject(refusal);
      const entry: Waiting = {
        onAnswer: (answer) => {
          options.onAnswer?.(answer as CommandAnswer<Name>);
          resolve(answer as CommandAnswer<Name>);
        },
        reject,
        timer: new Timer(),
        sent: false,
      };
      this.waiting.set(ack, entry);
      const send = () => this.sendNow(ack, entry, frame, options.timeoutMs ?? this.settings.timing.answerTimeoutMs);
      if (name === "ping") return send(); // what measures the connection does not wait in its queue
      if (this.pacer.enqueue(send)) return;
      this.waiting.delete(ack);
      reject(new ChatError("queue_full", "too many commands wait for their turn"));
    });
  }

  /** The server has accepted its login. */
  get accepted(): boolean {
    return this.greeted;
  }

  /** Closes it; the application wants it so, or it is not worth keeping. */
  close(error = new ChatError("client_closed", "closed by this client")): void {
    this.finish(CODE_NORMAL, error.message, error);
  }

  private refusal(frame: string): ChatError | undefined {
    if (this.closed || !this.greeted) return new ChatError("not_connected", "there is no connection");
    const bytes = this.encoder.encode(frame).length;
    if (bytes > this.takes.frameBytes) return new ChatError("frame_too_large", `${bytes} bytes; at most ${this.takes.frameBytes}`);
    if (this.waiting.size < this.settings.bounds.commandsWaiting) return undefined;
    return new ChatError("queue_full", "too many commands wait for their answers");
  }

  private sendNow(ack: number, entry: Waiting, frame: string, timeoutMs: number): void {
    entry.sent = true;
    entry.timer.start(timeoutMs, () => {
      this.waiting.delete(ack);
      entry.reject(new ChatError("timeout", `no answer within ${timeoutMs} ms`));
    });
    this.socket.send(frame);
  }

  private receive(data: unknown): void {
    if (this.closed) return;
    const frame = parse(data);
    if (!frame) return this.close(new ChatError("invalid_frame", "the server sent what is not a frame"));
    this.heard();
    if (frame.ack !== undefined) return this.answer(frame.ack, frame);
    if (frame.event === undefined) return;
    if (frame.event === "hello") this.greet(frame.data as Hello);
    else this.handlers.event(frame.event, frame.data);
  }

  private greet(hello: Hello): void {
    this.greeted = true;
    this.takes = { ...DEFAULT_LIMITS, ...hello.limits };
    this.silenceMs = hello.heartbeatIntervalMs + this.settings.timing.silenceSlackMs;
    this.pacer.setRate(this.takes.commandsPerSecond);
    this.heard();
    this.handlers.hello(hello);
  }

  private answer(ack: number, frame: InFrame): void {
    const entry = this.waiting.get(ack);
    if (!entry) return; // its deadline has passed
    this.waiting.delete(ack);
    entry.timer.stop();
    if (!frame.error) return entry.onAnswer(frame.data);
    entry.reject(ChatError.fromFailure(frame.error));
  }

  private heard(): void {
    this.watchdog.start(this.silenceMs, () => {
      this.finish(CODE_BROKEN, "", new ChatError("timeout", `nothing was heard for ${this.silenceMs} ms`));
    });
  }

  private finish(code: number, reason: string, error?: ChatError): void {
    if (this.closed) return;
    this.closed = true;
    this.watchdog.stop();
    this.pacer.stop();
    this.socket.onopen = this.socket.onmessage = this.socket.onclose = null;
    this.socket.onerror = () => undefined;
    closeQuietly(this.socket);
    const cause = error ?? closingError(code, reason);
    for (const entry of this.waiting.values()) {
      entry.timer.stop();
      entry.reject(new ChatError(entry.sent ? "connection_lost" : "not_connected", cause.message));
    }
    this.waiting.clear();
    this.handlers.closed({ code, error: cause });
  }
}

function parse(data: unknown): InFrame | undefined {
  if (typeof data !== "string") return undefined;
  try {
    const frame: unknown = JSON.parse(data);
    return typeof frame === "object" && frame !== null ? frame : undefined;
  } catch {
    return undefined;
  }
}

function closingError(code: number, reason: string): ChatError {
  const { name } = closingOf(code);
  return new ChatError(name ?? "connection_lost", reason || name || `the connection was closed with ${code}`);
}

function closeQuietly(socket: WebSocketLike): void {
  try {
    socket.close(CODE_NORMAL);
  } catch {
    // it was never open
  }
}
