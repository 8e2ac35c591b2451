/**
 * The kept part of a conversation's log: a window of seqs, ordered, bounded.
 *
 * Invariants: of two versions of a seq the greater rev is kept. What a message shows of its replies takes no rev: it is as
 * of the latest page or change that told it, and a change comes again after a page that was read before it. The list that is handed out is never changed; a change
 * makes a new one. At most `kept` messages are held. Messages outside the window are not taken in, so that the window
 * has no holes but those that lost pushes leave, and {@link Timeline.holes} names them.
 */
import type { DeliveryStatus, HistoryPage, Message, Seq, SeqRange } from "./types.gen.js";

/** A message that the server has. */
export type StoredMessage = Message & { readonly state: "sent" };

const STATUS_RANK: Record<DeliveryStatus, number> = { sent: 0, delivered: 1, read: 2 };

export class Timeline {
  private list: readonly StoredMessage[] = [];
  private lowest: Seq | undefined;
  private atHead = true;
  private knownHead: Seq = 0;

  constructor(private readonly kept: number) {}

  /** Oldest first. */
  get messages(): readonly StoredMessage[] {
    return this.list;
  }

  /** A page was loaded. */
  get loaded(): boolean {
    return this.lowest !== undefined;
  }

  /** The window's first seq; 1 more than the head of an empty conversation. */
  get from(): Seq {
    return this.lowest ?? 1;
  }

  /** The window's last seq; `from - 1` when it is empty. */
  get to(): Seq {
    return this.list.at(-1)?.seq ?? this.from - 1;
  }

  /** The greatest known seq. */
  get headSeq(): Seq {
    return this.knownHead;
  }

  /** The window reaches to the newest message and grows with it. */
  get attached(): boolean {
    return this.atHead;
  }

  get hasMoreBefore(): boolean {
    return this.from > 1;
  }

  sawHead(seq: Seq): void {
    this.knownHead = Math.max(this.knownHead, seq);
  }

  /** Takes a version of a message in, if it belongs to the window. */
  put(message: Message): void {
    this.putAll([message]);
  }

  putAll(messages: readonly Message[]): void {
    const fitting = messages.filter((message) => this.admits(message.seq));
    for (const { seq } of messages) this.sawHead(seq);
    if (!this.loaded || fitting.length === 0) return;
    this.merge(fitting);
    if (this.list.length > this.kept) this.dropOldest();
  }

  /** Begins anew with the newest page; of what was kept only that at or after its beginning stays. */
  startAtHead(page: HistoryPage): void {
    const first = page.messages[0]?.seq ?? page.headSeq + 1;
    this.sawHead(page.headSeq);
    this.lowest = first;
    this.list = this.atHead ? this.list.filter(({ seq }) => seq >= first) : [];
    this.atHead = true;
    this.merge(page.messages);
    if (this.list.length > this.kept) this.dropOldest();
  }

  /** Begins anew with a page from somewhere. */
  startAt(page: HistoryPage): void {
    this.sawHead(page.headSeq);
    this.lowest = page.messages[0]?.seq ?? page.headSeq + 1;
    this.list = [];
    this.atHead = !page.hasMoreAfter;
    this.merge(page.messages);
  }

  /** Adds the page before the window; where that is too much, the window's newest messages go. */
  addBefore(page: HistoryPage): void {
    const first = page.messages[0]?.seq;
    if (first === undefined) return;
    this.lowest = Math.min(this.from, first);
    this.merge(page.messages);
    if (this.list.length <= this.kept) return;
    this.list = this.list.slice(0, this.kept);
    this.atHead = false;
  }

  /** Adds the page after the window; where that is too much, the window's oldest messages go. */
  addAfter(page: HistoryPage): void {
    this.sawHead(page.headSeq);
    if (!page.hasMoreAfter) this.atHead = true;
    this.merge(page.messages);
    if (this.list.length > this.kept) this.dropOldest();
  }

  /** Adds what is inside the window. */
  addInside(page: HistoryPage): void {
    this.putAll(page.messages);
  }

  /** Replaces messages by what `change` makes of them; the same object means no change. */
  update(change: (message: StoredMessage) => StoredMessage): void {
    const next = this.list.map(change);
    if (next.some((message, at) => message !== this.list[at])) this.list = next;
  }

  /** Seqs that are missing between the kept ones. */
  holes(): SeqRange[] {
    const holes: SeqRange[] = [];
    let expected = this.from;
    for (const { seq } of this.list) {
      if (seq > expected) holes.push({ fromSeq: expected, toSeq: seq - 1 });
      expected = seq + 1;
    }
    return holes;
  }

  private admits(seq: Seq): boolean {
    return seq >= this.from && (this.atHead || seq <= this.to);
  }

  private merge(messages: readonly Message[]): void {
    const bySeq = new Map(this.list.map((message) => [message.seq, message]));
    let changed = false;
    let ordered = true;
    let last = this.list.at(-1)?.seq ?? 0;
    for (const message of messages) {
      const known = bySeq.get(message.seq);
      if (known && !supersedes(message, known)) {
        if (message.rev !== known.rev || hasThread(known, message)) continue;
        changed = true;
        bySeq.set(message.seq, withThread(known, message));
        continue;
      }
      changed = true;
      bySeq.set(message.seq, { ...message, state: "sent" });
      if (known) continue;
      ordered &&= message.seq > last;
      last = Math.max(last, message.seq);
    }
    for (const { replyTo, thread } of messages) {
      const root = replyTo && bySeq.get(Number(replyTo.slice(replyTo.lastIndexOf("-") + 1)));
      if (!root || !thread || hasThread(root, thread)) continue;
      changed = true;
      bySeq.set(root.seq, withThread(root, thread));
    }
    if (!changed) return;
    const next = [...bySeq.values()];
    this.list = ordered ? next : next.sort((a, b) => a.seq - b.seq);
  }

  private dropOldest(): void {
    this.list = this.list.slice(-this.kept);
    this.lowest = this.list[0]?.seq ?? this.from;
  }
}

type Thread = Pick<Message, "replyCount" | "lastReplyAt">;

function hasThread(message: Thread, thread: Thread): boolean {
  const isSameTime = (message.lastReplyAt ?? undefined) === (thread.lastReplyAt ?? undefined);
  return isSameTime && (message.replyCount ?? 0) === (thread.replyCount ?? 0);
}

function withThread(message: StoredMessage, { replyCount = 0, lastReplyAt }: Thread): StoredMessage {
  const { lastReplyAt: _, ...rest } = message;
  return { ...rest, replyCount, ...(lastReplyAt && { lastReplyAt }) };
}

/** The greater rev; of the same, the one that has come further. */
function supersedes(message: Message, known: Message): boolean {
  if (message.rev !== known.rev) return message.rev > known.rev;
  return STATUS_RANK[message.status] > STATUS_RANK[known.status];
}
