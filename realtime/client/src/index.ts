/**
 * `@backscroll/client`: see README.md.
 */
export type { ListPlace, LoadedPage, NotificationPlace } from "./calls.js";
export { ChatClient, type ChatEvents, type CustomEvent } from "./client.js";
export type { ChatMessage, ConversationState, ConversationView } from "./conversation.js";
export type { Listener, Observable, Unsubscribe } from "./emitter.js";
export { ChatError, type CloseName, type ComesBack, type ErrorCode } from "./errors.js";
export type { Quality } from "./latency.js";
export type { ConversationListStore } from "./list.js";
export type { Outgoing, PendingMessage, SendOptions } from "./outbox.js";
export type { Presence } from "./presence.js";
export type { OwnStatus } from "./protocol.js";
export type { Watermark } from "./receipts.js";
export {
  DEFAULT_BOUNDS,
  DEFAULT_TIMING,
  type Bounds,
  type ChatClientOptions,
  type Timing,
  type TokenSource,
  type WebSocketConstructor,
  type WebSocketLike,
} from "./settings.js";
export type { ConnectionInfo, ConnectionState } from "./status.js";
export type { OutboxStorage } from "./storage.js";
export type { StoredMessage } from "./timeline.js";
export type * from "./types.gen.js";
export { DEFAULT_SCALING, type ImageScaling } from "./upload-scale.js";
export { indexedDbUploads, type SavedUpload, type UploadStorage } from "./upload-store.js";
export type { ReadOptions, StartedUpload, UploadItem, UploadOptions, UploadPhase, Uploads } from "./upload.js";
export type { Presence as UserPresence } from "./types.gen.js";
