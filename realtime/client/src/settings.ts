/**
 * The settings and their defaults, and the times and bounds that follow from the protocol.
 *
 * Invariant (INV-BOUND): every queue, cache, wait and repetition of this package has its bound here.
 */
import type { OutboxStorage } from "./storage.js";
import type { UploadStorage } from "./upload-store.js";

/** A token, or how to get one. A function is called again before a token ends, and when one was refused. */
export type TokenSource = string | (() => Promise<string>);

/** As much of the browser's `WebSocket` as is used here; the class of the package `ws` fits as well. */
export interface WebSocketLike {
  readonly readyState: number;
  onopen: ((event: never) => void) | null;
  onmessage: ((event: never) => void) | null;
  onerror: ((event: never) => void) | null;
  onclose: ((event: never) => void) | null;
  send(text: string): void;
  close(code?: number, reason?: string): void;
}

/** Makes a socket; called with the address only. */
export type WebSocketConstructor = new (address: string) => WebSocketLike;

/** Times, all in milliseconds. The defaults are what the protocol asks for. */
export interface Timing {
  /** How long opening a connection, up to `hello`, may take. */
  connectTimeoutMs: number;
  /** How long an answer may take before its outcome is unknown; for commands and for HTTP requests. */
  answerTimeoutMs: number;
  /** How long the token function may take. */
  tokenTimeoutMs: number;
  /** Full jitter: the first bound; it doubles with every failure. */
  backoffFirstMs: number;
  /** Full jitter: the last bound. */
  backoffLastMs: number;
  /** How long a connection must last for the failures to be forgotten. */
  stableAfterMs: number;
  /** Between application pings; also how the latency is measured. */
  pingEveryMs: number;
  /** An unanswered ping means that the connection is dead. */
  pongTimeoutMs: number;
  /** The same after the device woke up or its network changed, when the connection is probably dead. */
  wakeTimeoutMs: number;
  /** Silence that is accepted beyond the server's heartbeat. */
  silenceSlackMs: number;
  /** How long before its end a token is renewed; at most half of what is left of its life when it comes. */
  refreshBeforeMs: number;
  /** The shortest time between polls without a WebSocket. */
  pollFirstMs: number;
  /** The longest time between polls without a WebSocket. */
  pollLastMs: number;
  /** How long a hole between messages may stay before it is loaded: the missing ones may be on their way. */
  holeGraceMs: number;
  /** How long a conversation may lag behind the list before it is compared with the log. */
  lagGraceMs: number;
  /** How long read and delivered marks are collected before they are sent. */
  marksEveryMs: number;
  /** Least time between two `typing_start`. */
  typingEveryMs: number;
  /** After how long without a key typing ends by itself. */
  typingStopMs: number;
  /** How long others are shown as typing without a renewal. */
  typingShownMs: number;
  /**
   * How long after a message was given it is sent without asking: the server is sure to recognise a repeat for so long
   * (its `limits.idempotency`). An older one fails with `too_old`, and is sent when the user retries it.
   */
  repeatForMs: number;
}

export const DEFAULT_TIMING: Timing = {
  connectTimeoutMs: 10_000,
  answerTimeoutMs: 10_000,
  tokenTimeoutMs: 10_000,
  backoffFirstMs: 500,
  backoffLastMs: 20_000,
  stableAfterMs: 30_000,
  pingEveryMs: 15_000,
  pongTimeoutMs: 10_000,
  wakeTimeoutMs: 2_500,
  silenceSlackMs: 10_000,
  refreshBeforeMs: 30_000,
  pollFirstMs: 3_000,
  pollLastMs: 30_000,
  holeGraceMs: 500,
  lagGraceMs: 2_000,
  marksEveryMs: 300,
  typingEveryMs: 3_000,
  typingStopMs: 5_000,
  typingShownMs: 6_000,
  repeatForMs: 30 * 86_400_000,
};

/** Counts that nothing may exceed. */
export interface Bounds {
  /** Messages kept per open conversation, 50 to 10,000. Beyond, those farthest from where the reader scrolls are dropped. */
  messagesKept: number;
  /** Messages asked for at once, 1 to 200. */
  pageSize: number;
  /** Messages that wait to be sent, over all conversations. */
  outbox: number;
  /** Conversations in the list; the least active ones beyond are left out. */
  conversationsListed: number;
  /** Failed attempts to connect after which HTTP takes over, while connecting goes on. */
  attemptsBeforeHttp: number;
  /** How often the server answers a send "try again" before it is failed and left to the user; `rate_limited` is only waited for. */
  sendAttempts: number;
  /** Commands that wait for their turn or their answer on a connection. */
  commandsWaiting: number;
}

export const DEFAULT_BOUNDS: Bounds = {
  messagesKept: 1_000,
  pageSize: 50,
  outbox: 200,
  conversationsListed: 2_000,
  attemptsBeforeHttp: 4,
  sendAttempts: 10,
  commandsWaiting: 500,
};

/** The server's limits, from `hello`; these values until it arrives. */
export const DEFAULT_LIMITS = { frameBytes: 65_536, joinedConversations: 100, presenceUsers: 200, commandsPerSecond: 20 };

/** Most messages in a page of history; the server's bound. */
export const PAGE_MAX = 200;
/** Most conversations in one `POST /chat/sync`; the server's bound. */
export const SYNC_CONVERSATIONS_MAX = 200;

/** How to make a client. */
export interface ChatClientOptions {
  /** The server's address, such as `https://chat.example.org`; a path before `/chat` may follow. */
  url: string;
  /** The user. */
  token: TokenSource;
  /** Only where there is no global `WebSocket`, or another is wanted; `null`: HTTP only. */
  WebSocket?: WebSocketConstructor | null;
  /**
   * Only where there is no global `fetch`, or another is wanted, such as one that sends cookies to another origin for a load balancer
   * with sticky sessions.
   */
  fetch?: typeof fetch;
  /**
   * Keeps unsent messages, and who wrote them, over a restart: for example `localStorage`. Without it they live as long as the client.
   * The tabs of a browser share it.
   */
  storage?: OutboxStorage;
  /** The first part of the keys in `storage`; default `backscroll`. */
  storageKey?: string;
  /** Keeps uploads over a reload, for example `indexedDbUploads()`. Without it they live as long as the client. */
  uploadStorage?: UploadStorage;
  /** Tell senders that their messages arrived, for conversations that are open; default true. */
  autoDelivered?: boolean;
  timing?: Partial<Timing>;
  bounds?: Partial<Bounds>;
  /** From 0 to 1, for jitter; default `Math.random`. */
  random?: () => number;
}

/** The options, with every default filled in. */
export interface Settings {
  readonly timing: Timing;
  readonly bounds: Bounds;
  readonly random: () => number;
}

export function settingsOf(options: ChatClientOptions): Settings {
  const bounds = { ...DEFAULT_BOUNDS, ...options.bounds };
  bounds.pageSize = clamp(bounds.pageSize, 1, PAGE_MAX);
  bounds.messagesKept = clamp(bounds.messagesKept, Math.max(50, bounds.pageSize), 10_000);
  return { timing: { ...DEFAULT_TIMING, ...options.timing }, bounds, random: options.random ?? Math.random };
}

function clamp(value: number, least: number, most: number): number {
  return Math.min(Math.max(Math.trunc(value), least), most);
}
