/**
 * Sends no faster than the server takes.
 *
 * Invariant: over any second at most the given rate leaves, in order; what is refused for want of room was not sent.
 */
import { monotonicMs } from "./clock.js";
import { Timer } from "./timer.js";

/** The part of the server's rate that is used: its clock and the network's are not this one. */
const SHARE = 0.8;

/** More than a connection carries. */
const UNLIMITED_PER_SECOND = 1_000_000;

export class Pacer {
  private readonly waiting: (() => void)[] = [];
  private readonly timer = new Timer();
  private tokens = 1;
  private perSecond = 1;
  private filledAt = monotonicMs();

  constructor(private readonly waitingMax: number) {}

  /** Allows this many a second from now on; 0: as many as there are. */
  setRate(perSecond: number): void {
    this.perSecond = perSecond === 0 ? UNLIMITED_PER_SECOND : Math.max(1, perSecond * SHARE);
    this.tokens = this.burst;
    this.filledAt = monotonicMs();
    this.drain();
  }

  /** Calls `send` when it is its turn, at once if nothing waits. False: there is no room. */
  enqueue(send: () => void): boolean {
    if (this.waiting.length >= this.waitingMax) return false;
    this.waiting.push(send);
    this.drain();
    return true;
  }

  /** Forgets what waits. */
  stop(): void {
    this.timer.stop();
    this.waiting.length = 0;
  }

  private get burst(): number {
    return Math.max(1, Math.floor(this.perSecond / 2));
  }

  private drain(): void {
    const now = monotonicMs();
    this.tokens = Math.min(this.burst, this.tokens + ((now - this.filledAt) / 1000) * this.perSecond);
    this.filledAt = now;
    while (this.tokens >= 1 && this.waiting.length > 0) {
      this.tokens -= 1;
      this.waiting.shift()?.();
    }
    if (this.waiting.length === 0) return;
    const untilNextMs = Math.ceil(((1 - this.tokens) / this.perSecond) * 1000);
    this.timer.startOnce(untilNextMs, () => this.drain());
  }
}
