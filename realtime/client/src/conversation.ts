/**
 * An open conversation: its messages, typing users, receipts, and its actions.
 *
 * Invariant: {@link ConversationState} is immutable and replaced at every change. An own message is in it exactly once:
 * as pending until the server has it, as stored from then on.
 */
import { ChatError } from "./errors.js";
import type { Calls } from "./calls.js";
import { Observable } from "./emitter.js";
import { ConversationLog } from "./log.js";
import type { ConversationListStore } from "./list.js";
import type { OwnMarks } from "./marks.js";
import type { Outbox, Outgoing, PendingMessage, SendOptions } from "./outbox.js";
import { Receipts, type Watermark } from "./receipts.js";
import type { Settings } from "./settings.js";
import { Task } from "./task.js";
import type { StoredMessage } from "./timeline.js";
import { Timer } from "./timer.js";
import { OthersTyping, OwnTyping } from "./typing.js";
import type { ConversationChanges, ConversationHead, ConversationId, ListEntry, Message, MessageEvent, Receipt, Rev, Seq, SeqRange, UserId, UserTyping } from "./types.gen.js";

/** A message as it is shown; `state` distinguishes the two kinds. */
export type ChatMessage = StoredMessage | PendingMessage;

export interface ConversationState {
  /** `left`: the user is no member any more. `failed`: it could not be opened. */
  readonly status: "loading" | "ready" | "left" | "failed";
  /** Why it could not be opened or, while that is tried again, be loaded; its message says what to do. */
  readonly error?: ChatError;
  /** Oldest first; own messages that are not stored yet come last. */
  readonly messages: readonly ChatMessage[];
  readonly hasMoreBefore: boolean;
  /** The reader has scrolled so far back that the newest messages are not kept; see {@link ConversationView.loadAfter}. */
  readonly hasMoreAfter: boolean;
  /** The newest message's number, kept or not. */
  readonly headSeq: Seq;
  /** Messages between the kept ones that cannot be had just now. */
  readonly missing: readonly SeqRange[];
  /** The other users who type now, in the order in which they began. */
  readonly typingUsers: readonly UserId[];
  /** Up to where members have received and read, as far as is known. */
  readonly watermarks: ReadonlyMap<UserId, Watermark>;
}

/** The part of the client that a conversation needs. */
export interface ConversationContext {
  readonly calls: Calls;
  readonly settings: Settings;
  readonly outbox: Outbox;
  readonly marks: OwnMarks;
  readonly list: ConversationListStore;
  readonly autoDelivered: boolean;
  me(): UserId | undefined;
  catchUp(): void;
  release(view: ConversationView): void;
}

const EMPTY: ConversationState = {
  status: "loading",
  messages: [],
  hasMoreBefore: false,
  hasMoreAfter: false,
  headSeq: 0,
  missing: [],
  typingUsers: [],
  watermarks: new Map(),
};

export class ConversationView {
  /** The state to show. */
  readonly state = new Observable<ConversationState>(EMPTY);
  /** Resolves when the first page is there; rejects when it cannot be opened. Need not be looked at. */
  readonly ready: Promise<void>;
  private settleReady: { resolve: () => void; reject: (error: ChatError) => void } | undefined;
  private ended: Pick<ConversationState, "status" | "error"> | undefined;
  private trouble: ChatError | undefined;
  private readonly log: ConversationLog;
  private readonly receipts = new Receipts();
  private readonly ownTyping: OwnTyping;
  private readonly othersTyping: OthersTyping;
  private readonly learning: Task;
  private readonly learnLater = new Timer();
  private learned = false;

  /** @internal */
  constructor(
    readonly id: ConversationId,
    private readonly context: ConversationContext,
  ) {
    const { calls, settings } = context;
    this.ready = new Promise((resolve, reject) => (this.settleReady = { resolve, reject }));
    this.ready.catch(() => undefined);
    this.log = new ConversationLog(id, calls, settings, {
      changed: () => this.messagesChanged(),
      fellBehind: () => context.catchUp(),
      failed: (error) => this.end(error.code === "not_a_member" ? "left" : "failed", error),
      troubled: (error) => {
        this.trouble = error;
        this.publish();
      },
    });
    this.ownTyping = new OwnTyping(settings.timing, (isTyping) => this.tellTyping(isTyping));
    this.othersTyping = new OthersTyping(settings.timing, () => this.publish());
    this.learning = new Task(() => this.learnMembers(), settings);
  }

  /**
   * Sends a message: it is in {@link state} at once and stays there whatever the connection does.
   *
   * @throws ChatError `queue_full` when too many messages wait (200 unless set otherwise).
   */
  send(content: string, options?: SendOptions): Outgoing {
    this.ownTyping.stop();
    return this.context.outbox.add(this.id, content, options);
  }

  /** Adds the page before the first message. False: there is none. */
  loadBefore(): Promise<boolean> {
    return this.log.loadBefore();
  }

  /** Adds the page after the last message, after scrolling far back. False: the newest message is there. */
  loadAfter(): Promise<boolean> {
    return this.log.loadAfter();
  }

  /** Shows the messages around this one instead. */
  jumpTo(seq: Seq): Promise<void> {
    return this.log.jump({ around: seq });
  }

  /** Shows the newest messages again. */
  jumpToLatest(): Promise<void> {
    return this.log.jump({});
  }

  /** The user has read up to `seq`, by default everything. Told after a moment, together with what follows. */
  markRead(seq: Seq = this.log.timeline.headSeq): void {
    if (seq < 1) return;
    this.context.marks.read(this.id, seq);
    this.context.list.sawRead(this.id, seq);
  }

  /** This device has received up to `seq`. Done by itself unless switched off. */
  markDelivered(seq: Seq = this.log.timeline.headSeq): void {
    if (seq >= 1) this.context.marks.delivered(this.id, seq);
  }

  /** Call it at every key: others see the user typing, at most one event per 3 s, until 5 s after the last key. */
  typing(): void {
    this.ownTyping.key();
  }

  /** The text was cleared. Sending ends typing by itself. */
  stopTyping(): void {
    this.ownTyping.stop();
  }

  /** Closes it, when every {@link ChatClient.open} of it was followed by a close. */
  close(): void {
    this.context.release(this);
  }

  /** @internal */
  get syncedRev(): Rev | undefined {
    return this.ended ? undefined : this.log.syncedRev;
  }

  /** @internal */
  get behind(): boolean {
    return !this.ended && this.log.behind;
  }

  /** @internal */
  open(): void {
    if (this.ended) return;
    this.log.open();
    this.learning.request();
  }

  /** @internal */
  up(resumedFrom: Rev | undefined): void {
    if (this.ended?.status === "left") return;
    this.ended = undefined;
    this.log.up(resumedFrom);
    const { random, timing } = this.context.settings;
    // Receipts are not resumed. Not all clients shall ask at the same moment.
    this.learnLater.start(this.learned ? random() * timing.pollFirstMs : 0, () => this.learning.request());
  }

  /** @internal */
  down(): void {
    this.log.down();
    this.othersTyping.clear();
  }

  /** @internal */
  stop(): void {
    this.ownTyping.stop();
    this.othersTyping.clear();
    for (const part of [this.log, this.learning, this.learnLater]) part.stop();
    this.settleReady?.reject(new ChatError("client_closed", "the conversation was closed"));
  }

  /** @internal */
  joined(head: ConversationHead): void {
    this.log.joinedAt(head);
  }

  /** @internal */
  resync(head: ConversationHead): void {
    this.log.resync(head);
  }

  /** @internal */
  message({ message }: MessageEvent): void {
    this.othersTyping.stopped(message.senderId);
    this.receipts.wrote(message);
    this.log.event(message);
    if (this.context.autoDelivered && message.senderId !== this.context.me()) this.markDelivered(message.seq);
  }

  /** @internal */
  answered(message: Message): void {
    this.log.answer(message);
  }

  /** @internal */
  marked(event: Receipt, read: boolean): void {
    if (read) this.receipts.read(event.readBy, event.seq);
    else this.receipts.delivered(event.readBy, event.seq);
    this.receiptsChanged();
  }

  /** @internal */
  typed({ userId, isTyping }: UserTyping): void {
    if (userId === this.context.me()) return;
    if (isTyping) this.othersTyping.started(userId);
    else this.othersTyping.stopped(userId);
  }

  /** @internal */
  listed(entry: ListEntry): void {
    if (entry.removed) return this.left();
    if (this.ended?.status === "left") this.comeBack();
    this.log.expect(entry.rev);
  }

  /** @internal */
  pendingChanged(): void {
    this.publish();
  }

  /** @internal */
  applyChanges(from: Rev, changes: ConversationChanges): void {
    this.receipts.learnMembers(changes.members);
    for (const message of changes.messages) this.receipts.wrote(message);
    this.log.applyChanges(from, changes);
  }

  /** @internal */
  reload(headSeq: Seq): Promise<void> {
    return this.log.reload(headSeq);
  }

  /** @internal */
  left(): void {
    this.end("left", new ChatError("not_a_member", "no member of the conversation any more"));
  }

  private end(status: "left" | "failed", error: ChatError): void {
    this.ended = { status, error };
    this.log.down();
    this.othersTyping.clear();
    this.settleReady?.reject(error);
    this.publish();
  }

  /** The user was made a member again. */
  private comeBack(): void {
    this.ended = undefined;
    this.log.up(undefined);
    this.publish();
  }

  private messagesChanged(): void {
    if (this.log.timeline.loaded) this.settleReady?.resolve();
    this.receiptsChanged();
  }

  private receiptsChanged(): void {
    const me = this.context.me();
    const everyone = me === undefined ? undefined : this.receipts.everyoneBut(me);
    if (everyone) this.log.timeline.update((message) => (message.senderId === me ? advanced(message, everyone) : message));
    this.publish();
  }

  private publish(): void {
    const { timeline } = this.log;
    const status = timeline.loaded ? "ready" : "loading";
    this.state.set({
      status,
      ...(this.trouble && { error: this.trouble }),
      ...this.ended,
      messages: this.withPending(timeline.messages),
      hasMoreBefore: timeline.loaded && timeline.hasMoreBefore,
      hasMoreAfter: !timeline.attached,
      headSeq: timeline.headSeq,
      missing: timeline.holes(),
      typingUsers: this.othersTyping.users,
      watermarks: this.receipts.byUser,
    });
  }

  private withPending(stored: readonly StoredMessage[]): readonly ChatMessage[] {
    const pending = this.context.outbox.pendingOf(this.id);
    if (pending.length === 0 || !this.log.timeline.attached) return stored;
    const me = this.context.me();
    const known = new Set(stored.map((message) => (message.senderId === me ? message.clientMsgId : undefined)));
    return [...stored, ...pending.filter(({ clientMsgId }) => !known.has(clientMsgId))];
  }

  private tellTyping(isTyping: boolean): void {
    const told = this.context.calls.live?.command(isTyping ? "typing_start" : "typing_stop", { conversationId: this.id });
    told?.catch(() => undefined); // of no importance a moment later
  }

  private async learnMembers(): Promise<void> {
    this.receipts.learn(await this.context.calls.conversation(this.id));
    this.learned = true;
    this.receiptsChanged();
  }
}

function advanced(message: StoredMessage, everyone: Watermark): StoredMessage {
  if (message.status === "read" || message.seq > everyone.deliveredSeq) return message;
  const status = message.seq <= everyone.readSeq ? "read" : "delivered";
  return status === message.status ? message : { ...message, status };
}
