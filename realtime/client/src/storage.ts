/**
 * Keeps unsent messages over a restart, and the user who wrote them.
 *
 * Invariants: stored messages belong to one user; another user's client never reads them. Each client that runs writes in its own slot
 * (`slots.ts`), and what it did not put there it leaves there. A message that cannot be read back is dropped, so that a damaged entry does
 * not stop the client. No wait for the application's storage is longer than {@link STORAGE_TIMEOUT_MS}.
 */
import { Slots } from "./slots.js";
import { within } from "./timer.js";
import type { ConversationId, NewMessage, Timestamp, UserId } from "./types.gen.js";

/** How long the storage may take to read or write an item. */
const STORAGE_TIMEOUT_MS = 5_000;

/** As much of `localStorage` as is used here; the methods may also be asynchronous. */
export interface OutboxStorage {
  getItem(key: string): string | null | Promise<string | null>;
  setItem(key: string, value: string): void | Promise<void>;
  removeItem(key: string): void | Promise<void>;
}

/** An unsent message as it is stored. */
export interface SavedMessage {
  conversationId: ConversationId;
  message: NewMessage & { clientMsgId: string };
  createdAt: Timestamp;
  failed?: { code: string; message: string };
}

/** Takes messages that another client left behind; gives those for which there is no room. */
export type TakeOver = (left: SavedMessage[]) => SavedMessage[];

/** Where the messages of a user are kept, while this client serves that user. */
interface Place {
  readonly base: string;
  readonly slots: Slots;
  /** This client's slot; undefined while it has none. */
  key: string | undefined;
  /** The messages that this client has put there. */
  put: ReadonlySet<string>;
}

export class OutboxStore {
  private place: Place | undefined;
  private writing: Promise<void> = Promise.resolve();
  private scheduled = false;

  constructor(
    private readonly storage: OutboxStorage | undefined,
    private readonly prefix: string,
    private readonly takeOver: TakeOver,
  ) {}

  /** The user of the last client with this storage. */
  async lastUser(): Promise<UserId | undefined> {
    return (await this.get(`${this.prefix}.user`)) ?? undefined;
  }

  /** Keeps this user as the last. */
  remember(user: UserId): void {
    this.chain(() => this.set(`${this.prefix}.user`, user));
  }

  /** From now on for this user; hands over what was stored. `keep`: what of the messages of the user before stays theirs. */
  async openFor(user: UserId, keep: SavedMessage[]): Promise<void> {
    if (!this.storage) return;
    await this.close(keep);
    const base = `${this.prefix}.outbox.${user}`;
    const slots = new Slots(base, (slot) => this.adopt(place, slot));
    const place: Place = (this.place = { base, slots, key: undefined, put: new Set() });
    const slot = await slots.take();
    if (slot === undefined || this.place !== place) return slots.leave();
    const key = keyOf(base, slot);
    const left = await this.read(key);
    if (left === undefined) return; // nothing may be stored over what cannot be read
    place.put = this.take(left);
    place.key = key;
    void slots.takeOver(async (other) => (await this.get(keyOf(base, other))) === null);
  }

  /** Stores what `current` gives, after what runs now; several calls in a row store once. */
  save(current: () => SavedMessage[]): void {
    if (!this.place?.key || this.scheduled) return;
    this.scheduled = true;
    this.chain(() => {
      this.scheduled = false;
      return this.write(this.place, current());
    });
  }

  /** Stores `last` as it is, and leaves the messages to the next client. */
  async close(last: SavedMessage[]): Promise<void> {
    const { place } = this;
    this.place = undefined;
    this.chain(() => this.write(place, last));
    await this.writing;
    place?.slots.leave();
  }

  private chain(work: () => Promise<void>): void {
    this.writing = this.writing.then(work).catch(() => undefined);
  }

  /** What another client of the user left in its slot becomes this one's. */
  private async adopt(place: Place, slot: number): Promise<void> {
    const key = keyOf(place.base, slot);
    const left = await this.read(key);
    if (left === undefined || left.length === 0 || this.place !== place) return;
    const taken = this.take(left);
    await this.writing; // they are in this client's slot before they leave the other
    await this.put(
      key,
      left.filter(({ message }) => !taken.has(message.clientMsgId)),
    );
  }

  private take(left: SavedMessage[]): Set<string> {
    const refused = new Set(left.length > 0 ? this.takeOver(left) : []);
    return new Set(left.filter((one) => !refused.has(one)).map(({ message }) => message.clientMsgId));
  }

  private async write(place: Place | undefined, mine: SavedMessage[]): Promise<void> {
    if (!place?.key) return;
    const put = new Set(mine.map(({ message }) => message.clientMsgId));
    const stored = await this.read(place.key);
    if (stored === undefined) return;
    const others = stored.filter(({ message: { clientMsgId } }) => !put.has(clientMsgId) && !place.put.has(clientMsgId));
    await this.put(place.key, [...others, ...mine]);
    place.put = put;
  }

  private async put(key: string, messages: SavedMessage[]): Promise<void> {
    if (messages.length > 0) return this.set(key, JSON.stringify(messages));
    await this.bounded(() => this.storage?.removeItem(key));
  }

  /** The messages of a slot; undefined when the storage does not give them now. */
  private async read(key: string): Promise<SavedMessage[] | undefined> {
    const text = await this.get(key);
    if (text === undefined) return undefined;
    try {
      const saved: unknown = JSON.parse(text ?? "[]");
      return Array.isArray(saved) ? saved.filter(isSaved) : [];
    } catch {
      return [];
    }
  }

  private async get(key: string): Promise<string | null | undefined> {
    return this.bounded(() => this.storage?.getItem(key));
  }

  private async set(key: string, value: string): Promise<void> {
    await this.bounded(() => this.storage?.setItem(key, value));
  }

  /** A storage that is full, forbidden or stuck does not stop the client: the messages stay in memory. */
  private async bounded<T>(work: () => T | Promise<T>): Promise<T | undefined> {
    try {
      return await within(STORAGE_TIMEOUT_MS, Promise.resolve(work()), () => new Error("the storage does not answer"));
    } catch {
      return undefined;
    }
  }
}

/** The first slot has the name by which the messages were kept before there were slots. */
function keyOf(base: string, slot: number): string {
  return slot === 0 ? base : `${base}.${slot}`;
}

function isSaved(value: unknown): value is SavedMessage {
  const saved = value as Partial<SavedMessage> | null;
  return (
    typeof saved?.conversationId === "string" &&
    typeof saved.createdAt === "string" &&
    typeof saved.message?.content === "string" &&
    typeof saved.message.clientMsgId === "string"
  );
}
