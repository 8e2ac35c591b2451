/**
 * Which of the clients that run at the same time, such as the tabs of a browser, keeps its messages where.
 *
 * Invariants: a client holds the lock of its slot (Web Locks) as long as it runs, so that no two write in one place and no message
 * has two senders. What a client leaves behind is taken over by the next that starts, or by one that runs, once the browser has
 * released the lock. Where there are no locks (plain HTTP, older browsers) all share the first slot: then a message may be sent
 * twice, which the server recognises by its id (INV-IDEM).
 */
import { within } from "./timer.js";

/** Most clients of one user that keep their messages at the same time; those beyond keep them in memory. */
export const SLOTS = 32;
/** How long the browser may take to give a lock that is free. */
const LOCK_TIMEOUT_MS = 5_000;

type Release = () => void;

export class Slots {
  private own: { slot: number; release: Release } | undefined;
  private readonly ending = new AbortController();
  private readonly watched = new Set<number>();
  private channel: BroadcastChannel | undefined;

  constructor(
    private readonly name: string,
    /** A client has left its slot; it is held for this one until the promise is settled. */
    private readonly leftBehind: (slot: number) => Promise<void>,
  ) {}

  /** Takes a slot; undefined when there is none. */
  async take(): Promise<number | undefined> {
    for (let slot = 0; slot < SLOTS; slot++) {
      const release = await this.hold(slot);
      if (!release) continue;
      if (this.ending.signal.aborted) return void release();
      this.own = { slot, release };
      return slot;
    }
    return undefined;
  }

  /** From now on takes over what other clients leave behind. `isEmpty` says whether a slot has nothing. */
  async takeOver(isEmpty: (slot: number) => Promise<boolean>): Promise<void> {
    const manager = locks();
    if (!manager) return;
    this.announce();
    const { held } = await manager.query();
    const inUse = new Set(held?.map(({ name }) => name));
    for (let slot = 0; slot < SLOTS && !this.ending.signal.aborted; slot++) {
      if (slot === this.own?.slot) continue;
      if (inUse.has(this.nameOf(slot)) || !(await isEmpty(slot))) this.watch(slot);
    }
  }

  /** Gives the slot back. */
  leave(): void {
    this.ending.abort();
    this.channel?.close();
    this.own?.release();
    this.own = undefined;
  }

  private nameOf(slot: number): string {
    return `${this.name}.${slot}`;
  }

  /** Tells the others which slot this client has, and hears theirs. */
  private announce(): void {
    if (typeof BroadcastChannel === "undefined") return;
    const channel = (this.channel = new BroadcastChannel(this.name));
    (channel as { unref?: () => void }).unref?.(); // in Node it would keep the process
    channel.onmessage = ({ data }: MessageEvent<unknown>) => {
      if (typeof data === "number" && data !== this.own?.slot) this.watch(data);
    };
    channel.postMessage(this.own?.slot);
  }

  /** Takes over what is in a slot as soon as no client has it. */
  private watch(slot: number): void {
    if (this.watched.has(slot) || this.ending.signal.aborted) return;
    this.watched.add(slot);
    const { signal } = this.ending;
    locks()
      ?.request(this.nameOf(slot), { signal }, async () => {
        this.watched.delete(slot);
        await this.leftBehind(slot);
      })
      .catch(() => this.watched.delete(slot)); // this client ends
  }

  /** The lock of a slot, if it is free. */
  private hold(slot: number): Promise<Release | undefined> {
    const manager = locks();
    if (!manager) return Promise.resolve(() => undefined);
    const held = new Promise<Release | undefined>((resolve, reject) => {
      manager
        .request(this.nameOf(slot), { ifAvailable: true }, (lock) => {
          if (!lock) return resolve(undefined);
          return new Promise<void>((release) => resolve(release));
        })
        .catch(reject);
    });
    return within(LOCK_TIMEOUT_MS, held, () => new Error("no lock")).catch(() => undefined);
  }
}

function locks(): LockManager | undefined {
  return globalThis.navigator?.locks;
}
