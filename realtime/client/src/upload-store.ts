/**
 * Keeps uploads over a reload: their bytes, and how the server names them.
 *
 * Invariants: a stored upload belongs to one user, and to one tab as long as that is open: others do not go on with it. What cannot
 * be stored is uploaded all the same, and is gone with the page.
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
  /** Those of the user that no other client goes on with; from now on this one does. */
  list(user: UserId): Promise<readonly SavedUpload[]>;
  put(upload: SavedUpload): Promise<void>;
  remove(id: string): Promise<void>;
}

const TABLE = "uploads";

/** Uploads in the browser's database of this name. */
export function indexedDbUploads(name = "backscroll.uploads"): UploadStorage {
  let opened: Promise<IDBDatabase> | undefined;
  const claims = new Claims(name);
  const open = () => (opened ??= openDatabase(name));
  const run = async <T>(mode: IDBTransactionMode, work: (table: IDBObjectStore) => IDBRequest<T>): Promise<T> => {
    const database = await open();
    return settled(work(database.transaction(TABLE, mode).objectStore(TABLE)));
  };
  return {
    async list(user) {
      const all = await run("readonly", (table) => table.getAll() as IDBRequest<SavedUpload[]>);
      const mine = all.filter((upload) => upload.user === user);
      const free = await Promise.all(mine.map(({ id }) => claims.take(id)));
      return mine.filter((_, at) => free[at]);
    },
    async put(upload) {
      await claims.take(upload.id);
      await run("readwrite", (table) => table.put(upload));
    },
    async remove(id) {
      await run("readwrite", (table) => table.delete(id));
      claims.give(id);
    },
  };
}

/** Which uploads are this tab's: a lock for each, which browsers give up with the tab. Where there are no locks, all are. */
class Claims {
  private readonly held = new Map<string, () => void>();

  constructor(private readonly name: string) {}

  /** False: another tab has it. */
  async take(id: string): Promise<boolean> {
    const { locks } = globalThis.navigator ?? {};
    if (!locks || this.held.has(id)) return true;
    return new Promise((resolve) => {
      const holding = locks.request(`${this.name}.${id}`, { ifAvailable: true }, (lock) => {
        resolve(lock !== null);
        return lock && new Promise<void>((release) => this.held.set(id, release));
      });
      holding.catch(() => resolve(true)); // locks are forbidden here
    });
  }

  give(id: string): void {
    this.held.get(id)?.();
    this.held.delete(id);
  }
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
