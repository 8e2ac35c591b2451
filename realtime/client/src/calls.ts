/**
 * The server's calls, over the WebSocket while it is open and over REST otherwise.
 *
 * Invariant: both doors take the same and give the same. Calls that change a message are repeated after an unknown
 * outcome, since doing them twice is the same as once; a send is not repeated here, but by the outbox.
 */
import { uniqueId } from "./clock.js";
import { ChatError } from "./errors.js";
import type { Http, Method } from "./http.js";
import type { CommandAnswer, CommandData, CommandName } from "./protocol.js";
import type { CommandOptions, Socket } from "./socket.js";
import { pause } from "./timer.js";
import type {
  BlockList,
  Conversation,
  ConversationId,
  ConversationPatch,
  HistoryPage,
  Message,
  MessageId,
  NewConversation,
  NewMessage,
  NewReport,
  Notification,
  NotificationId,
  NotificationList,
  PinList,
  Reported,
  ReceiptList,
  ReplyList,
  SearchPage,
  SearchRequest,
  Seq,
  SyncPage,
  SyncRequest,
  UnreadCount,
  UnreadNotifications,
  UserId,
  Watermarks,
} from "./types.gen.js";

/** Which page of a list; without a cursor, the first. `limit` from 1 to 100. */
export interface ListPlace {
  readonly cursor?: string;
  readonly limit?: number;
}

/** Which page of the notifications. */
export interface NotificationPlace extends ListPlace {
  readonly unread?: boolean;
}

/** A page of history that came, and how long that took. `page.tiers` says how much of it the archive gave. */
export interface LoadedPage {
  readonly conversationId: ConversationId;
  readonly page: HistoryPage;
  readonly tookMs: number;
}

/** Which page of the history; without a place, the newest. */
export type PagePlace = { before: Seq } | { after: Seq } | { around: Seq } | Record<string, never>;

export class Calls {
  constructor(
    private readonly http: Http,
    private readonly liveSocket: () => Socket | undefined,
    private readonly pageLoaded: (loaded: LoadedPage) => void = () => undefined,
  ) {}

  /** The open WebSocket. */
  get live(): Socket | undefined {
    return this.liveSocket();
  }

  /** A command that only a WebSocket takes. */
  command<Name extends CommandName>(
    name: Name,
    data: CommandData<Name>,
    options?: CommandOptions<CommandAnswer<Name>>,
  ): Promise<CommandAnswer<Name>> {
    const live = this.live;
    if (!live) return Promise.reject(new ChatError("not_connected", "there is no connection"));
    return live.command(name, data, options);
  }

  /** One attempt to send; the caller repeats it with the same clientMsgId. */
  send(conversationId: ConversationId, message: NewMessage): Promise<Message> {
    if (this.live) return this.command("send_message", { conversationId, ...message });
    return this.http.once("POST", `/conversations/${conversationId}/messages`, message);
  }

  edit(messageId: MessageId, content: string, mentions?: UserId[]): Promise<Message> {
    const edit = mentions ? { content, mentions } : { content };
    return this.either("edit_message", { messageId, ...edit }, "PATCH", `/messages/${messageId}`, edit);
  }

  delete(messageId: MessageId): Promise<Message> {
    return this.either("delete_message", { messageId }, "DELETE", `/messages/${messageId}`);
  }

  react(messageId: MessageId, emoji: string, remove: boolean): Promise<Message> {
    const path = `/messages/${messageId}/reactions/${encodeURIComponent(emoji)}`;
    return this.either("react", { messageId, emoji, ...(remove && { remove }) }, remove ? "DELETE" : "PUT", path);
  }

  pin(messageId: MessageId, remove: boolean): Promise<Message> {
    return this.http.repeated(remove ? "DELETE" : "PUT", `/messages/${messageId}/pin`);
  }

  /** Repeating it gives the first report. */
  report(messageId: MessageId, report: NewReport): Promise<Reported> {
    return this.http.repeated("POST", `/messages/${messageId}/report`, report);
  }

  /** A page of pinned messages, the newest first. */
  pins(conversationId: ConversationId, place: ListPlace): Promise<PinList> {
    return this.http.repeated("GET", `/conversations/${conversationId}/pins?${queryOf(place)}`);
  }

  /** A page of the replies of a message, the oldest first. */
  replies(messageId: MessageId, place: ListPlace): Promise<ReplyList> {
    return this.http.repeated("GET", `/messages/${messageId}/replies?${queryOf(place)}`);
  }

  receipts(messageId: MessageId): Promise<ReceiptList> {
    return this.http.repeated("GET", `/messages/${messageId}/receipts`);
  }

  markRead(conversationId: ConversationId, seq: Seq): Promise<Watermarks> {
    return this.either("mark_read", { conversationId, seq }, "PATCH", `/conversations/${conversationId}/read`, { seq });
  }

  markDelivered(conversationId: ConversationId, seq: Seq): Promise<Watermarks> {
    return this.either("mark_delivered", { conversationId, seq }, "PATCH", `/conversations/${conversationId}/delivered`, { seq });
  }

  unreadCount(): Promise<UnreadCount> {
    return this.either("unread_count", {}, "GET", "/unread-count");
  }

  notifications(place: NotificationPlace): Promise<NotificationList> {
    return this.http.repeated("GET", `/notifications?${queryOf(place)}`);
  }

  unreadNotifications(): Promise<UnreadNotifications> {
    return this.either("unread_notifications", {}, "GET", "/notifications/unread-count");
  }

  markNotificationRead(notificationId: NotificationId): Promise<Notification> {
    return this.either("mark_notification_read", { notificationId }, "PATCH", `/notifications/${notificationId}/read`);
  }

  markNotificationsRead(): Promise<unknown> {
    return this.either("mark_notifications_read", {}, "POST", "/notifications/read-all");
  }

  blocks(place: ListPlace): Promise<BlockList> {
    return this.http.repeated("GET", `/blocks?${queryOf(place)}`);
  }

  block(userId: UserId): Promise<void> {
    return this.http.repeated("PUT", `/blocks/${encodeURIComponent(userId)}`);
  }

  unblock(userId: UserId): Promise<void> {
    return this.http.repeated("DELETE", `/blocks/${encodeURIComponent(userId)}`);
  }

  /** A page of history, oldest first; `limit` from 1 to 200. */
  async history(conversationId: ConversationId, place: PagePlace, limit: number): Promise<HistoryPage> {
    const query = new URLSearchParams({ limit: String(limit) });
    for (const [name, seq] of Object.entries(place)) query.set(name, String(seq));
    const askedAt = performance.now();
    const page = await this.http.repeated<HistoryPage>("GET", `/conversations/${conversationId}/messages?${query.toString()}`);
    this.pageLoaded({ conversationId, page, tookMs: performance.now() - askedAt });
    return page;
  }

  /** Over REST, since a connection's commands wait for each other. */
  search(request: SearchRequest): Promise<SearchPage> {
    return this.http.repeated("GET", `/search?${queryOf(request)}`);
  }

  conversation(conversationId: ConversationId): Promise<Conversation> {
    return this.http.repeated("GET", `/conversations/${conversationId}`);
  }

  /** `direct` is create-or-get; for the others the key makes a repetition harmless. */
  createConversation(conversation: NewConversation): Promise<Conversation> {
    return this.http.repeated("POST", "/conversations", conversation, uniqueId());
  }

  changeConversation(conversationId: ConversationId, patch: ConversationPatch): Promise<Conversation> {
    return this.http.repeated("PATCH", `/conversations/${conversationId}`, patch);
  }

  sync(request: SyncRequest): Promise<SyncPage> {
    return this.http.repeated("POST", "/sync", request);
  }

  private async either<Name extends CommandName, T extends CommandAnswer<Name>>(
    name: Name,
    data: CommandData<Name>,
    method: Method,
    path: string,
    body?: object,
  ): Promise<T> {
    if (this.live) {
      try {
        return (await this.command(name, data)) as T;
      } catch (thrown) {
        const error = ChatError.from(thrown);
        if (!error.retryable) throw error;
        await pause(error.retryAfterMs ?? 0);
      }
    }
    return this.http.repeated<T>(method, path, body);
  }
}

/** The parameters of a request that are given. */
function queryOf(given: object): string {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(given)) if (value !== undefined && value !== null) query.set(name, String(value));
  return query.toString();
}
