/**
 * The presence of the watched users, and this user's own status.
 *
 * Invariant: what was asked for is asked for again on every connection. Without a WebSocket nothing is known, and
 * nothing is claimed.
 */
import type { Calls } from "./calls.js";
import { Observable } from "./emitter.js";
import type { OwnStatus } from "./protocol.js";
import { DEFAULT_LIMITS, type Settings } from "./settings.js";
import { Task } from "./task.js";
import type { Presence as UserPresence, UserId } from "./types.gen.js";

export class Presence {
  /** The presence of each watched user. Immutable: a change makes a new map. Empty while there is no connection. */
  readonly users = new Observable<ReadonlyMap<UserId, UserPresence>>(new Map());
  private named: ReadonlySet<UserId> = new Set();
  private readonly held = new Set<readonly UserId[]>();
  private watched: ReadonlySet<UserId> = new Set();
  private subscribed = false;
  private own: OwnStatus | undefined;
  private readonly subscribing: Task;
  private readonly telling: Task;

  constructor(
    private readonly calls: Calls,
    settings: Settings,
  ) {
    this.subscribing = new Task(() => this.subscribe(), settings);
    this.telling = new Task(() => this.tell(), settings);
  }

  /** Watches these users instead of those before: at most as many as the server takes (200); the rest is left out. */
  watch(userIds: Iterable<UserId>): void {
    this.named = new Set(userIds);
    this.rewatch();
  }

  /** Watches these users as well, until the result is called. Those of {@link watch} come first where there are too many. */
  hold(userIds: readonly UserId[]): () => void {
    const held = [...userIds];
    this.held.add(held);
    this.rewatch();
    return () => {
      if (this.held.delete(held)) this.rewatch();
    };
  }

  private rewatch(): void {
    const all = new Set([...this.named, ...[...this.held].flat()]);
    if (all.size === this.watched.size && [...all].every((user) => this.watched.has(user))) return;
    this.watched = all;
    this.users.set(new Map([...this.users.get()].filter(([user]) => this.watched.has(user))));
    this.subscribing.request();
  }

  /** Says this of the user, on this connection and the next ones. `offline` hides them. */
  announce(status: OwnStatus): void {
    this.own = status;
    this.telling.request();
  }

  /** Connected: what was asked for is asked for again. */
  up(): void {
    this.subscribed = false;
    if (this.watched.size > 0) this.subscribing.request();
    if (this.own) this.telling.request();
  }

  down(): void {
    this.subscribed = false;
    this.users.set(new Map());
  }

  online({ userId, status }: UserPresence): void {
    this.put({ userId, status });
  }

  offline({ userId, lastSeen }: UserPresence): void {
    this.put({ userId, status: "offline", ...(lastSeen && { lastSeen }) });
  }

  stop(): void {
    this.subscribing.stop();
    this.telling.stop();
  }

  restart(): void {
    this.subscribing.restart();
    this.telling.restart();
  }

  private put(user: UserPresence): void {
    if (this.watched.has(user.userId)) this.users.set(new Map(this.users.get()).set(user.userId, user));
  }

  private async subscribe(): Promise<void> {
    const live = this.calls.live;
    if (!live || (this.watched.size === 0 && !this.subscribed)) return;
    const userIds = [...this.watched].slice(0, live.limits.presenceUsers || DEFAULT_LIMITS.presenceUsers);
    this.subscribed = true;
    await live.command("presence_subscribe", { userIds }, { onAnswer: ({ users }) => users.forEach((user) => this.put(user)) });
  }

  private async tell(): Promise<void> {
    if (this.own && this.calls.live) await this.calls.command("presence_update", { status: this.own });
  }
}
