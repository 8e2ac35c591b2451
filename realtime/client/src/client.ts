/**
 * The client: one user, one connection, the conversations that are open, and the list of all.
 *
 * It wires the parts together and upholds nothing but this: one client serves one user. What is true of messages is
 * upheld in `log.ts`, of sends in `outbox.ts`, of the list in `list.ts`.
 */
import { Calls, type ListPlace, type LoadedPage, type NotificationPlace } from "./calls.js";
import { Connection } from "./connection.js";
import { ConversationView } from "./conversation.js";
import { dispatcher } from "./dispatch.js";
import { Emitter, Observable, type Listener, type Unsubscribe } from "./emitter.js";
import { ChatError } from "./errors.js";
import { HttpFallback } from "./fallback.js";
import { Http } from "./http.js";
import { ConversationListStore } from "./list.js";
import { OwnMarks } from "./marks.js";
import { OpenConversations } from "./opened.js";
import { Outbox, type OutboxHandlers, type Outgoing, type SendOptions } from "./outbox.js";
import { Presence } from "./presence.js";
import { settingsOf, type ChatClientOptions, type Settings, type TokenSource, type WebSocketConstructor } from "./settings.js";
import { CLOSED, infoOf, sameInfo, type ConnectionInfo } from "./status.js";
import { Syncer } from "./syncer.js";
import { putWithFetch, putWithXhr } from "./upload-put.js";
import { Uploads } from "./upload.js";
import { TokenKeeper, userOf } from "./token.js";
import type {
  BlockList,
  Conversation,
  ConversationId,
  ConversationPatch,
  Hello,
  Message,
  MessageId,
  NewConversation,
  NewMessage,
  NewReport,
  Notification,
  NotificationId,
  NotificationList,
  NotificationsRead,
  PinList,
  Reported,
  ReceiptList,
  ReplyList,
  Resume,
  SearchPage,
  SearchRequest,
  UnreadCount,
  UnreadNotifications,
  UserId,
} from "./types.gen.js";

/** The events of {@link ChatClient.on}. */
export interface ChatEvents {
  /** The connection's state, transport, quality or latency changed. */
  connection: ConnectionInfo;
  /** A message of an open conversation is new, was edited, reacted to or deleted. Once or more often; order by rev. */
  message: Message;
  /** A page of an open conversation's history came; its messages are in the conversation's state right after. */
  page: LoadedPage;
  /** The user is no member of this conversation any more. */
  left: ConversationId;
  /** The user was sent one. When its id does not follow the last, one was missed: read the list. */
  notification: Notification;
  /** The user has read those from the one id to the other, on whatever device. */
  notificationsRead: NotificationsRead;
  /** An event of the deployment's own back end, under a name that it chose. Once at most: nothing is kept for who is not connected. */
  custom: CustomEvent;
  /** A failure that no call could report. */
  error: ChatError;
}

/** An event of the deployment's own back end. */
export interface CustomEvent {
  /** Its name: one that the protocol does not have. */
  readonly name: string;
  /** Any JSON. */
  readonly data: unknown;
}

export class ChatClient {
  /** The state of the connection, for user interfaces. */
  readonly connection = new Observable<ConnectionInfo>(CLOSED);
  /** All conversations of the user, kept live, in the order to show them. */
  readonly conversations: ConversationListStore;
  /** The presence of the watched users. */
  readonly presence: Presence;
  /** Files on their way to the server. */
  readonly uploads: Uploads;
  private readonly events = new Emitter<ChatEvents>();
  private readonly opened = new OpenConversations((id) => this.makeView(id));
  private readonly settings: Settings;
  private readonly tokens: TokenKeeper;
  private readonly http: Http;
  private readonly calls: Calls;
  private readonly socket: Connection | undefined;
  private readonly fallback: HttpFallback;
  private readonly syncer: Syncer;
  private readonly outbox: Outbox;
  private readonly marks: OwnMarks;
  private readonly dispatch: (name: string, data: unknown) => void;
  private readonly autoDelivered: boolean;
  private user: UserId | undefined;
  /** It is to be connected. */
  private active = false;
  /** The application closed it, and did not connect again. */
  private closed = false;
  /** The unsent messages are being kept. */
  private begun = false;
  /** It would be active, had the server not refused. */
  private refused = false;
  private wasConnected = false;

  constructor(options: ChatClientOptions) {
    const settings = (this.settings = settingsOf(options));
    const base = options.url.replace(/\/+$/, "");
    const fetcher = options.fetch ?? ((...request: Parameters<typeof fetch>) => globalThis.fetch(...request));
    this.autoDelivered = options.autoDelivered ?? true;
    this.tokens = new TokenKeeper(options.token, settings.timing.tokenTimeoutMs);
    this.http = new Http(`${base}/chat`, fetcher, this.tokens, settings);
    this.calls = new Calls(
      this.http,
      () => this.socket?.live,
      (loaded) => this.events.emit("page", loaded),
    );
    this.conversations = new ConversationListStore(settings.bounds.conversationsListed);
    this.presence = new Presence(this.calls, settings);
    this.syncer = new Syncer(this.calls, this.conversations, () => this.opened, settings, (error) => this.fail(error));
    this.marks = new OwnMarks(this.calls, settings, () => this.reachable);
    this.outbox = new Outbox(this.outboxHandlers(), settings, options.storage, options.storageKey ?? "backscroll");
    const put = typeof XMLHttpRequest === "undefined" || options.fetch ? putWithFetch(fetcher) : putWithXhr;
    const { http, tokens } = this;
    this.uploads = new Uploads({ http, tokens, put, settings, base, fetcher }, options.uploadStorage);
    this.fallback = new HttpFallback(settings, { poll: () => this.poll(), changed: () => this.fallbackChanged() });
    this.dispatch = this.makeDispatcher();
    this.socket = this.makeConnection(socketsOf(options), `${base.replace(/^http/, "ws")}/ws/chat`);
  }

  /** The user that the token names, as soon as the token is known. */
  get userId(): UserId | undefined {
    return this.user;
  }

  /** Messages that wait to be sent, failed ones included. */
  get unsent(): number {
    return this.outbox.size;
  }

  /** Calls `listener` at every `name` from now on. */
  on<Name extends keyof ChatEvents>(name: Name, listener: Listener<ChatEvents[Name]>): Unsubscribe {
    return this.events.on(name, listener);
  }

  /**
   * Connects, and stays connected until {@link close}. Resolves when commands get through for the first time; rejects
   * when the server refuses for good, after which it may be called again, as after {@link close}.
   */
  async connect(): Promise<void> {
    if (this.closed) this.reopen();
    this.begin();
    if (!this.active) {
      this.active = true;
      this.refused = false;
      this.wasConnected = false;
      this.listen(true);
      void this.identify();
      if (this.socket) this.socket.start();
      else this.fallback.start();
      this.refresh();
    }
    await this.connectedOnce();
  }

  /**
   * Closes the connection and every conversation, until {@link connect} is called again. Unsent messages stay in the storage, where
   * there is one: another client that runs, such as in another tab, sends them.
   */
  async close(): Promise<void> {
    if (this.closed) return;
    this.closed = true;
    this.begun = this.refused = false;
    this.deactivate();
    this.opened.closeAll();
    for (const part of [this.syncer, this.marks, this.presence]) part.stop();
    this.uploads.close();
    this.http.close();
    this.refresh();
    await this.outbox.close();
  }

  /** Uses another token, or function, of the same user from now on. A client that the server refused connects again with it. */
  setToken(token: TokenSource): void {
    this.tokens.replace(token);
    if (this.refused) return void this.connect().catch(() => undefined); // its state says why
    this.socket?.tokenReplaced();
    this.fallback.hurry();
  }

  /**
   * Opens a conversation, as on a screen: joins it, loads its newest page, keeps it live. Opening it again gives the
   * same; each use ends with its `close`.
   *
   * @throws ChatError `limit_reached` when too many are open (100 unless the server says otherwise).
   */
  open(conversationId: ConversationId): ConversationView {
    this.begin();
    const { view, isNew } = this.opened.use(conversationId);
    if (!isNew) return view;
    view.pendingChanged();
    if (this.reachable) view.open();
    return view;
  }

  /** Sends a message, also to a conversation that is not open. See {@link ConversationView.send}. */
  send(conversationId: ConversationId, content: string, options?: SendOptions): Outgoing {
    this.begin();
    return this.outbox.add(conversationId, content, options);
  }

  /** Sends a failed message again. */
  retry(clientMsgId: string): void {
    this.outbox.retry(clientMsgId);
  }

  /** Forgets an unsent message. */
  discard(clientMsgId: string): void {
    this.outbox.discard(clientMsgId);
  }

  async edit(messageId: MessageId, content: string, mentions?: UserId[]): Promise<Message> {
    return this.answered(await this.calls.edit(messageId, content, mentions));
  }

  async delete(messageId: MessageId): Promise<Message> {
    return this.answered(await this.calls.delete(messageId));
  }

  /** Reacts, or takes the reaction back. `emoji`: 1 to 64 bytes without spaces. */
  async react(messageId: MessageId, emoji: string, { remove = false } = {}): Promise<Message> {
    return this.answered(await this.calls.react(messageId, emoji, remove));
  }

  /** Pins a message for all members, or takes its pin away. */
  async pin(messageId: MessageId, { remove = false } = {}): Promise<Message> {
    return this.answered(await this.calls.pin(messageId, remove));
  }

  /** A page of a conversation's pinned messages, the newest message first. */
  pins(conversationId: ConversationId, place: ListPlace = {}): Promise<PinList> {
    return this.calls.pins(conversationId, place);
  }

  /** A page of the replies of a message, the oldest first. */
  replies(messageId: MessageId, place: ListPlace = {}): Promise<ReplyList> {
    return this.calls.replies(messageId, place);
  }

  /** Who of the other members received and read a message, and between which times. */
  receipts(messageId: MessageId): Promise<ReceiptList> {
    return this.calls.receipts(messageId);
  }

  /** Starts a conversation; `direct` gives the one that is there. */
  createConversation(conversation: NewConversation): Promise<Conversation> {
    return this.calls.createConversation(conversation).finally(() => this.fallback.hurry());
  }

  /** Renames, decides who may pin messages, pins to the list, mutes. */
  changeConversation(conversationId: ConversationId, patch: ConversationPatch): Promise<Conversation> {
    return this.calls.changeConversation(conversationId, patch).finally(() => this.fallback.hurry());
  }

  /** The unread counts from the server; `conversations.unread` has the same, kept live. */
  unreadCount(): Promise<UnreadCount> {
    return this.calls.unreadCount();
  }

  /** Reports a message of another user to the moderators, with what it says now. Reporting it again gives the first report. */
  report(messageId: MessageId, report: NewReport): Promise<Reported> {
    return this.calls.report(messageId, report);
  }

  /** A page of the users whom the user blocks, by id. */
  blocks(place: ListPlace = {}): Promise<BlockList> {
    return this.calls.blocks(place);
  }

  /** Blocks another user: the two cannot write to each other, and neither is shown the other's presence. */
  block(userId: UserId): Promise<void> {
    return this.calls.block(userId);
  }

  /** Ends a block. */
  unblock(userId: UserId): Promise<void> {
    return this.calls.unblock(userId);
  }

  /**
   * Messages that contain words, out of one conversation or all of the user's. While the answer has a `cursor` there is more to look
   * at, also when it has no hits: pass it to go on.
   */
  search(request: SearchRequest): Promise<SearchPage> {
    return this.calls.search(request);
  }

  /** A page of the user's notifications, the newest first. */
  notifications(place: NotificationPlace = {}): Promise<NotificationList> {
    return this.calls.notifications(place);
  }

  /** How many notifications are unread. */
  unreadNotifications(): Promise<UnreadNotifications> {
    return this.calls.unreadNotifications();
  }

  markNotificationRead(notificationId: NotificationId): Promise<Notification> {
    return this.calls.markNotificationRead(notificationId);
  }

  /** All of them are read. */
  async markNotificationsRead(): Promise<void> {
    await this.calls.markNotificationsRead();
  }

  private get reachable(): boolean {
    return this.socket?.live !== undefined || this.fallback.working;
  }

  private readonly hurry = (): void => {
    this.socket?.hurry();
    this.fallback.hurry();
  };

  private readonly shown = (): void => {
    if (globalThis.document?.visibilityState === "visible") this.hurry();
  };

  /** Hears of a network or a device that came back. */
  private listen(on: boolean): void {
    const how = on ? "addEventListener" : "removeEventListener";
    globalThis[how]?.("online", this.hurry);
    globalThis.document?.[how]("visibilitychange", this.shown);
  }

  /** Unsent messages are brought back and kept, from the first time that the client is used. */
  private begin(): void {
    if (this.begun || this.closed) return;
    this.begun = true;
    const token = this.tokens.known;
    void this.outbox.begin(token === undefined ? undefined : userOf(token));
  }

  private reopen(): void {
    this.closed = false;
    this.http.reopen();
    this.uploads.reopen();
    for (const part of [this.syncer, this.marks, this.presence]) part.restart();
  }

  private makeConnection(make: WebSocketConstructor | undefined, address: string): Connection | undefined {
    if (!make) return undefined;
    return new Connection(make, address, this.tokens, this.settings, {
      resume: () => this.resume(),
      up: (hello, resumed) => this.up(hello, resumed),
      event: this.dispatch,
      down: () => this.down(),
      changed: () => this.connectionChanged(),
      terminated: (error) => this.terminated(error),
    });
  }

  private makeView(id: ConversationId): ConversationView {
    return new ConversationView(id, {
      calls: this.calls,
      settings: this.settings,
      outbox: this.outbox,
      marks: this.marks,
      list: this.conversations,
      autoDelivered: this.autoDelivered,
      me: () => this.user,
      catchUp: () => this.syncer.request(),
      release: (view) => this.release(view),
    });
  }

  private makeDispatcher(): (name: string, data: unknown) => void {
    return dispatcher({
      list: this.conversations,
      outbox: this.outbox,
      presence: this.presence,
      syncer: this.syncer,
      me: () => this.user,
      view: (id) => this.opened.get(id),
      message: (message) => this.events.emit("message", message),
      left: (id) => this.events.emit("left", id),
      notification: (notification) => this.events.emit("notification", notification),
      notificationsRead: (range) => this.events.emit("notificationsRead", range),
      custom: (name, data) => this.events.emit("custom", { name, data }),
      failed: (error) => this.fail(error),
    });
  }

  private outboxHandlers(): OutboxHandlers {
    return {
      deliver: (id, message) => this.deliver(id, message),
      reachable: () => this.reachable,
      stored: (message) => void this.answered(message),
      changed: (id) => this.opened.get(id)?.pendingChanged(),
    };
  }

  private async deliver(id: ConversationId, message: NewMessage): Promise<Message> {
    const live = this.calls.live;
    try {
      return await this.calls.send(id, message);
    } catch (thrown) {
      if (live && ChatError.from(thrown).aboutToken) void this.socket?.renew();
      throw thrown;
    } finally {
      if (!live) this.fallback.hurry();
    }
  }

  private answered(message: Message): Message {
    this.opened.get(message.conversationId)?.answered(message);
    return message;
  }

  private release(view: ConversationView): void {
    if (!this.opened.release(view)) return;
    this.leave(view.id);
  }

  private leave(conversationId: ConversationId): void {
    this.calls.live?.command("leave_conversation", { conversationId }).catch(() => undefined); // at worst its events are ignored
  }

  private async identify(): Promise<void> {
    const token = await this.tokens.get().catch(() => undefined); // connecting reports the failure
    const user = token === undefined ? undefined : userOf(token);
    if (user !== undefined) await this.serve(user);
  }

  private async serve(user: UserId): Promise<void> {
    if (this.user !== undefined) return;
    this.user = user;
    await Promise.all([this.outbox.openFor(user), this.uploads.openFor(user)]);
  }

  private resume(): Resume | undefined {
    const conversations: Record<ConversationId, number> = {};
    for (const view of this.opened) {
      if (view.syncedRev !== undefined) conversations[view.id] = view.syncedRev;
    }
    const { cursor } = this.conversations;
    if (cursor === undefined && Object.keys(conversations).length === 0) return undefined;
    return { ...(cursor !== undefined && { cursor }), conversations };
  }

  private up(hello: Hello, resumed: Resume | undefined): void {
    if (this.user !== undefined && this.user !== hello.userId) {
      return this.terminated(new ChatError("token_invalid", "the token is another user's: make another client"));
    }
    void this.serve(hello.userId);
    this.opened.most = hello.limits.joinedConversations ?? this.opened.most;
    if (!hello.recovered || resumed?.cursor === undefined) this.conversations.distrust();
    for (const view of this.opened) view.up(view.syncedRev === undefined ? undefined : resumed?.conversations?.[view.id]);
    for (const id of Object.keys(resumed?.conversations ?? {})) {
      if (!this.opened.get(id)) this.leave(id); // closed since the attempt began
    }
    this.presence.up();
    this.outbox.flush();
    this.marks.flush();
    if (!this.conversations.synced) this.syncer.request();
  }

  private down(): void {
    for (const view of this.opened) view.down();
    this.presence.down();
  }

  private async poll(): Promise<boolean> {
    if (this.user === undefined) await this.identify();
    return this.syncer.once();
  }

  private fallbackChanged(): void {
    this.refresh();
    if (!this.fallback.working) return;
    for (const view of this.opened) view.open();
    this.outbox.flush();
    this.marks.flush();
  }

  private connectionChanged(): void {
    const { phase, failures } = this.socket ?? { phase: "stopped", failures: 0 };
    if (phase === "open" || phase === "stopped") this.fallback.stop();
    else if (failures >= this.settings.bounds.attemptsBeforeHttp) this.fallback.start();
    this.refresh();
  }

  private terminated(error: ChatError): void {
    this.refused = true;
    this.deactivate();
    this.setInfo({ ...CLOSED, error });
    this.fail(error);
  }

  private deactivate(): void {
    this.active = false;
    this.listen(false);
    this.down();
    this.fallback.stop();
    this.socket?.stop();
  }

  private refresh(): void {
    if (this.closed) return this.setInfo(CLOSED);
    if (!this.active) return;
    const info = infoOf(this.socket, this.fallback, this.wasConnected);
    this.wasConnected ||= info.state === "connected";
    this.setInfo(info);
  }

  private setInfo(info: ConnectionInfo): void {
    if (sameInfo(info, this.connection.get())) return;
    this.connection.set(info);
    this.events.emit("connection", info);
  }

  private fail(error: ChatError): void {
    this.events.emit("error", error);
  }

  private connectedOnce(): Promise<void> {
    return new Promise((resolve, reject) => {
      const look = () => {
        const { state, error } = this.connection.get();
        if (state !== "connected" && state !== "closed") return;
        unsubscribe();
        if (state === "connected") resolve();
        else reject(error ?? new ChatError("client_closed", "the client was closed"));
      };
      const unsubscribe = this.connection.subscribe(look);
      look();
    });
  }
}

function socketsOf({ WebSocket: given }: ChatClientOptions): WebSocketConstructor | undefined {
  if (given !== undefined) return given ?? undefined;
  return (globalThis as { WebSocket?: WebSocketConstructor }).WebSocket;
}
