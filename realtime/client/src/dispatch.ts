/**
 * Hands each event to those it concerns.
 *
 * Invariants: everything happens on the caller's stack, so that events take effect in the order in which they came. An
 * event that is not as the protocol has it changes nothing and stops nothing; one that is not the protocol's is the application's.
 */
import type { ConversationView } from "./conversation.js";
import { ChatError } from "./errors.js";
import type { ConversationListStore } from "./list.js";
import type { Outbox } from "./outbox.js";
import type { Presence } from "./presence.js";
import type { Syncer } from "./syncer.js";
import type { ConversationId, Message, MessageEvent, Notification, NotificationsRead, ServerEvents, UserId } from "./types.gen.js";

/** The parts that events concern. */
export interface Listeners {
  readonly list: ConversationListStore;
  readonly outbox: Outbox;
  readonly presence: Presence;
  readonly syncer: Syncer;
  me(): UserId | undefined;
  view(id: ConversationId): ConversationView | undefined;
  message(message: Message): void;
  left(id: ConversationId): void;
  notification(notification: Notification): void;
  notificationsRead(range: NotificationsRead): void;
  custom(name: string, data: unknown): void;
  failed(error: ChatError): void;
}

type Handlers = { readonly [Name in keyof ServerEvents]: (data: ServerEvents[Name]) => void };

/** What the connection or a call has seen already. */
const seen = () => {};

/** A function that takes every event. */
export function dispatcher(listeners: Listeners): (name: string, data: unknown) => void {
  const handlers = handlersFor(listeners) as Record<string, ((data: unknown) => void) | undefined>;
  return (name, data) => {
    if (!Object.hasOwn(handlers, name)) {
      listeners.custom(name, data);
      return;
    }
    try {
      handlers[name]?.(data);
    } catch (thrown) {
      listeners.failed(new ChatError("invalid_frame", `event ${name}: ${ChatError.from(thrown).message}`));
    }
  };
}

function handlersFor(listeners: Listeners): Handlers {
  const { list, outbox, presence, syncer, view } = listeners;
  const message = (event: MessageEvent) => {
    view(event.conversationId)?.message(event);
    outbox.confirm(event.message);
    list.sawMessage(event.message);
    if (event.message.senderId === listeners.me()) list.sawRead(event.conversationId, event.message.seq);
    listeners.message(event.message);
  };
  return {
    joined_conversation: (head) => view(head.conversationId)?.joined(head),
    left_conversation: ({ conversationId }) => {
      view(conversationId)?.left();
      listeners.left(conversationId);
    },
    new_message: message,
    message_updated: message,
    message_deleted: message,
    messages_read: (event) => {
      if (event.readBy === listeners.me()) list.sawRead(event.conversationId, event.seq);
      view(event.conversationId)?.marked(event, true);
    },
    messages_delivered: (event) => view(event.conversationId)?.marked(event, false),
    user_typing: (event) => view(event.conversationId)?.typed(event),
    conversation_updated: ({ conversation, cursor }) => {
      list.applyEvent(conversation, cursor);
      view(conversation.id)?.listed(conversation);
    },
    user_online: (event) => presence.online(event),
    user_offline: (event) => presence.offline(event),
    notification: ({ notification }) => listeners.notification(notification),
    notifications_read: (range) => listeners.notificationsRead(range),
    resync: ({ conversations, list: listToo }) => {
      for (const head of conversations ?? []) view(head.conversationId)?.resync(head);
      if (!listToo) return;
      list.distrust();
      syncer.request();
    },
    hello: seen,
    reconnect: seen,
    media_ready: seen,
    media_failed: seen,
    error: (failure) => listeners.failed(ChatError.fromFailure(failure)),
  };
}
