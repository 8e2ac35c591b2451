/**
 * The real-time protocol's frames, commands and events, as PROTOCOL.md has them.
 */
import type {
  ConversationHead,
  ConversationId,
  ListEntry,
  Message,
  MessageId,
  NewMessage,
  Rev,
  Seq,
  SyncPage,
  SyncRequest,
  Timestamp,
  UnreadCount,
  UserId,
  Watermarks,
} from "./types.gen.js";

/** What the server takes. */
export interface Limits {
  /** Most bytes in a frame. */
  frameBytes: number;
  /** Most conversations open at once on a connection. */
  joinedConversations: number;
  /** Most users whose presence is watched. */
  presenceUsers: number;
  /** Most commands a second on a connection. */
  commandsPerSecond: number;
}

/** The server's first event. */
export interface Hello {
  sessionId: string;
  userId: UserId;
  heartbeatIntervalMs: number;
  expiresAt: Timestamp;
  recovered: boolean;
  limits: Partial<Limits>;
}

/** What is asked to be continued. */
export interface Resume {
  cursor?: string;
  conversations: Record<ConversationId, Rev>;
}

export type PresenceStatus = "online" | "idle" | "away" | "busy" | "offline";
/** What a user can say about themselves. */
export type OwnStatus = Exclude<PresenceStatus, "idle">;

export interface UserPresence {
  userId: UserId;
  status: PresenceStatus;
  /** When they were last there; only of those who are offline. */
  lastSeen?: Timestamp | null;
}

export interface MessageEvent {
  conversationId: ConversationId;
  message: Message;
}

/** A member has read, or received, everything up to `seq`. */
export interface MarkEvent {
  conversationId: ConversationId;
  seq: Seq;
  messageIds?: MessageId[];
  /** Whose mark it is, for both events. */
  readBy: UserId;
}

export interface TypingEvent {
  conversationId: ConversationId;
  userId: UserId;
  isTyping: boolean;
}

export interface ResyncEvent {
  conversations?: ConversationHead[];
  list?: boolean;
}

export interface WireError {
  code: string;
  message: string;
  retryAfterMs?: number | null;
}

/** Events by their names. */
export interface ServerEvents {
  hello: Hello;
  joined_conversation: ConversationHead;
  left_conversation: { conversationId: ConversationId };
  new_message: MessageEvent;
  message_updated: MessageEvent;
  message_deleted: MessageEvent;
  messages_read: MarkEvent;
  messages_delivered: MarkEvent;
  user_typing: TypingEvent;
  conversation_updated: { conversation: ListEntry; cursor: string };
  user_online: { userId: UserId; status: PresenceStatus };
  user_offline: { userId: UserId; lastSeen?: Timestamp | null };
  notification: { notification: unknown };
  resync: ResyncEvent;
  reconnect: { afterMs: number };
  error: WireError;
}

/** Commands by their names: what goes and what comes back. */
export interface Commands {
  join_conversation: [{ conversationId: ConversationId }, ConversationHead];
  leave_conversation: [{ conversationId: ConversationId }, object];
  send_message: [NewMessage & { conversationId: ConversationId }, Message];
  edit_message: [{ messageId: MessageId; content: string }, Message];
  delete_message: [{ messageId: MessageId }, Message];
  react: [{ messageId: MessageId; emoji: string; remove?: boolean }, Message];
  typing_start: [{ conversationId: ConversationId }, object];
  typing_stop: [{ conversationId: ConversationId }, object];
  mark_read: [{ conversationId: ConversationId; seq?: Seq }, Watermarks];
  mark_delivered: [{ conversationId: ConversationId; seq?: Seq }, Watermarks];
  sync: [SyncRequest, SyncPage];
  presence_subscribe: [{ userIds: UserId[] }, { users: UserPresence[] }];
  presence_update: [{ status: OwnStatus }, object];
  unread_count: [Record<string, never>, UnreadCount];
  refresh_token: [{ token: string }, { expiresAt: Timestamp }];
  ping: [Record<string, never>, object];
}

export type CommandName = keyof Commands;
export type CommandData<Name extends CommandName> = Commands[Name][0];
export type CommandAnswer<Name extends CommandName> = Commands[Name][1];

/** A frame that came in. */
export interface InFrame {
  event?: string;
  ack?: number;
  data?: unknown;
  error?: WireError;
}
