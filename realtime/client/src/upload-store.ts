/**
 * Keeps uploads over a reload: their bytes, and how the server names them.
 *
 * Invariant: a stored upload belongs to one user. What cannot be stored is uploaded all the same, and is gone with the page.
 */
import type { ConversationId, MediaId, MediaKind, Timestamp, UserId } from "./types.gen.js";

/** An upload as it is stored. */
export interface SavedUpload {
  readonly id: string;
  readonly user: UserId;
  readonly conversationId: ConversationId;
  readonly blob: Blob;
  readonly fileName: string;
  readonly contentType: string;
  readonly kind: MediaKind;
  readonly addedAt: Timestamp;
  /** The server's name for it, once it has one. */
  readonly mediaId?: MediaId;
}

/** Where uploads are kept; {@link indexedDbUploads} in browsers. */
export interface UploadStorage {
  list(user: UserId): Promise<readonly SavedUpload[]>;
  put(upload: SavedUpload): Promise<void>;
  remove(id: string): Promise<void>;
}

const TABLE = "uploads";

/** Uploads in the browser's database of this name. */
export function indexedDbUploads(name = "backscroll.uploads"): UploadStorage {
  let opened: Promise<IDBDatabase> | undefined;
  const open = () => (opened ??= openDatabase(name));
  const run = async <T>(mode: IDBTransactionMode, work: (table: IDBObjectStore) => IDBRequest<T>): Promise<T> => {
    const database = await open();
    return settled(work(database.transaction(TABLE, mode).objectStore(TABLE)));
  };
  return {
    async list(user) {
      const all = await run("readonly", (table) => table.getAll() as IDBRequest<SavedUpload[]>);
      return all.filter((upload) => upload.user === user);
    },
    async put(upload) {
      await run("readwrite", (table) => table.put(upload));
    },
    async remove(id) {
      await run("readwrite", (table) => table.delete(id));
    },
  };
}

function openDatabase(name: string): Promise<IDBDatabase> {
  const request = indexedDB.open(name, 1);
  request.onupgradeneeded = () => request.result.createObjectStore(TABLE, { keyPath: "id" });
  return settled(request);
}

function settled<T>(request: IDBRequest<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error ?? new Error("the browser's database failed"));
  });
}
