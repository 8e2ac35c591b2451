/**
 * How far each member has received and read.
 *
 * Invariant: watermarks only grow. The seq that all members have read is derived only when every member is known.
 */
import type { Conversation, Member, Message, Seq, UserId } from "./types.gen.js";

/** A member's watermarks. A message that was read was also received. */
export interface Watermark {
  readonly readSeq: Seq;
  readonly deliveredSeq: Seq;
}

/** Most members; receipts of larger conversations are of no use. */
const MEMBERS_MAX = 1_000;
const NOTHING: Watermark = { readSeq: 0, deliveredSeq: 0 };

export class Receipts {
  private marks: ReadonlyMap<UserId, Watermark> = new Map();
  private members: ReadonlySet<UserId> | undefined;

  /** By member. Immutable: a change makes a new map. */
  get byUser(): ReadonlyMap<UserId, Watermark> {
    return this.marks;
  }

  /** The conversation's own record. */
  learn(conversation: Conversation): void {
    const everybody = conversation.members.length === conversation.memberCount && conversation.kind !== "channel";
    this.members = everybody ? new Set(conversation.members.map((member) => member.userId)) : undefined;
    for (const member of conversation.members) this.raise(member.userId, member);
  }

  /** Members that joined, left or changed. */
  learnMembers(members: readonly Member[]): void {
    const known = new Set(this.members);
    for (const member of members) {
      if (member.removed) known.delete(member.userId);
      else known.add(member.userId);
      this.raise(member.userId, member);
    }
    if (this.members) this.members = known;
  }

  read(user: UserId, seq: Seq): void {
    this.raise(user, { readSeq: seq, deliveredSeq: seq });
  }

  /** Whoever writes has read what came before: the server sends no receipt for that. */
  wrote(message: Message): void {
    this.read(message.senderId, message.seq);
  }

  delivered(user: UserId, seq: Seq): void {
    this.raise(user, { readSeq: 0, deliveredSeq: seq });
  }

  /** Up to where every member but `sender` has come; undefined when not all members are known. */
  everyoneBut(sender: UserId): Watermark | undefined {
    if (!this.members || this.members.size < 2) return undefined;
    let readSeq = Number.MAX_SAFE_INTEGER;
    let deliveredSeq = Number.MAX_SAFE_INTEGER;
    for (const user of this.members) {
      if (user === sender) continue;
      const mark = this.marks.get(user) ?? NOTHING;
      readSeq = Math.min(readSeq, mark.readSeq);
      deliveredSeq = Math.min(deliveredSeq, mark.deliveredSeq);
    }
    return { readSeq, deliveredSeq };
  }

  private raise(user: UserId, mark: Watermark): void {
    const before = this.marks.get(user) ?? NOTHING;
    const readSeq = Math.max(before.readSeq, mark.readSeq);
    const deliveredSeq = Math.max(before.deliveredSeq, mark.deliveredSeq, readSeq);
    if (readSeq === before.readSeq && deliveredSeq === before.deliveredSeq) return;
    if (!this.marks.has(user) && this.marks.size >= MEMBERS_MAX) return;
    this.marks = new Map(this.marks).set(user, { readSeq, deliveredSeq });
  }
}
