/**
 * Keeps unsent messages over a restart.
 *
 * Invariant: stored messages belong to one user; another user's client never reads them. A message that cannot be read back is
 * dropped, so that a damaged entry does not stop the client.
 */
import type { ConversationId, NewMessage, Timestamp, UserId } from "./types.gen.js";

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

export class OutboxStore {
  private key: string | undefined;
  private writing: Promise<void> = Promise.resolve();
  private scheduled = false;

  constructor(
    private readonly storage: OutboxStorage | undefined,
    private readonly prefix: string,
  ) {}

  /** From now on for this user; gives what was stored. */
  async openFor(user: UserId): Promise<SavedMessage[]> {
    if (!this.storage) return [];
    const key = `${this.prefix}.outbox.${user}`;
    try {
      const saved: unknown = JSON.parse((await this.storage.getItem(key)) ?? "[]");
      return Array.isArray(saved) ? saved.filter(isSaved) : [];
    } catch {
      return [];
    } finally {
      this.key = key; // not before it was read: nothing may be stored over what is there
    }
  }

  /** Stores what `current` gives, after what runs now; several calls in a row store once. */
  save(current: () => SavedMessage[]): void {
    if (!this.storage || this.key === undefined || this.scheduled) return;
    this.scheduled = true;
    this.writing = this.writing.then(() => {
      this.scheduled = false;
      return this.write(current());
    });
  }

  /** Resolves once all pending writes are done. */
  async saved(): Promise<void> {
    await this.writing;
  }

  private async write(messages: SavedMessage[]): Promise<void> {
    if (!this.storage || this.key === undefined) return;
    try {
      if (messages.length === 0) await this.storage.removeItem(this.key);
      else await this.storage.setItem(this.key, JSON.stringify(messages));
    } catch {
      // full or forbidden: the messages stay in memory
    }
  }
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
