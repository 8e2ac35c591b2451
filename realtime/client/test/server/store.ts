/**
 * The server's log in memory: conversations with seq and rev, each user's list with its own rev.
 */
import type {
  Conversation,
  ConversationChanges,
  ConversationHead,
  HistoryPage,
  ListEntry,
  Member,
  Message,
  NewMessage,
  Problem,
  SyncPage,
  SyncRequest,
  Watermarks,
} from "../../src/types.gen.js";

export class Refusal extends Error {
  constructor(
    readonly code: Problem["code"] | "rate_limited",
    readonly retryAfterMs?: number,
  ) {
    super(code);
  }
}

export interface Happened {
  kind: "new_message" | "message_updated" | "message_deleted";
  message: Message;
}

interface Room {
  id: string;
  messages: Message[];
  rev: number;
  members: Map<string, Member>;
  byKey: Map<string, Message>;
}

interface Shelf {
  rev: number;
  entries: Map<string, { rev: number; removed: boolean; pinned: boolean }>;
}

const EPOCH = Date.UTC(2026, 0, 1);

export class Store {
  readonly rooms = new Map<string, Room>();
  private readonly shelves = new Map<string, Shelf>();
  private clock = EPOCH;
  /** Most changes that `sync` tells one by one. */
  syncMost = 1_000;
  /** Most messages in one answer of `sync`. */
  syncPage = 50;

  onMessage: (room: string, happened: Happened) => void = () => undefined;
  onMark: (room: string, kind: "messages_read" | "messages_delivered", user: string, seq: number) => void = () => undefined;
  onList: (user: string, entry: ListEntry, cursor: string) => void = () => undefined;
  onLeft: (room: string, user: string) => void = () => undefined;

  room(id: string, users: string[]): string {
    const members = users.map((userId): [string, Member] => [
      userId,
      { userId, role: "member", readSeq: 0, deliveredSeq: 0, joinedAt: this.now() },
    ]);
    this.rooms.set(id, { id, messages: [], rev: 1, members: new Map(members), byKey: new Map() });
    for (const user of users) this.touchList(user, id);
    return id;
  }

  send(user: string, id: string, given: NewMessage): { message: Message; created: boolean } {
    const room = this.of(user, id);
    const key = given.clientMsgId ? `${user}/${given.clientMsgId}` : undefined;
    const known = key && room.byKey.get(key);
    if (known) {
      if (known.content !== given.content) throw new Refusal("conflict_idempotency");
      return { message: room.messages[known.seq - 1]!, created: false };
    }
    if (given.content === "") throw new Refusal("invalid_request");
    const seq = room.messages.length + 1;
    const message: Message = {
      id: `${id}-${seq}`,
      conversationId: id,
      seq,
      rev: ++room.rev,
      senderId: user,
      content: given.content,
      messageType: given.messageType ?? "text",
      ...(given.clientMsgId && { clientMsgId: given.clientMsgId }),
      ...(given.replyTo && { replyTo: given.replyTo }),
      attachments: given.attachments ?? [],
      metadata: given.metadata ?? {},
      reactions: {},
      createdAt: this.now(),
      status: "sent",
    };
    room.messages.push(message);
    const sender = room.members.get(user)!;
    room.members.set(user, { ...sender, readSeq: seq, deliveredSeq: seq }); // whoever writes has read what came before
    if (key) room.byKey.set(key, message);
    this.changed(room, { kind: "new_message", message });
    return { message, created: true };
  }

  change(user: string, messageId: string, kind: Happened["kind"], what: (message: Message) => Partial<Message>): Message {
    const at = messageId.lastIndexOf("-");
    const room = this.of(user, messageId.slice(0, at));
    const seq = Number(messageId.slice(at + 1));
    const old = room.messages[seq - 1];
    if (!old) throw new Refusal("not_found");
    const message = { ...old, ...what(old), rev: ++room.rev };
    room.messages[seq - 1] = message;
    this.changed(room, { kind, message });
    return message;
  }

  edit(user: string, messageId: string, content: string): Message {
    return this.change(user, messageId, "message_updated", () => ({ content, editedAt: this.now() }));
  }

  delete(user: string, messageId: string): Message {
    return this.change(user, messageId, "message_deleted", () => ({ content: "", deletedAt: this.now() }));
  }

  react(user: string, messageId: string, emoji: string, remove: boolean): Message {
    return this.change(user, messageId, "message_updated", ({ reactions }) => {
      const others = (reactions[emoji] ?? []).filter((one) => one !== user);
      return { reactions: { ...reactions, [emoji]: remove ? others : [...others, user] } };
    });
  }

  mark(user: string, id: string, kind: "messages_read" | "messages_delivered", given?: number): Watermarks {
    const room = this.of(user, id);
    const member = room.members.get(user)!;
    const seq = Math.min(given ?? room.messages.length, room.messages.length);
    const readSeq = kind === "messages_read" ? Math.max(member.readSeq, seq) : member.readSeq;
    const next = { ...member, readSeq, deliveredSeq: Math.max(member.deliveredSeq, seq) };
    const moved = next.readSeq !== member.readSeq || next.deliveredSeq !== member.deliveredSeq;
    room.members.set(user, next);
    if (moved) {
      this.onMark(id, kind, user, seq);
      if (kind === "messages_read") this.touchList(user, id);
    }
    return { conversationId: id, readSeq, deliveredSeq: next.deliveredSeq, unreadCount: room.messages.length - readSeq };
  }

  remove(id: string, user: string): void {
    const room = this.rooms.get(id)!;
    room.members.delete(user);
    room.rev += 1;
    this.touchList(user, id, true);
    this.onLeft(id, user);
    for (const member of room.members.keys()) this.touchList(member, id);
  }

  head(user: string, id: string): ConversationHead {
    const room = this.of(user, id);
    return { conversationId: id, headSeq: room.messages.length, rev: room.rev };
  }

  /** Messages that are newer than `rev`, by rev. */
  since(user: string, id: string, rev: number): Message[] {
    return this.of(user, id)
      .messages.filter((message) => message.rev > rev)
      .sort((a, b) => a.rev - b.rev);
  }

  page(user: string, id: string, place: { before?: number; after?: number; around?: number }, limit: number): HistoryPage {
    const room = this.of(user, id);
    const head = room.messages.length;
    let first = head - limit + 1;
    if (place.before !== undefined) first = place.before - limit;
    if (place.after !== undefined) first = place.after + 1;
    if (place.around !== undefined) first = place.around - Math.floor(limit / 2);
    const last = Math.min(head, place.before === undefined ? first + limit - 1 : place.before - 1);
    first = Math.max(1, first);
    const messages = room.messages.slice(first - 1, Math.max(first - 1, last));
    return {
      messages,
      headSeq: head,
      rev: room.rev,
      hasMoreBefore: messages.length > 0 && first > 1,
      hasMoreAfter: messages.length > 0 && last < head,
      tiers: { hot: messages.length, archive: 0 },
    };
  }

  conversation(user: string, id: string): Conversation {
    const room = this.of(user, id);
    const { role, readSeq, deliveredSeq } = room.members.get(user)!;
    const { title: _, ...entry } = this.entry(user, id);
    return {
      id,
      kind: "group",
      metadata: {},
      membersMayPin: false,
      createdBy: "somebody",
      createdAt: new Date(EPOCH).toISOString(),
      headSeq: entry.headSeq,
      rev: room.rev,
      memberCount: room.members.size,
      members: [...room.members.values()],
      role,
      readSeq,
      deliveredSeq,
      unreadCount: entry.unreadCount,
    };
  }

  cursor(user: string): string {
    return String(this.shelf(user).rev);
  }

  listSince(user: string, cursor: string): { entry: ListEntry; cursor: string }[] {
    return [...this.shelf(user).entries]
      .filter(([, { rev }]) => rev > Number(cursor))
      .sort(([, a], [, b]) => a.rev - b.rev)
      .map(([id, { rev }]) => ({ entry: this.entry(user, id), cursor: String(rev) }));
  }

  list(user: string): ListEntry[] {
    return [...this.shelf(user).entries].filter(([, { removed }]) => !removed).map(([id]) => this.entry(user, id));
  }

  sync(user: string, request: SyncRequest): SyncPage {
    const changes = new Map<string, ConversationChanges>();
    const listed = this.listSince(user, request.cursor ?? "0").filter(({ entry }) => request.cursor || !entry.removed);
    for (const { entry } of listed) {
      const rev = request.conversations?.[entry.id] ?? entry.rev;
      changes.set(entry.id, { conversationId: entry.id, conversation: entry, messages: [], members: [], rev });
    }
    const page: SyncPage = { changes: [], cursor: this.cursor(user), hasMore: false, resync: [] };
    for (const [id, rev] of Object.entries(request.conversations ?? {})) {
      if (!this.rooms.get(id)?.members.has(user)) continue;
      const missed = this.since(user, id, rev);
      if (missed.length > this.syncMost) {
        page.resync!.push(this.head(user, id));
        continue;
      }
      const messages = missed.slice(0, this.syncPage);
      page.hasMore ||= messages.length < missed.length;
      const reached = messages.length < missed.length ? messages.at(-1)!.rev : this.rooms.get(id)!.rev;
      changes.set(id, { members: [], ...changes.get(id), conversationId: id, messages, rev: reached });
    }
    page.changes = [...changes.values()];
    return page;
  }

  private entry(user: string, id: string): ListEntry {
    const room = this.rooms.get(id)!;
    const shelved = this.shelf(user).entries.get(id);
    const last = room.messages.at(-1);
    const readSeq = room.members.get(user)?.readSeq ?? 0;
    return {
      id,
      kind: "group",
      headSeq: room.messages.length,
      rev: room.rev,
      readSeq,
      unreadCount: room.messages.length - readSeq,
      unreadMentions: 0,
      memberCount: room.members.size,
      members: [...room.members.keys()],
      ...(last && {
        lastMessage: { seq: last.seq, senderId: last.senderId, content: last.content, messageType: last.messageType, createdAt: last.createdAt },
      }),
      lastActivityAt: last?.createdAt ?? new Date(EPOCH).toISOString(),
      pinned: shelved?.pinned ?? false,
      muted: false,
      ...(shelved?.removed && { removed: true }),
    };
  }

  private of(user: string, id: string): Room {
    const room = this.rooms.get(id);
    if (!room?.members.has(user)) throw new Refusal("not_a_member");
    return room;
  }

  private shelf(user: string): Shelf {
    const shelf = this.shelves.get(user) ?? { rev: 0, entries: new Map() };
    this.shelves.set(user, shelf);
    return shelf;
  }

  private touchList(user: string, id: string, removed = false): void {
    const shelf = this.shelf(user);
    shelf.rev += 1;
    shelf.entries.set(id, { rev: shelf.rev, removed, pinned: shelf.entries.get(id)?.pinned ?? false });
    this.onList(user, this.entry(user, id), String(shelf.rev));
  }

  private changed(room: Room, happened: Happened): void {
    this.onMessage(room.id, happened);
    for (const member of room.members.keys()) this.touchList(member, room.id);
  }

  private now(): string {
    this.clock += 1_000;
    return new Date(this.clock).toISOString();
  }
}
