/**
 * Timers that know whether they run, and waiting times for repetitions.
 *
 * Invariant: one object holds at most one timer, so that stopping is complete.
 */

/** A single timer that can be set anew. */
export class Timer {
  private handle: ReturnType<typeof setTimeout> | undefined;

  /** Is one set? */
  get running(): boolean {
    return this.handle !== undefined;
  }

  /** Runs `action` in `delayMs`, instead of what was set before. */
  start(delayMs: number, action: () => void): void {
    this.stop();
    this.handle = setTimeout(() => {
      this.handle = undefined;
      action();
    }, Math.max(0, delayMs));
  }

  /** Like {@link start}, unless one is set already. */
  startOnce(delayMs: number, action: () => void): void {
    if (!this.running) this.start(delayMs, action);
  }

  stop(): void {
    clearTimeout(this.handle);
    this.handle = undefined;
  }
}

/** Full jitter: a random time between 0 and min(last, first · 2^failures), in milliseconds. */
export function fullJitter(failures: number, firstMs: number, lastMs: number, random: () => number): number {
  const bound = Math.min(lastMs, firstMs * 2 ** Math.min(failures, 30));
  return random() * bound;
}

/** Resolves after `delayMs`, or at once when `signal` aborts. */
export function pause(delayMs: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal?.aborted) return resolve();
    const done = () => {
      clearTimeout(handle);
      signal?.removeEventListener("abort", done);
      resolve();
    };
    const handle = setTimeout(done, Math.max(0, delayMs));
    signal?.addEventListener("abort", done);
  });
}

/** What `work` gives, or `late`'s error when that takes longer than `timeoutMs`. For code that is not this package's. */
export function within<T>(timeoutMs: number, work: Promise<T>, late: () => Error): Promise<T> {
  return new Promise((resolve, reject) => {
    const handle = setTimeout(() => reject(late()), timeoutMs);
    work.then(resolve, reject).finally(() => clearTimeout(handle));
  });
}
