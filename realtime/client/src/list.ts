/**
 * The user's conversations, kept live.
 *
 * Invariants: an entry never goes back to an earlier rev, and its read watermark never moves back. The cursor is only
 * moved on while everything before it is in the list. The list is bounded; the least active conversations are left out.
 */
import { Observable } from "./emitter.js";
import type { ChatError } from "./errors.js";
import type { ConversationId, ListEntry, Message, Seq, SyncPage, UnreadCount } from "./types.gen.js";

interface Held {
  entry: ListEntry;
  /** When it was changed last, counted in changes of the list. */
  touchedAt: number;
}

/** Longest text of a preview, in characters. */
const PREVIEW_CHARACTERS = 100;

export class ConversationListStore {
  /** Pinned first, then the latest activity first. Immutable: a change makes a new array. */
  readonly entries = new Observable<readonly ListEntry[]>([]);
  /** Over the conversations in the list. */
  readonly unread = new Observable<UnreadCount>({ total: 0, conversations: 0, mentions: 0 });
  /** Why the list cannot be loaded, while that is tried again; its message says what to do. */
  readonly error = new Observable<ChatError | undefined>(undefined);
  private readonly held = new Map<ConversationId, Held>();
  private position: string | undefined;
  private complete = false;
  private changes = 0;

  constructor(private readonly most: number) {}

  /** Where to go on from. */
  get cursor(): string | undefined {
    return this.position;
  }

  /** Everything up to the cursor is here. */
  get synced(): boolean {
    return this.complete;
  }

  /** A moment, to be given to {@link applySync} with what was asked for at it. */
  get now(): number {
    return this.changes;
  }

  get(id: ConversationId): ListEntry | undefined {
    return this.held.get(id)?.entry;
  }

  /** Changes before the next event are missing: the cursor stays until they are synced. */
  distrust(): void {
    this.complete = false;
  }

  /** An event's entry. */
  applyEvent(entry: ListEntry, cursor: string): void {
    this.take(entry);
    if (this.complete) this.position = cursor;
    this.publish();
  }

  /** A page of `sync` that was asked for at `askedAt`. Events that came since know better. */
  applySync(page: SyncPage, askedAt: number): void {
    for (const { conversation } of page.changes) {
      if (!conversation) continue;
      const held = this.held.get(conversation.id);
      const overtaken = held && held.touchedAt > askedAt && held.entry.rev >= conversation.rev;
      if (!overtaken) this.take(conversation);
    }
    this.position = page.cursor;
    if (!page.hasMore) this.complete = true;
    this.publish();
  }

  /** A new message in an open conversation, or a change of its newest one: large conversations cause no other event. */
  sawMessage(message: Message): void {
    const held = this.held.get(message.conversationId);
    if (!held || message.seq < held.entry.headSeq) return;
    const isKnown = message.seq === held.entry.headSeq;
    if (isKnown && message.rev <= held.entry.rev) return;
    const { seq, senderId, content, messageType, createdAt } = message;
    const deleted = message.deletedAt !== undefined;
    const named = isKnown && content === "" && !deleted ? (held.entry.lastMessage?.content ?? "") : content;
    const preview = [...named].slice(0, PREVIEW_CHARACTERS).join("");
    this.put({
      ...held.entry,
      headSeq: seq,
      rev: Math.max(held.entry.rev, message.rev),
      lastMessage: { seq, senderId, content: preview, messageType, createdAt, ...(deleted && { deleted }) },
      lastActivityAt: createdAt,
    });
    this.publish();
  }

  /** The user has read up to `seq`, here or elsewhere. */
  sawRead(id: ConversationId, seq: Seq): void {
    const held = this.held.get(id);
    if (!held || seq <= held.entry.readSeq) return;
    this.put({ ...held.entry, readSeq: seq });
    this.publish();
  }

  /** The user is no member any more. */
  remove(id: ConversationId): void {
    if (this.held.delete(id)) this.publish();
  }

  private take(entry: ListEntry): void {
    const known = this.held.get(entry.id)?.entry;
    if (known && known.rev > entry.rev) return this.put({ ...known, pinned: entry.pinned, muted: entry.muted });
    if (entry.removed) this.held.delete(entry.id);
    else this.put({ ...entry, readSeq: Math.max(entry.readSeq, known?.readSeq ?? 0) });
  }

  private put(entry: ListEntry): void {
    const unreadCount = Math.max(0, entry.headSeq - entry.readSeq);
    const unreadMentions = unreadCount === 0 ? 0 : entry.unreadMentions;
    this.held.set(entry.id, { entry: { ...entry, unreadCount, unreadMentions }, touchedAt: ++this.changes });
  }

  private publish(): void {
    const sorted = [...this.held.values()].map(({ entry }) => entry).sort(byActivity);
    for (const { id } of sorted.splice(this.most)) this.held.delete(id);
    this.entries.set(sorted);
    const total = sorted.reduce((sum, entry) => sum + entry.unreadCount, 0);
    const conversations = sorted.filter((entry) => entry.unreadCount > 0).length;
    const mentions = sorted.reduce((sum, entry) => sum + entry.unreadMentions, 0);
    const before = this.unread.get();
    const isSame = before.total === total && before.conversations === conversations && before.mentions === mentions;
    if (!isSame) this.unread.set({ total, conversations, mentions });
  }
}

/** Pinned first, then the latest first; ids decide what remains. Times are RFC 3339 in UTC, so they sort as text. */
function byActivity(a: ListEntry, b: ListEntry): number {
  if (a.pinned !== b.pinned) return a.pinned ? -1 : 1;
  if (a.lastActivityAt !== b.lastActivityAt) return a.lastActivityAt > b.lastActivityAt ? -1 : 1;
  return a.id > b.id ? -1 : 1;
}
