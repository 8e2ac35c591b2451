/**
 * The user's own read and delivered marks, on their way to the server.
 *
 * Invariants: a mark only grows, so that only the greatest of a conversation is ever told; one that could not be told
 * waits for the next connection. Marks that wait are bounded by the number of conversations.
 */
import type { Calls } from "./calls.js";
import { ChatError } from "./errors.js";
import type { Settings } from "./settings.js";
import { Task } from "./task.js";
import { Timer } from "./timer.js";
import type { ConversationId, Seq } from "./types.gen.js";

/** Conversations whose marks are remembered; beyond, the oldest are forgotten. */
const CONVERSATIONS_MAX = 1_000;

interface Marks {
  read: Seq;
  delivered: Seq;
}

export class OwnMarks {
  private readonly wanted = new Map<ConversationId, Marks>();
  private readonly told = new Map<ConversationId, Marks>();
  private readonly soon = new Timer();
  private readonly task: Task;

  constructor(
    private readonly calls: Calls,
    private readonly settings: Settings,
    private readonly reachable: () => boolean,
  ) {
    this.task = new Task(() => this.tellAll(), settings);
  }

  read(id: ConversationId, seq: Seq): void {
    this.want(id, { read: seq, delivered: seq });
  }

  delivered(id: ConversationId, seq: Seq): void {
    this.want(id, { read: 0, delivered: seq });
  }

  /** Attempts can be made again. */
  flush(): void {
    if (this.wanted.size > 0) this.task.request();
  }

  stop(): void {
    this.soon.stop();
    this.task.stop();
  }

  restart(): void {
    this.task.restart();
  }

  private want(id: ConversationId, mark: Marks): void {
    const next = greatest(mark, this.wanted.get(id));
    const told = this.told.get(id);
    if (told && told.read >= next.read && told.delivered >= next.delivered) return;
    remember(this.wanted, id, next);
    this.soon.startOnce(this.settings.timing.marksEveryMs, () => this.task.request());
  }

  private async tellAll(): Promise<void> {
    for (const [id, mark] of [...this.wanted]) {
      if (!this.reachable()) return; // until the next flush
      await this.tell(id, mark);
    }
  }

  private async tell(id: ConversationId, mark: Marks): Promise<void> {
    const told = this.told.get(id) ?? { read: 0, delivered: 0 };
    try {
      if (mark.read > told.read) await this.calls.markRead(id, mark.read);
      if (mark.delivered > Math.max(told.delivered, mark.read)) await this.calls.markDelivered(id, mark.delivered);
    } catch (thrown) {
      if (ChatError.from(thrown).retryable) throw thrown;
    }
    remember(this.told, id, greatest(mark, told));
    if (this.wanted.get(id) === mark) this.wanted.delete(id);
    else this.task.request(); // it grew meanwhile
  }
}

function greatest(a: Marks, b: Marks | undefined): Marks {
  return b ? { read: Math.max(a.read, b.read), delivered: Math.max(a.delivered, b.delivered) } : a;
}

function remember(map: Map<ConversationId, Marks>, id: ConversationId, marks: Marks): void {
  map.delete(id); // so that the order is that of use
  map.set(id, marks);
  if (map.size <= CONVERSATIONS_MAX) return;
  for (const oldest of map.keys()) {
    map.delete(oldest);
    return;
  }
}
