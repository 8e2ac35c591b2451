/**
 * The conversations that are open, each with the number of its uses.
 *
 * Invariant: a conversation is open once, however many use it, and closed when the last of them closes it. The number
 * of open ones is bounded by what the server takes.
 */
import type { ConversationView } from "./conversation.js";
import { ChatError } from "./errors.js";
import { DEFAULT_LIMITS } from "./settings.js";
import type { ConversationId } from "./types.gen.js";

interface Opened {
  readonly view: ConversationView;
  uses: number;
}

export class OpenConversations {
  /** Most that can be open at once. */
  most = DEFAULT_LIMITS.joinedConversations;
  private readonly byId = new Map<ConversationId, Opened>();

  constructor(private readonly make: (id: ConversationId) => ConversationView) {}

  get(id: ConversationId): ConversationView | undefined {
    return this.byId.get(id)?.view;
  }

  *[Symbol.iterator](): Iterator<ConversationView> {
    for (const { view } of this.byId.values()) yield view;
  }

  /** One more use; `isNew` when it was not open. */
  use(id: ConversationId): { view: ConversationView; isNew: boolean } {
    const known = this.byId.get(id);
    if (known) {
      known.uses += 1;
      return { view: known.view, isNew: false };
    }
    if (this.byId.size >= this.most) throw new ChatError("limit_reached", `${this.most} conversations are open`);
    const view = this.make(id);
    this.byId.set(id, { view, uses: 1 });
    return { view, isNew: true };
  }

  /** One use less; true when it was the last. */
  release(view: ConversationView): boolean {
    const known = this.byId.get(view.id);
    if (known?.view !== view) return false;
    known.uses -= 1;
    if (known.uses > 0) return false;
    this.byId.delete(view.id);
    view.stop();
    return true;
  }

  closeAll(): void {
    for (const view of this) view.stop();
    this.byId.clear();
  }
}
