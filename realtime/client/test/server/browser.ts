/** What tabs of one browser share: Web Locks and broadcast channels, in this process. */
import { vi } from "vitest";

interface Waiting {
  grant(): void;
  readonly signal: AbortSignal | undefined;
}

class Locks {
  private readonly queues = new Map<string, Waiting[]>();
  private readonly holders = new Map<string, () => void>();

  async query() {
    return { held: [...this.holders.keys()].map((name) => ({ name })), pending: [] };
  }

  request(name: string, options: { ifAvailable?: boolean; signal?: AbortSignal }, work: (lock: object | null) => unknown): Promise<unknown> {
    if (options.ifAvailable && this.holders.has(name)) return Promise.resolve(work(null));
    return new Promise((resolve, reject) => {
      const grant = () => {
        const done = Promise.resolve(work({ name })).finally(() => this.release(name));
        this.holders.set(name, () => this.release(name));
        done.then(resolve, reject);
      };
      if (!this.holders.has(name)) return grant();
      this.queues.set(name, [...(this.queues.get(name) ?? []), { grant, signal: options.signal }]);
      options.signal?.addEventListener("abort", () => reject(new DOMException("aborted", "AbortError")));
    });
  }

  /** A tab that crashes, or is closed, holds nothing any more. */
  release(name: string): void {
    this.holders.delete(name);
    const next = (this.queues.get(name) ?? []).find(({ signal }) => !signal?.aborted);
    this.queues.set(name, (this.queues.get(name) ?? []).filter((one) => one !== next));
    next?.grant();
  }
}

class Channel {
  static readonly open = new Set<Channel>();
  onmessage: ((event: { data: unknown }) => void) | null = null;

  constructor(readonly name: string) {
    Channel.open.add(this);
  }

  postMessage(data: unknown): void {
    for (const other of Channel.open) if (other !== this && other.name === this.name) queueMicrotask(() => other.onmessage?.({ data }));
  }

  close(): void {
    Channel.open.delete(this);
  }
}

/** A browser whose tabs are this process's clients; ends with `vi.unstubAllGlobals`. */
export function browser(): Locks {
  const locks = new Locks();
  Channel.open.clear();
  vi.stubGlobal("navigator", { locks });
  vi.stubGlobal("BroadcastChannel", Channel);
  return locks;
}
