/**
 * Which data belongs to which command and event of the real-time protocol. The data itself comes from the server's
 * own documents (`types.gen.ts`).
 */
import type {
  ConversationHead,
  ConversationUpdated,
  DeleteMessage,
  Done,
  EditMessage,
  Failure,
  Hello,
  InConversation,
  MarkDelivered,
  MarkNotificationRead,
  MarkRead,
  Message,
  MessageEvent,
  Notification,
  NotificationEvent,
  NotificationsRead,
  Presence,
  PresenceSubscribe,
  PresenceUpdate,
  React,
  Receipt,
  Reconnect,
  Refreshed,
  RefreshToken,
  Resync,
  SendMessage,
  Status,
  SyncPage,
  SyncRequest,
  UnreadCount,
  UnreadNotifications,
  UserTyping,
  Watched,
  Watermarks,
} from "./types.gen.js";

/** What a user can say about themselves; `idle` comes by itself. */
export type OwnStatus = Exclude<Status, "idle">;

/** Events by their names. */
export interface ServerEvents {
  hello: Hello;
  joined_conversation: ConversationHead;
  left_conversation: InConversation;
  new_message: MessageEvent;
  message_updated: MessageEvent;
  message_deleted: MessageEvent;
  messages_read: Receipt;
  messages_delivered: Receipt;
  user_typing: UserTyping;
  conversation_updated: ConversationUpdated;
  user_online: Presence;
  user_offline: Presence;
  notification: NotificationEvent;
  notifications_read: NotificationsRead;
  resync: Resync;
  reconnect: Reconnect;
  error: Failure;
}

/** Commands by their names: what goes and what comes back. */
export interface Commands {
  join_conversation: [InConversation, ConversationHead];
  leave_conversation: [InConversation, Done];
  send_message: [SendMessage, Message];
  edit_message: [EditMessage, Message];
  delete_message: [DeleteMessage, Message];
  react: [React, Message];
  typing_start: [InConversation, Done];
  typing_stop: [InConversation, Done];
  mark_read: [MarkRead, Watermarks];
  mark_delivered: [MarkDelivered, Watermarks];
  sync: [SyncRequest, SyncPage];
  presence_subscribe: [PresenceSubscribe, Watched];
  presence_update: [PresenceUpdate, Done];
  unread_count: [Done, UnreadCount];
  mark_notification_read: [MarkNotificationRead, Notification];
  mark_notifications_read: [Done, Done];
  unread_notifications: [Done, UnreadNotifications];
  refresh_token: [RefreshToken, Refreshed];
  ping: [Done, Done];
}

export type CommandName = keyof Commands;
export type CommandData<Name extends CommandName> = Commands[Name][0];
export type CommandAnswer<Name extends CommandName> = Commands[Name][1];

/** A frame that came in. */
export interface InFrame {
  event?: string;
  ack?: number;
  data?: unknown;
  error?: Failure;
}
