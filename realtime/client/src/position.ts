/**
 * Up to which change a conversation's kept messages are known to be complete.
 *
 * Invariant (INV-PUSH): everything up to {@link Position.synced} is in the kept messages, so that resuming or syncing
 * from there misses nothing. Events advance it only while they are known to follow on without a gap: what lies between
 * it and the first event of a new connection has to be loaded first. Answers to commands never advance it: the answer
 * to a send may overtake the changes before it.
 */
import type { ConversationId, MessageId, Rev, Seq } from "./types.gen.js";

/** The greatest seq among the ids of a conversation's messages; 0 when none is one. A message's id is `<conversationId>-<seq>`. */
export function newestSeq(conversationId: ConversationId, messageIds: readonly MessageId[]): Seq {
  const prefix = `${conversationId}-`;
  const seqs = messageIds.filter((id) => id.startsWith(prefix)).map((id) => Number(id.slice(prefix.length)));
  return Math.max(0, ...seqs.filter((seq) => Number.isSafeInteger(seq)));
}

/** The events of this connection hold every change after `base` up to `top`. */
interface Live {
  base: Rev;
  top: Rev;
}

export class Position {
  private complete: Rev | undefined;
  private live: Live | undefined;
  private resumedAt: Rev | undefined;

  /** Everything up to here is kept; undefined before the first page. */
  get synced(): Rev | undefined {
    return this.complete;
  }

  /** Do events come? */
  get following(): boolean {
    return this.live !== undefined;
  }

  /** Something before the events is missing. */
  get behind(): boolean {
    return this.complete !== undefined && this.live !== undefined && this.live.base > this.complete;
  }

  /** The server announced every change after `rev`. */
  joined(rev: Rev): void {
    this.live ??= { base: rev, top: rev };
    this.settle();
  }

  /** A new connection was asked to go on from {@link synced}, and did not refuse yet. */
  resumed(from: Rev): void {
    this.resumedAt = from;
    this.live = { base: from, top: from };
  }

  /** The server does not resume the changes before `rev`; later ones follow. */
  resync(rev: Rev): void {
    if (this.resumedAt !== undefined && this.complete !== undefined) this.complete = Math.min(this.complete, this.resumedAt);
    this.resumedAt = undefined;
    this.live = { base: rev, top: Math.max(rev, this.live?.top ?? rev) };
    this.settle();
  }

  /** No more events come. */
  lost(): void {
    this.live = this.resumedAt = undefined;
  }

  /** An event was applied. */
  heard(rev: Rev): void {
    if (this.live) this.live.top = Math.max(this.live.top, rev);
    this.settle();
  }

  /** A change up to `rev` is known to exist and was not applied. */
  missed(rev: Rev): void {
    if (!this.live) return;
    this.live.top = Math.max(this.live.top, rev);
    this.live.base = this.live.top;
    this.settle();
  }

  /** A page that is current as of `rev` was added. If that is earlier than {@link synced}, its changes since are missing. */
  pageAdded(rev: Rev): void {
    if (this.complete === undefined) {
      this.complete = rev;
    } else if (rev < this.complete) {
      this.complete = rev;
      if (this.live) this.live.base = this.live.top;
    }
    this.settle();
  }

  /** All changes after `from` up to `to` were applied. */
  changesApplied(from: Rev, to: Rev): void {
    if (this.complete !== undefined && from <= this.complete) this.complete = Math.max(this.complete, to);
    this.settle();
  }

  /** Everything kept was loaded anew and is current as of `rev` at least. */
  reloaded(rev: Rev): void {
    this.complete = Math.max(this.complete ?? rev, rev);
    this.settle();
  }

  private settle(): void {
    if (this.complete === undefined || !this.live || this.live.base > this.complete) return;
    this.complete = Math.max(this.complete, this.live.top);
  }
}
