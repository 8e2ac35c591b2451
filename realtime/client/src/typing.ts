/**
 * Typing: telling it without flooding, and showing it without believing in its end.
 *
 * Invariants: at most one `typing_start` per interval leaves; it ends by itself. Others are shown only as long as they
 * renew it, as the event that ends it may be lost.
 */
import type { Timing } from "./settings.js";
import { monotonicMs } from "./clock.js";
import { Timer } from "./timer.js";
import type { UserId } from "./types.gen.js";

/** This user's typing in one conversation. */
export class OwnTyping {
  private readonly end = new Timer();
  private toldAt = Number.NEGATIVE_INFINITY;

  constructor(
    private readonly timing: Timing,
    private readonly tell: (isTyping: boolean) => void,
  ) {}

  /** A key was pressed. */
  key(): void {
    this.end.start(this.timing.typingStopMs, () => this.stop());
    const now = monotonicMs();
    if (now - this.toldAt < this.timing.typingEveryMs) return;
    this.toldAt = now;
    this.tell(true);
  }

  /** The text was sent or cleared. */
  stop(): void {
    if (!this.end.running && this.toldAt === Number.NEGATIVE_INFINITY) return;
    this.end.stop();
    this.toldAt = Number.NEGATIVE_INFINITY;
    this.tell(false);
  }
}

/** Users shown as typing at most. */
const SHOWN_MAX = 20;

/** The other users who type in one conversation. */
export class OthersTyping {
  private readonly timers = new Map<UserId, Timer>();
  private shown: readonly UserId[] = [];

  constructor(
    private readonly timing: Timing,
    private readonly changed: () => void,
  ) {}

  /** In the order in which they began. Immutable: a change makes a new array. */
  get users(): readonly UserId[] {
    return this.shown;
  }

  started(user: UserId): void {
    const known = this.timers.get(user);
    if (!known && this.timers.size >= SHOWN_MAX) return;
    const timer = known ?? new Timer();
    this.timers.set(user, timer);
    timer.start(this.timing.typingShownMs, () => this.stopped(user));
    if (!known) this.publish();
  }

  stopped(user: UserId): void {
    this.timers.get(user)?.stop();
    if (this.timers.delete(user)) this.publish();
  }

  clear(): void {
    for (const timer of this.timers.values()) timer.stop();
    if (this.timers.size === 0) return;
    this.timers.clear();
    this.publish();
  }

  private publish(): void {
    this.shown = [...this.timers.keys()];
    this.changed();
  }
}
