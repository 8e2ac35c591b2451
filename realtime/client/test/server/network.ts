/**
 * A network inside the process for tests with fake timers: delays, breaks, and the same every time.
 */
import type { WebSocketLike } from "../../src/settings.js";
import { Hub, type Session } from "./hub.js";

export class Network {
  /** WebSockets get through. */
  sockets = true;
  /** HTTP gets through. */
  http = true;
  /** The way of a frame or request in one direction, in milliseconds. */
  delay: () => number = () => 1;
  /** The same for HTTP. */
  httpDelay: () => number = () => 1;
  /** This HTTP request breaks: before it arrives, or after it was done. */
  breakHttp: () => "no" | "before" | "after" = () => "no";
  /** What something in between answers instead of the server. */
  intercept: (path: string) => Response | undefined = () => undefined;
  readonly open = new Set<FakeSocket>();

  constructor(readonly hub: Hub) {}

  /** Breaks every connection; frames under way are lost. */
  cut(): void {
    for (const socket of [...this.open]) socket.break(1006);
  }

  readonly WebSocket = (() => {
    const network = this;
    return class extends FakeSocket {
      constructor(address: string) {
        super(network, address);
      }
    };
  })();

  readonly fetch: typeof fetch = async (input, init) => {
    const url = new URL(String(input));
    const page = this.intercept(url.pathname);
    if (page) {
      await this.travel(init?.signal);
      return page;
    }
    const fate = this.breakHttp();
    await this.travel(init?.signal);
    if (!this.http || fate === "before") throw new TypeError("fetch failed");
    const headers = new Headers(init?.headers);
    const answer = this.hub.rest({
      method: init?.method ?? "GET",
      path: url.pathname,
      query: url.searchParams,
      body: init?.body ? JSON.parse(String(init.body)) : undefined,
      token: headers.get("Authorization")!.slice("Bearer ".length),
    });
    const text = JSON.stringify(answer.body);
    await this.travel(init?.signal);
    if (!this.http || fate === "after") throw new TypeError("fetch failed");
    const type = answer.status < 400 ? "application/json" : "application/problem+json";
    return new Response(text, { status: answer.status, headers: { "Content-Type": type } });
  };

  private travel(signal: AbortSignal | null | undefined): Promise<void> {
    return new Promise((resolve, reject) => {
      setTimeout(resolve, this.httpDelay());
      signal?.addEventListener("abort", () => reject(new DOMException("aborted", "AbortError")));
    });
  }
}

export class FakeSocket implements WebSocketLike {
  readyState = 0;
  onopen: ((event: never) => void) | null = null;
  onmessage: ((event: never) => void) | null = null;
  onerror: ((event: never) => void) | null = null;
  onclose: ((event: never) => void) | null = null;
  /** Frames no longer pass, and nobody is told. */
  frozen = false;
  private session: Session | undefined;
  private arrivesAt = { in: 0, out: 0 };

  constructor(
    private readonly network: Network,
    readonly address: string,
  ) {
    network.open.add(this);
    setTimeout(() => this.begin(), network.delay());
  }

  send(text: string): void {
    this.later("out", () => this.session?.receive(text));
  }

  close(code = 1000): void {
    if (this.readyState === 3) return;
    this.session?.gone();
    this.end(code, "");
  }

  break(code: number): void {
    this.session?.gone();
    this.end(code, "");
  }

  private begin(): void {
    if (this.readyState !== 0) return;
    if (!this.network.sockets) return this.break(1006);
    this.session = this.network.hub.accept({
      send: (data) => this.later("in", () => this.onmessage?.({ data } as never)),
      close: (code, reason) => this.later("in", () => this.end(code, reason)),
    });
    this.readyState = 1;
    this.onopen?.({} as never);
  }

  private end(code: number, reason: string): void {
    if (this.readyState === 3) return;
    this.readyState = 3;
    this.network.open.delete(this);
    this.onclose?.({ code, reason } as never);
  }

  /** In order, each after its own delay. */
  private later(way: "in" | "out", action: () => void): void {
    const now = Date.now();
    this.arrivesAt[way] = Math.max(this.arrivesAt[way], now + this.network.delay());
    setTimeout(() => this.readyState === 1 && !this.frozen && action(), this.arrivesAt[way] - now);
  }
}
