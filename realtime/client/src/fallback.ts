/**
 * Life without a WebSocket: asks for changes over HTTP, often while something happens and seldom while nothing does.
 *
 * Invariant: at most one poll is under way, and polls come no more often than the shortest interval.
 */
import { monotonicMs } from "./clock.js";
import { ChatError } from "./errors.js";
import type { Settings } from "./settings.js";
import { Timer } from "./timer.js";

/** How the interval grows while nothing happens or nothing answers. */
const GROWTH = 1.5;

export interface FallbackHandlers {
  /** Catches up; true when anything was new. */
  poll(): Promise<boolean>;
  /** Whether HTTP works has changed, or why it does not. */
  changed(): void;
}

export class HttpFallback {
  private running = false;
  private polling = false;
  private answers = false;
  private error: ChatError | undefined;
  private intervalMs: number;
  private dueAt = 0;
  private readonly timer = new Timer();

  constructor(
    private readonly settings: Settings,
    private readonly handlers: FallbackHandlers,
  ) {
    this.intervalMs = settings.timing.pollFirstMs;
  }

  /** It runs, and the last poll was answered. */
  get working(): boolean {
    return this.running && this.answers;
  }

  /** Why the last poll was not answered. */
  get lastError(): ChatError | undefined {
    return this.error;
  }

  start(): void {
    if (this.running) return;
    this.running = true;
    this.answers = false;
    this.hurry();
  }

  stop(): void {
    this.running = false;
    this.answers = false;
    this.timer.stop();
  }

  /** Something happens: ask often again, and the first time soon. */
  hurry(): void {
    if (!this.running) return;
    const soonMs = this.answers ? this.settings.timing.pollFirstMs : 0;
    this.intervalMs = this.settings.timing.pollFirstMs;
    if (!this.timer.running || this.dueAt > monotonicMs() + soonMs) this.pollIn(soonMs);
  }

  private async poll(): Promise<void> {
    if (this.polling) return;
    this.polling = true;
    const { pollFirstMs, pollLastMs } = this.settings.timing;
    const slower = Math.min(this.intervalMs * GROWTH, pollLastMs);
    try {
      this.intervalMs = (await this.handlers.poll()) ? pollFirstMs : slower;
      this.tell(true, undefined);
    } catch (thrown) {
      this.intervalMs = slower;
      this.tell(false, ChatError.from(thrown));
    } finally {
      this.polling = false;
    }
    if (!this.running) return;
    this.pollIn(this.intervalMs * (0.75 + this.settings.random() / 2));
  }

  private pollIn(delayMs: number): void {
    this.dueAt = monotonicMs() + delayMs;
    this.timer.start(delayMs, () => void this.poll());
  }

  private tell(answers: boolean, error: ChatError | undefined): void {
    if (!this.running) return;
    const changed = answers !== this.answers || error !== this.error;
    this.answers = answers;
    this.error = error;
    if (changed) this.handlers.changed();
  }
}
