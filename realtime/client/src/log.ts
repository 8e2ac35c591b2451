/**
 * One conversation's log as this client keeps it: joining, loading pages, events, changes, and what to do about holes.
 *
 * Invariants (INV-PUSH): position first, then state: it joins before it loads, so that nothing falls between the page
 * and the events. Whatever is put into the timeline tells the position how current it is, so that a page which was
 * read before an event and arrived after it is found out and caught up with.
 */
import type { Calls, PagePlace } from "./calls.js";
import type { ChatError } from "./errors.js";
import { Position } from "./position.js";
import { PAGE_MAX, type Settings } from "./settings.js";
import { Task } from "./task.js";
import { Timeline } from "./timeline.js";
import { Timer } from "./timer.js";
import type { ConversationChanges, ConversationHead, ConversationId, HistoryPage, Message, Rev, Seq } from "./types.gen.js";

/** Holes looked at in one go, and holes remembered as looked at. */
const HOLES_AT_ONCE = 8;
const HOLES_REMEMBERED = 1_000;

export interface LogHandlers {
  /** Messages changed, or where the window stands. */
  changed(): void;
  /** Something before the events is missing. */
  fellBehind(): void;
  /** It could not be opened, for good. */
  failed(error: ChatError): void;
  /** Why loading failed and is tried again; none once it succeeded. */
  troubled(error: ChatError | undefined): void;
}

export class ConversationLog {
  readonly timeline: Timeline;
  private readonly position = new Position();
  private readonly opening: Task;
  private readonly filling: Task;
  private readonly holeGrace = new Timer();
  private readonly lagGrace = new Timer();
  private readonly holesTried = new Set<string>();
  private paging: Promise<boolean> | undefined;
  private joined = false;
  private windows = 0;

  constructor(
    private readonly id: ConversationId,
    private readonly calls: Calls,
    private readonly settings: Settings,
    private readonly handlers: LogHandlers,
  ) {
    this.timeline = new Timeline(settings.bounds.messagesKept);
    const { failed, troubled } = handlers;
    this.opening = new Task(() => this.joinAndLoad(), settings, failed, troubled);
    this.filling = new Task(() => this.fillHoles(), settings, undefined, troubled);
  }

  get syncedRev(): Rev | undefined {
    return this.position.synced;
  }

  get behind(): boolean {
    return this.position.behind;
  }

  /** Joins and loads what is not there yet. */
  open(): void {
    this.opening.request();
  }

  /** A new connection; `resumedFrom` is what it was asked to go on from, if it was. */
  up(resumedFrom: Rev | undefined): void {
    this.holesTried.clear();
    this.joined = resumedFrom !== undefined;
    if (resumedFrom !== undefined) this.position.resumed(resumedFrom);
    this.opening.request();
  }

  down(): void {
    this.joined = false;
    this.position.lost();
  }

  stop(): void {
    this.down();
    for (const part of [this.opening, this.filling, this.holeGrace, this.lagGrace]) part.stop();
  }

  /** The server announced every change after `head.rev`. */
  joinedAt(head: ConversationHead): void {
    this.joined = true;
    this.timeline.sawHead(head.headSeq);
    this.position.joined(head.rev);
    this.check();
  }

  /** The server does not resume the changes before `head.rev`. */
  resync(head: ConversationHead): void {
    this.joined = true;
    this.timeline.sawHead(head.headSeq);
    this.position.resync(head.rev);
    this.check();
  }

  /** A version of a message, from an event. */
  event(message: Message): void {
    if (this.timeline.loaded) {
      this.timeline.put(message);
      this.position.heard(message.rev);
    } else {
      this.timeline.sawHead(message.seq);
      this.position.missed(message.rev);
    }
    this.check();
    this.handlers.changed();
  }

  /** A version of a message, from an answer: it may have overtaken the changes before it. */
  answer(message: Message): void {
    this.timeline.put(message);
    this.check();
    this.handlers.changed();
  }

  /** The list says that there are changes up to `rev`. Unless their events come, they were lost. */
  expect(rev: Rev): void {
    const reached = () => (this.position.synced ?? rev) >= rev;
    if (reached() || this.lagGrace.running) return;
    this.lagGrace.start(this.settings.timing.lagGraceMs, () => {
      if (reached()) return;
      this.position.missed(rev);
      this.check();
    });
  }

  applyChanges(from: Rev, changes: ConversationChanges): void {
    this.timeline.putAll(changes.messages);
    this.position.changesApplied(from, changes.rev);
    this.check();
    this.handlers.changed();
  }

  /** Loads everything kept anew, or only the newest page when it has become too much. */
  async reload(headSeq: Seq): Promise<void> {
    if (!this.timeline.loaded) return;
    const { from, attached, to } = this.timeline;
    const last = attached ? headSeq : to;
    if (last - from >= this.settings.bounds.messagesKept) return this.reloadAtHead();
    const window = this.windows;
    let current = Number.MAX_SAFE_INTEGER;
    for (let after = from - 1; after < last; ) {
      const page = await this.page({ after }, PAGE_MAX);
      if (window !== this.windows) return;
      current = Math.min(current, page.rev);
      this.timeline.addInside(page);
      this.position.pageAdded(page.rev);
      const reached = page.messages.at(-1)?.seq;
      if (reached === undefined || !page.hasMoreAfter) break;
      after = reached;
    }
    if (current < Number.MAX_SAFE_INTEGER) this.position.reloaded(current);
    this.check();
    this.handlers.changed();
  }

  /** Adds the page before. False: there is none. */
  loadBefore(): Promise<boolean> {
    return this.onePage(async () => {
      const { from, loaded, hasMoreBefore } = this.timeline;
      if (!loaded || !hasMoreBefore) return false;
      const page = await this.page({ before: from }, this.settings.bounds.pageSize);
      if (this.timeline.from !== from) return false; // the window has moved meanwhile
      this.timeline.addBefore(page);
      this.added(page);
      return page.messages.length > 0;
    });
  }

  /** Adds the page after. False: the window reaches to the newest message. */
  loadAfter(): Promise<boolean> {
    return this.onePage(async () => {
      const { to, loaded, attached } = this.timeline;
      if (!loaded || attached) return false;
      const page = await this.page({ after: to }, this.settings.bounds.pageSize);
      if (this.timeline.to !== to || this.timeline.attached) return false;
      this.timeline.addAfter(page);
      this.added(page);
      return page.messages.length > 0;
    });
  }

  /** Begins anew around a message, or at the newest. */
  async jump(place: { around: Seq } | Record<string, never>): Promise<void> {
    const page = await this.page(place, this.settings.bounds.pageSize);
    this.windows += 1;
    if ("around" in place) this.timeline.startAt(page);
    else this.timeline.startAtHead(page);
    this.added(page);
  }

  private async joinAndLoad(): Promise<void> {
    const { live } = this.calls;
    if (live && !this.joined) {
      const joining = { conversationId: this.id };
      await live.command("join_conversation", joining, { onAnswer: (head) => live === this.calls.live && this.joinedAt(head) });
    }
    if (!this.timeline.loaded) {
      const page = await this.page({}, this.settings.bounds.pageSize);
      this.timeline.startAtHead(page);
      this.added(page);
    }
    this.check();
  }

  private async reloadAtHead(): Promise<void> {
    const page = await this.page({}, Math.min(PAGE_MAX, this.settings.bounds.messagesKept));
    this.windows += 1;
    this.timeline.startAtHead(page);
    this.position.pageAdded(page.rev);
    this.position.reloaded(page.rev);
    this.check();
    this.handlers.changed();
  }

  private async fillHoles(): Promise<void> {
    for (const hole of this.timeline.holes().slice(0, HOLES_AT_ONCE)) {
      const key = `${hole.fromSeq}-${hole.toSeq}`;
      const size = hole.toSeq - hole.fromSeq + 1;
      if (this.holesTried.has(key)) continue;
      if (size > this.settings.bounds.messagesKept) return this.reloadAtHead();
      const page = await this.page({ after: hole.fromSeq - 1 }, Math.min(size, PAGE_MAX));
      if (this.holesTried.size >= HOLES_REMEMBERED) this.holesTried.clear();
      this.holesTried.add(key);
      this.timeline.addInside(page);
      this.added(page);
    }
  }

  private onePage(load: () => Promise<boolean>): Promise<boolean> {
    this.paging ??= load().finally(() => (this.paging = undefined));
    return this.paging;
  }

  private added(page: HistoryPage): void {
    this.position.pageAdded(page.rev);
    this.check();
    this.handlers.changed();
  }

  private check(): void {
    if (this.position.behind) return this.handlers.fellBehind();
    const holes = this.timeline.holes().some(({ fromSeq, toSeq }) => !this.holesTried.has(`${fromSeq}-${toSeq}`));
    if (holes) this.holeGrace.startOnce(this.settings.timing.holeGraceMs, () => this.filling.request());
    else this.holeGrace.stop();
  }

  private page(place: PagePlace, limit: number): Promise<HistoryPage> {
    return this.calls.history(this.id, place, limit);
  }
}
