"use client";
/**
 * React: `useBackscroll`, which makes a client, `useChat` and the provider.
 *
 * Invariants: a mounted hook holds one use of its conversation, or connection, and gives it back when it unmounts. Several hooks on the
 * same conversation share it. An effect may run twice (StrictMode) and never throws: what goes wrong is in the state.
 */
import {
  createContext,
  createElement,
  useCallback,
  useContext,
  useEffect,
  useMemo,
  useRef,
  useState,
  useSyncExternalStore,
  type ReactNode,
} from "react";
import { ChatClient } from "./client.js";
import type { ConversationState, ConversationView } from "./conversation.js";
import { ChatError } from "./errors.js";
import type { Outgoing, SendOptions } from "./outbox.js";
import type { ChatClientOptions } from "./settings.js";
import type { ConnectionInfo } from "./status.js";
import { newestSeq } from "./position.js";
import type { ConversationId, ListEntry, Message, MessageId, Presence as UserPresence, Seq, UnreadCount, UserId } from "./types.gen.js";

export { useSearch, type Search } from "./react-search.js";
export { useUpload, type UploadControls } from "./react-upload.js";

const ChatContext = createContext<ChatClient | undefined>(undefined);

/**
 * A client that is connected as long as the component is mounted. Another one is made when `url`, `storageKey` or one of `users` changes:
 * give the id of the user there, where it can change. The token function is always the one given last; of the other options, those given
 * first count.
 */
export function useBackscroll(options: ChatClientOptions, users: readonly unknown[] = []): ChatClient {
  const { url, storageKey, token } = options;
  const latest = useRef(token);
  latest.current = token;
  const isText = typeof token === "string";
  const client = useMemo(() => {
    const ask = async () => (typeof latest.current === "string" ? latest.current : latest.current());
    return new ChatClient({ ...options, token: isText ? token : ask });
  }, [url, storageKey, isText, ...users]);
  useEffect(() => {
    client.connect().catch(() => undefined); // the connection's state says why
    return () => void client.close();
  }, [client]);
  const told = useRef(token);
  useEffect(() => {
    if (isText && told.current !== token) client.setToken(token);
    told.current = token;
  }, [client, isText, token]);
  return client;
}

/** Provides the client to the hooks below it. Make the client with {@link useBackscroll}, or connect and close it yourself. */
export function ChatProvider({ client, children }: { client: ChatClient; children?: ReactNode }) {
  return createElement(ChatContext.Provider, { value: client }, children);
}

/** The provider's client. */
export function useChatClient(): ChatClient {
  const client = useContext(ChatContext);
  if (!client) throw new Error("useChat needs a ChatProvider around it, or the client as its first argument");
  return client;
}

/** The result of {@link useChat}: the conversation's state and its actions. */
export interface Chat extends ConversationState {
  readonly isConnected: boolean;
  readonly connectionState: ConnectionInfo["state"];
  readonly quality: ConnectionInfo["quality"];
  /** See {@link ConversationView.send}. */
  sendMessage(content: string, options?: SendOptions): Outgoing;
  retryMessage(clientMsgId: string): void;
  discardMessage(clientMsgId: string): void;
  editMessage(messageId: MessageId, content: string): Promise<Message>;
  deleteMessage(messageId: MessageId): Promise<Message>;
  react(messageId: MessageId, emoji: string, options?: { remove?: boolean }): Promise<Message>;
  loadBefore(): Promise<boolean>;
  loadAfter(): Promise<boolean>;
  jumpTo(seq: Seq): Promise<void>;
  jumpToLatest(): Promise<void>;
  markRead(seq?: Seq): void;
  /** The user has read up to the newest of these messages; ids of messages that are being sent count for nothing. */
  markAsRead(messageIds: readonly MessageId[]): void;
  /** Call it at every key. */
  typing(): void;
  /** The same as `typing`. */
  startTyping(): void;
  /** The text was cleared. Sending ends typing by itself. */
  stopTyping(): void;
  isUserTyping(userId: UserId): boolean;
  /** Whether a member is known to be online. Of a large conversation only some members are known. */
  isUserOnline(userId: UserId): boolean;
}

const NOT_OPEN: ConversationState = {
  status: "loading",
  messages: [],
  hasMoreBefore: false,
  hasMoreAfter: false,
  headSeq: 0,
  missing: [],
  typingUsers: [],
  watermarks: new Map(),
};
const notOpen = () => NOT_OPEN;
const nothingChanges = () => () => undefined;

/** A conversation, open as long as the component is mounted. */
export function useChat(conversationId: ConversationId): Chat;
export function useChat(client: ChatClient, conversationId: ConversationId): Chat;
export function useChat(...given: [ConversationId] | [ChatClient, ConversationId]): Chat {
  const provided = useContext(ChatContext);
  const client = given.length === 2 ? given[0] : provided;
  const conversationId = given.length === 2 ? given[1] : given[0];
  if (!client) throw new Error("useChat needs a ChatProvider around it, or the client as its first argument");
  const { view, refusal } = useView(client, conversationId);
  const shown = useSyncExternalStore(view?.state.subscribe ?? nothingChanges, view?.state.get ?? notOpen, notOpen);
  const state: ConversationState = refusal ? { ...shown, status: "failed", error: refusal } : shown;
  const connection = useConnection(client);
  const actions = useActions(client, conversationId, view);
  const online = useMembersPresence(client, state);
  const { typingUsers } = state;
  return {
    ...state,
    isConnected: connection.state === "connected",
    connectionState: connection.state,
    quality: connection.quality,
    ...actions,
    isUserTyping: useCallback((userId) => typingUsers.includes(userId), [typingUsers]),
    isUserOnline: useCallback((userId) => isOnline(online.get(userId)), [online]),
  };
}

/** The connection's state. */
export function useConnection(client?: ChatClient): ConnectionInfo {
  const provided = useContext(ChatContext);
  const { connection } = required(client ?? provided);
  return useSyncExternalStore(connection.subscribe, connection.get, connection.get);
}

/** The result of {@link useConversations}. */
export interface Conversations {
  readonly conversations: readonly ListEntry[];
  readonly unread: UnreadCount;
  /** Why the list cannot be loaded, while that is tried again. */
  readonly error: ChatError | undefined;
}

/** The user's conversations in the order to show them, and how much is unread. */
export function useConversations(client?: ChatClient): Conversations {
  const provided = useContext(ChatContext);
  const { entries, unread, error } = required(client ?? provided).conversations;
  return {
    conversations: useSyncExternalStore(entries.subscribe, entries.get, entries.get),
    unread: useSyncExternalStore(unread.subscribe, unread.get, unread.get),
    error: useSyncExternalStore(error.subscribe, error.get, error.get),
  };
}

/** The presence of the watched users. */
export function usePresence(client?: ChatClient): ReadonlyMap<UserId, UserPresence> {
  const provided = useContext(ChatContext);
  const { users } = required(client ?? provided).presence;
  return useSyncExternalStore(users.subscribe, users.get, users.get);
}

function required(client: ChatClient | undefined): ChatClient {
  if (!client) throw new Error("this hook needs a ChatProvider around it, or the client as its argument");
  return client;
}

interface Opened {
  readonly view?: ConversationView;
  /** Why it cannot be opened. */
  readonly refusal?: ChatError;
}

const NOTHING_OPENED: Opened = {};

/** Opens in an effect, so that a render that is thrown away opens nothing. */
function useView(client: ChatClient, conversationId: ConversationId): Opened {
  const [opened, setOpened] = useState(NOTHING_OPENED);
  useEffect(() => {
    const now = openedBy(client, conversationId);
    setOpened(now);
    return () => {
      now.view?.close();
      setOpened(NOTHING_OPENED);
    };
  }, [client, conversationId]);
  return opened.view === undefined || opened.view.id === conversationId ? opened : NOTHING_OPENED;
}

function openedBy(client: ChatClient, conversationId: ConversationId): Opened {
  try {
    return { view: client.open(conversationId) };
  } catch (thrown) {
    return { refusal: ChatError.from(thrown) };
  }
}

/** Most members of a conversation whose presence its hook watches. */
const WATCHED_MAX = 50;

/** Watches the first members that are known, as long as the component is mounted. */
function useMembersPresence(client: ChatClient, { watermarks }: ConversationState): ReadonlyMap<UserId, UserPresence> {
  const members = JSON.stringify([...watermarks.keys()].slice(0, WATCHED_MAX).sort());
  useEffect(() => client.presence.hold(JSON.parse(members) as UserId[]), [client, members]);
  const { users } = client.presence;
  return useSyncExternalStore(users.subscribe, users.get, users.get);
}

function isOnline(presence: UserPresence | undefined): boolean {
  return presence !== undefined && presence.status !== "offline";
}

type Actions = Omit<Chat, keyof ConversationState | "isConnected" | "connectionState" | "quality" | "isUserTyping" | "isUserOnline">;

function useActions(client: ChatClient, conversationId: ConversationId, view: ConversationView | undefined): Actions {
  const open = useCallback(() => {
    if (!view) throw new ChatError("not_connected", "the conversation is not open yet");
    return view;
  }, [view]);
  return {
    sendMessage: useCallback((content, options) => client.send(conversationId, content, options), [client, conversationId]),
    retryMessage: useCallback((clientMsgId) => client.retry(clientMsgId), [client]),
    discardMessage: useCallback((clientMsgId) => client.discard(clientMsgId), [client]),
    editMessage: useCallback((messageId, content) => client.edit(messageId, content), [client]),
    deleteMessage: useCallback((messageId) => client.delete(messageId), [client]),
    react: useCallback((messageId, emoji, options) => client.react(messageId, emoji, options), [client]),
    loadBefore: useCallback(async () => open().loadBefore(), [open]),
    loadAfter: useCallback(async () => open().loadAfter(), [open]),
    jumpTo: useCallback(async (seq) => open().jumpTo(seq), [open]),
    jumpToLatest: useCallback(async () => open().jumpToLatest(), [open]),
    markRead: useCallback((seq) => view?.markRead(seq), [view]),
    markAsRead: useCallback((messageIds) => view?.markRead(newestSeq(conversationId, messageIds)), [view, conversationId]),
    typing: useCallback(() => view?.typing(), [view]),
    startTyping: useCallback(() => view?.typing(), [view]),
    stopTyping: useCallback(() => view?.stopTyping(), [view]),
  };
}
