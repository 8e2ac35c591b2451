/**
 * Messages on their way to the server.
 *
 * Invariants: messages of a conversation are sent one after the other, in the order they were given. Each keeps its
 * clientMsgId through every attempt, on every connection and over a restart, so that it is stored once (INV-IDEM): one that
 * is older than the server is sure to recognise is left to the user. A message leaves only by being stored or discarded. The
 * number that wait is bounded. Messages are sent for the user who wrote them: before the first token that is the last user, and when
 * the token is another's, the last user's stay in the storage and those of this start go with the token.
 */
import { uniqueId } from "./clock.js";
import { ChatError } from "./errors.js";
import type { Settings } from "./settings.js";
import { OutboxStore, type OutboxStorage, type SavedMessage } from "./storage.js";
import { fullJitter, Timer } from "./timer.js";
import type { ConversationId, Message, MessageType, NewMessage, Timestamp, UserId } from "./types.gen.js";

/** The options of a message beside its text. */
export type SendOptions = Omit<NewMessage, "content">;

/** A message that the server does not have yet, as far as is known. */
export interface PendingMessage {
  /** On its way, or given up until {@link Outbox.retry}. */
  readonly state: "sending" | "failed";
  /** The same as `state`, where a stored message has `sent`, `delivered` or `read`. */
  readonly status: "sending" | "failed";
  /** The same as `clientMsgId`, until the message is stored and the server has given it an id. */
  readonly id: string;
  readonly clientMsgId: string;
  readonly conversationId: ConversationId;
  readonly senderId: UserId;
  readonly content: string;
  readonly messageType: MessageType;
  readonly replyTo?: string | null;
  readonly attachments: readonly { [key: string]: unknown }[];
  readonly metadata: { readonly [key: string]: unknown };
  /** When it was given, by this device's clock. */
  readonly createdAt: Timestamp;
  /** Why it failed. */
  readonly error?: ChatError;
}

/** The result of {@link Outbox.add}. */
export interface Outgoing {
  readonly clientMsgId: string;
  /** The message as stored; rejects when it failed for good or was discarded. Need not be looked at. */
  readonly stored: Promise<Message>;
}

export interface OutboxHandlers {
  /** One attempt to send. */
  deliver(conversationId: ConversationId, message: NewMessage): Promise<Message>;
  /** May attempts be made now? */
  reachable(): boolean;
  /** The server has it. Called before it leaves the outbox. */
  stored(message: Message): void;
  /** The messages of this conversation changed. */
  changed(conversationId: ConversationId): void;
}

interface Entry {
  /** It was stored by an earlier client, or by another. */
  readonly restored: boolean;
  readonly message: NewMessage & { clientMsgId: string };
  readonly createdAt: Timestamp;
  readonly resolve: (message: Message) => void;
  readonly reject: (error: ChatError) => void;
  error: ChatError | undefined;
  /** How often the server answered "try again", its rate limits left out. */
  attempts: number;
  /** How often an attempt failed, for whatever reason. */
  failures: number;
  /** The user asked for it again. */
  retried: boolean;
}

interface Lane {
  readonly entries: Entry[];
  readonly pause: Timer;
  busy: boolean;
}

export class Outbox {
  private readonly lanes = new Map<ConversationId, Lane>();
  private count = 0;
  private user: UserId = "";
  private closed = false;
  private readonly store: OutboxStore;

  constructor(
    private readonly handlers: OutboxHandlers,
    private readonly settings: Settings,
    storage: OutboxStorage | undefined,
    storageKey: string,
  ) {
    this.store = new OutboxStore(storage, storageKey, (saved) => this.restore(saved));
  }

  /** How many wait. */
  get size(): number {
    return this.count;
  }

  /** Begins, if the user is not known yet with the messages of the last one. */
  async begin(user?: UserId): Promise<void> {
    this.closed = false;
    const known = this.user || user;
    if (known) return this.open(known, []);
    const last = await this.store.lastUser();
    if (last && this.user === "") await this.open(last, []);
  }

  /** The token names this user. */
  async openFor(user: UserId): Promise<void> {
    this.store.remember(user);
    if (user === this.user) return;
    await this.open(user, this.leaveRestored());
  }

  private async open(user: UserId, keep: SavedMessage[]): Promise<void> {
    this.user = user;
    await this.store.openFor(user, keep);
    this.store.save(() => this.toSave(this.entries));
    for (const conversationId of this.lanes.keys()) this.handlers.changed(conversationId);
  }

  /** The messages of the user before leave this client; gives them. */
  private leaveRestored(): SavedMessage[] {
    const theirs = this.entries.filter(([, entry]) => entry.restored);
    for (const [conversationId, entry] of theirs) {
      const lane = this.lanes.get(conversationId);
      if (lane) this.take(conversationId, lane, entry);
    }
    return this.toSave(theirs);
  }

  /** Brings back what was stored; gives that for which there is no room. */
  private restore(saved: SavedMessage[]): SavedMessage[] {
    const refused: SavedMessage[] = [];
    for (const one of saved) {
      const { conversationId, message, createdAt, failed } = one;
      if (this.find(message.clientMsgId)) continue;
      if (this.count >= this.settings.bounds.outbox) {
        refused.push(one);
        continue;
      }
      const { entry } = newEntry(message, createdAt, true);
      if (failed) entry.error = new ChatError(failed.code, failed.message);
      const lane = this.laneOf(conversationId);
      // What was given since this start is younger; what is under way cannot be overtaken any more.
      const younger = lane.entries.findIndex((other, at) => !other.restored && !(lane.busy && at === 0));
      lane.entries.splice(younger < 0 ? lane.entries.length : younger, 0, entry);
      this.count += 1;
    }
    for (const [conversationId, lane] of this.lanes) {
      this.touch(conversationId);
      void this.pump(conversationId, lane);
    }
    return refused;
  }

  private get entries(): [ConversationId, Entry][] {
    return [...this.lanes].flatMap(([conversationId, { entries }]) => entries.map((entry): [ConversationId, Entry] => [conversationId, entry]));
  }

  /**
   * Takes a message to send.
   *
   * @throws ChatError `queue_full` when too many wait.
   */
  add(conversationId: ConversationId, content: string, options: SendOptions = {}): Outgoing {
    if (this.closed) throw new ChatError("client_closed", "the client was closed");
    if (this.count >= this.settings.bounds.outbox) throw new ChatError("queue_full", "too many messages wait to be sent");
    const clientMsgId = options.clientMsgId ?? uniqueId();
    const { entry, stored } = newEntry({ ...options, content, clientMsgId }, new Date().toISOString(), false);
    this.append(conversationId, entry);
    return { clientMsgId, stored };
  }

  /** Sends a failed message again, after those that wait. */
  retry(clientMsgId: string): void {
    const found = this.find(clientMsgId);
    if (!found?.entry.error) return;
    const { conversationId, lane, entry } = found;
    lane.entries.splice(lane.entries.indexOf(entry), 1);
    lane.entries.push(entry);
    entry.error = undefined;
    entry.attempts = entry.failures = 0;
    entry.retried = true;
    this.touch(conversationId);
    void this.pump(conversationId, lane);
  }

  /** Forgets a message. One that is on its way may be stored all the same. */
  discard(clientMsgId: string): void {
    const found = this.find(clientMsgId);
    if (!found) return;
    this.remove(found.conversationId, found.lane, found.entry);
    found.entry.reject(new ChatError("discarded", "the message was discarded"));
  }

  /** An event brought a message: if it waits here, it is stored. */
  confirm(message: Message): void {
    if (!message.clientMsgId || message.senderId !== this.user) return;
    const lane = this.lanes.get(message.conversationId);
    const entry = lane?.entries.find((one) => one.message.clientMsgId === message.clientMsgId);
    if (!lane || !entry) return;
    this.remove(message.conversationId, lane, entry);
    entry.resolve(message);
  }

  /** Attempts can be made again. */
  flush(): void {
    for (const [conversationId, lane] of this.lanes) {
      lane.pause.stop();
      void this.pump(conversationId, lane);
    }
  }

  /** The messages that wait for a conversation, in order. */
  pendingOf(conversationId: ConversationId): PendingMessage[] {
    const entries = this.lanes.get(conversationId)?.entries ?? [];
    return entries.map((entry) => ({
      state: entry.error ? "failed" : "sending",
      status: entry.error ? "failed" : "sending",
      id: entry.message.clientMsgId,
      clientMsgId: entry.message.clientMsgId,
      conversationId,
      senderId: this.user,
      content: entry.message.content,
      messageType: entry.message.messageType ?? "text",
      ...(entry.message.replyTo && { replyTo: entry.message.replyTo }),
      attachments: entry.message.attachments ?? [],
      metadata: entry.message.metadata ?? {},
      createdAt: entry.createdAt,
      ...(entry.error && { error: entry.error }),
    }));
  }

  /** Sends no more, until {@link begin}; what is stored stays for the next start, or for another client that runs. */
  async close(): Promise<void> {
    this.closed = true;
    for (const lane of this.lanes.values()) lane.pause.stop();
    await this.store.close(this.toSave(this.entries));
  }

  private append(conversationId: ConversationId, entry: Entry): void {
    const lane = this.laneOf(conversationId);
    lane.entries.push(entry);
    this.count += 1;
    this.touch(conversationId);
    void this.pump(conversationId, lane);
  }

  private laneOf(conversationId: ConversationId): Lane {
    const lane = this.lanes.get(conversationId) ?? { entries: [], pause: new Timer(), busy: false };
    this.lanes.set(conversationId, lane);
    return lane;
  }

  private remove(conversationId: ConversationId, lane: Lane, entry: Entry): void {
    if (this.take(conversationId, lane, entry)) this.touch(conversationId);
  }

  private take(conversationId: ConversationId, lane: Lane, entry: Entry): boolean {
    const at = lane.entries.indexOf(entry);
    if (at < 0) return false;
    lane.entries.splice(at, 1);
    this.count -= 1;
    this.dropEmpty(conversationId, lane);
    return true;
  }

  private async pump(conversationId: ConversationId, lane: Lane): Promise<void> {
    if (lane.busy) return;
    lane.busy = true;
    for (let next = this.next(lane); next; next = this.next(lane)) {
      await this.attempt(conversationId, lane, next);
    }
    lane.busy = false;
    this.dropEmpty(conversationId, lane);
  }

  private dropEmpty(conversationId: ConversationId, lane: Lane): void {
    if (lane.entries.length > 0 || lane.busy || this.lanes.get(conversationId) !== lane) return;
    lane.pause.stop();
    this.lanes.delete(conversationId);
  }

  private next(lane: Lane): Entry | undefined {
    if (this.closed || lane.pause.running || !this.handlers.reachable()) return undefined;
    return lane.entries.find((entry) => !entry.error);
  }

  private async attempt(conversationId: ConversationId, lane: Lane, entry: Entry): Promise<void> {
    if (!entry.retried && Date.now() - Date.parse(entry.createdAt) > this.settings.timing.repeatForMs) {
      this.giveUp(conversationId, entry, new ChatError("too_old", "the message waited too long to be sent without asking"));
      return;
    }
    try {
      const message = await this.handlers.deliver(conversationId, entry.message);
      if (!lane.entries.includes(entry)) return; // its event came first, or it was discarded
      this.handlers.stored(message);
      this.remove(conversationId, lane, entry);
      entry.resolve(message);
    } catch (thrown) {
      if (lane.entries.includes(entry)) this.failed(conversationId, lane, entry, ChatError.from(thrown));
    }
  }

  private failed(conversationId: ConversationId, lane: Lane, entry: Entry, error: ChatError): void {
    const { backoffFirstMs, backoffLastMs } = this.settings.timing;
    const passes = error.retryable || error.aboutToken || error.code === "queue_full" || error.code === "client_closed";
    if (!error.network && error.code !== "rate_limited") entry.attempts += 1;
    entry.failures += 1;
    if (passes && entry.attempts < this.settings.bounds.sendAttempts) {
      const jitterMs = fullJitter(entry.failures, backoffFirstMs, backoffLastMs, this.settings.random);
      lane.pause.start((error.retryAfterMs ?? 0) + jitterMs, () => void this.pump(conversationId, lane));
      return;
    }
    this.giveUp(conversationId, entry, error);
  }

  private giveUp(conversationId: ConversationId, entry: Entry, error: ChatError): void {
    entry.error = error;
    entry.reject(error);
    this.touch(conversationId);
  }

  private find(clientMsgId: string): { conversationId: ConversationId; lane: Lane; entry: Entry } | undefined {
    for (const [conversationId, lane] of this.lanes) {
      const entry = lane.entries.find((one) => one.message.clientMsgId === clientMsgId);
      if (entry) return { conversationId, lane, entry };
    }
    return undefined;
  }

  private touch(conversationId: ConversationId): void {
    this.store.save(() => this.toSave(this.entries));
    this.handlers.changed(conversationId);
  }

  private toSave(entries: readonly [ConversationId, Entry][]): SavedMessage[] {
    return entries.map(([conversationId, { message, createdAt, error }]) => ({
      conversationId,
      message,
      createdAt,
      ...(error && { failed: { code: error.code, message: error.message } }),
    }));
  }
}

function newEntry(message: Entry["message"], createdAt: Timestamp, restored: boolean): { entry: Entry; stored: Promise<Message> } {
  let settle: Pick<Entry, "resolve" | "reject"> | undefined;
  const stored = new Promise<Message>((resolve, reject) => (settle = { resolve, reject }));
  stored.catch(() => undefined); // a caller may ignore the promise
  return { entry: { restored, message, createdAt, error: undefined, attempts: 0, failures: 0, retried: false, ...settle! }, stored };
}
