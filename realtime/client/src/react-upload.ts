/**
 * React: `useUpload`.
 */
import { useCallback, useMemo, useSyncExternalStore } from "react";
import type { ChatClient } from "./client.js";
import type { ConversationId } from "./types.gen.js";
import type { StartedUpload, UploadItem, UploadOptions } from "./upload.js";

/** The result of {@link useUpload}: the conversation's files, and what can be done with them. */
export interface UploadControls {
  /** In the order they were added. */
  readonly uploads: readonly UploadItem[];
  upload(file: Blob, options?: UploadOptions): StartedUpload;
  retry(id: string): void;
  cancel(id: string): void;
  /** A message uses it. */
  used(id: string): void;
}

/** The files on their way to a conversation, those from before a reload included. */
export function useUpload(client: ChatClient, conversationId: ConversationId): UploadControls {
  const { uploads } = client;
  const all = useSyncExternalStore(uploads.items.subscribe, uploads.items.get, uploads.items.get);
  return {
    uploads: useMemo(() => all.filter((item) => item.conversationId === conversationId), [all, conversationId]),
    upload: useCallback((file, options) => uploads.add(conversationId, file, options), [uploads, conversationId]),
    retry: useCallback((id) => uploads.retry(id), [uploads]),
    cancel: useCallback((id) => uploads.cancel(id), [uploads]),
    used: useCallback((id) => uploads.used(id), [uploads]),
  };
}
