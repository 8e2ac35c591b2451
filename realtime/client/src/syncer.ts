/**
 * Catches up over HTTP: one request for the changes of the list and of every open conversation.
 *
 * Invariant (INV-PUSH): when it has succeeded, the list and all loaded conversations hold everything the server had
 * when it began. A conversation with too many changes is loaded anew.
 */
import type { Calls } from "./calls.js";
import { ChatError } from "./errors.js";
import type { ConversationListStore } from "./list.js";
import { SYNC_CONVERSATIONS_MAX, type Settings } from "./settings.js";
import { Task } from "./task.js";
import type { ConversationChanges, ConversationId, Rev, Seq, SyncPage } from "./types.gen.js";

/** A conversation that is kept. */
export interface SyncTarget {
  readonly id: ConversationId;
  /** Up to where it is complete; undefined before its first page. */
  readonly syncedRev: Rev | undefined;
  readonly behind: boolean;
  /** Takes in all changes after `from`. */
  applyChanges(from: Rev, changes: ConversationChanges): void;
  /** Loads everything that is kept anew. */
  reload(headSeq: Seq): Promise<void>;
  /** The user is no member any more. */
  left(): void;
}

/** A run ends here even if the server says that there is always more. */
const PAGES_MAX = 10_000;

export class Syncer {
  private readonly task: Task;

  constructor(
    private readonly calls: Calls,
    private readonly list: ConversationListStore,
    private readonly views: () => Iterable<SyncTarget>,
    settings: Settings,
    failed: (error: ChatError) => void,
  ) {
    const told = (error: ChatError | undefined) => list.error.set(error);
    const ended = (error: ChatError) => {
      told(error);
      failed(error);
    };
    this.task = new Task(() => this.catchUp(), settings, ended, told);
  }

  /** Catch up, now or once more after what is under way; repeated until it succeeds. */
  request(): void {
    this.task.request();
  }

  /** Catches up once; resolves to whether anything was new. */
  async once(): Promise<boolean> {
    let anything = false;
    for (let pages = 0; pages < PAGES_MAX; pages++) {
      const { page, changed } = await this.step();
      anything ||= changed;
      if (!page.hasMore || !changed) break;
    }
    return anything;
  }

  stop(): void {
    this.task.stop();
  }

  restart(): void {
    this.task.restart();
  }

  private async catchUp(): Promise<void> {
    await this.once();
    const behind = [...this.views()].some((view) => view.behind);
    if (behind || !this.list.synced) throw new ChatError("overloaded", "the server's answer was older than its events");
  }

  private async step(): Promise<{ page: SyncPage; changed: boolean }> {
    const asked = new Map<SyncTarget, Rev>();
    for (const view of this.views()) {
      if (view.syncedRev !== undefined && asked.size < SYNC_CONVERSATIONS_MAX) asked.set(view, view.syncedRev);
    }
    const conversations = Object.fromEntries([...asked].map(([view, rev]) => [view.id, rev]));
    const { cursor, now } = this.list;
    const page = await this.calls.sync({ ...(cursor !== undefined && { cursor }), conversations });
    this.list.applySync(page, now);
    const byId = new Map([...asked].map(([view, rev]) => [view.id, { view, rev }]));
    let changed = page.cursor !== cursor;
    for (const change of page.changes) {
      if (change.conversation?.removed) byId.get(change.conversationId)?.view.left();
      const target = byId.get(change.conversationId);
      if (!target) continue;
      changed ||= change.rev > target.rev;
      target.view.applyChanges(target.rev, change);
    }
    for (const head of page.resync ?? []) {
      const target = byId.get(head.conversationId);
      if (!target) continue;
      changed = true;
      await target.view.reload(head.headSeq);
    }
    return { page, changed };
  }
}
