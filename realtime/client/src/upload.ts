/**
 * Files on their way to the server, and what the application shows of them.
 *
 * Invariants: a file keeps its id from being added until a message uses it or it is cancelled, over failures and, with a storage,
 * over a reload. At most {@link UPLOADS_AT_ONCE} are under way and {@link UPLOADS_MAX} are held; the rest is refused.
 */
import { uniqueId } from "./clock.js";
import { failureOf } from "./http.js";
import { Observable } from "./emitter.js";
import { ChatError } from "./errors.js";
import type { TokenKeeper } from "./token.js";
import type { ConversationId, Media, MediaId, MediaKind, UserId } from "./types.gen.js";
import { DEFAULT_SCALING, scaled, type ImageScaling } from "./upload-scale.js";
import type { SavedUpload, UploadStorage } from "./upload-store.js";
import { Transfer, type TransferContext } from "./upload-transfer.js";

/** Files under way at once. */
export const UPLOADS_AT_ONCE = 3;
/** Files held, those that are ready included. */
export const UPLOADS_MAX = 30;

/**
 * - `waiting`: for its turn;
 * - `uploading`: its bytes are being sent;
 * - `checking`: its bytes are there, and the server looks at them;
 * - `ready`: a message can use it;
 * - `failed`: given up until it is retried; see `error`.
 */
export type UploadPhase = "waiting" | "uploading" | "checking" | "ready" | "failed";

/** A file, as it is shown. Immutable. */
export interface UploadItem {
  readonly id: string;
  readonly conversationId: ConversationId;
  readonly fileName: string;
  readonly kind: MediaKind;
  readonly phase: UploadPhase;
  readonly bytes: number;
  readonly sentBytes: number;
  /** What is uploaded, for a preview. */
  readonly blob: Blob;
  /** As the server has it, when it is ready. */
  readonly media?: Media;
  readonly error?: ChatError;
}

export interface UploadOptions {
  /** For people; default the file's own. */
  readonly fileName?: string;
  /** `image`, `voice` or `file`; by default `image` for pictures that the server can show. */
  readonly kind?: MediaKind;
  /** How a picture is made smaller before; false: not at all. Default {@link DEFAULT_SCALING}. */
  readonly scaling?: Partial<ImageScaling> | false;
}

/** The result of {@link Uploads.add}. */
export interface StartedUpload {
  readonly id: string;
  /** The file as the server has it; rejects when it fails or is cancelled. Need not be looked at. */
  readonly ready: Promise<Media>;
}

/** Which form of a file, and until when it is wanted. */
export interface ReadOptions {
  readonly variant?: "small" | "large";
  readonly signal?: AbortSignal;
}

interface Entry {
  item: UploadItem;
  user: UserId | undefined;
  mediaId: MediaId | undefined;
  readonly addedAt: string;
  readonly contentType: string;
  readonly prepare: () => Promise<void>;
  stop: AbortController;
  settle: { resolve: (media: Media) => void; reject: (error: ChatError) => void };
}

const IMAGES = new Set(["image/jpeg", "image/png", "image/gif", "image/webp"]);

export class Uploads {
  /** The files that are held, in the order they were added. */
  readonly items = new Observable<readonly UploadItem[]>([]);
  private readonly entries = new Map<string, Entry>();
  private user: UserId | undefined;
  private running = 0;
  private closed = false;

  /** @internal */
  constructor(
    private readonly context: TransferContext & { readonly tokens: TokenKeeper; readonly fetcher: typeof fetch },
    private readonly storage: UploadStorage | undefined,
  ) {}

  /**
   * Takes a file for a message of this conversation.
   *
   * @throws ChatError `queue_full` when too many are held.
   */
  add(conversationId: ConversationId, file: Blob, options: UploadOptions = {}): StartedUpload {
    if (this.closed) throw new ChatError("client_closed", "the client was closed");
    if (this.entries.size >= UPLOADS_MAX) throw new ChatError("queue_full", "too many files are being uploaded");
    const given = file as Partial<File>;
    const fileName = nameFor(options.fileName ?? given.name ?? "file");
    const scaling = options.scaling === false ? undefined : { ...DEFAULT_SCALING, ...options.scaling };
    const { entry, ready } = this.hold({
      id: uniqueId(),
      conversationId,
      blob: file,
      fileName,
      contentType: file.type,
      kind: options.kind ?? (IMAGES.has(file.type) ? "image" : "file"),
      addedAt: new Date().toISOString(),
    });
    const mayScale = scaling && (options.kind ?? "image") === "image";
    const prepared = async () => {
      const small = mayScale ? await scaled({ blob: file, fileName }, scaling) : { blob: file, fileName };
      const kind = options.kind ?? (IMAGES.has(small.blob.type) ? "image" : "file");
      this.change(entry, { blob: small.blob, fileName: small.fileName, bytes: small.blob.size, kind });
      await this.save(entry);
    };
    let preparing: Promise<void> | undefined;
    Object.assign(entry, { prepare: () => (preparing ??= prepared()) });
    this.pump();
    return { id: entry.item.id, ready };
  }

  /** Tries a failed file again; what has arrived of it is not sent again. */
  retry(id: string): void {
    const entry = this.entries.get(id);
    if (entry?.item.phase !== "failed") return;
    const { error: _, ...item } = entry.item;
    entry.item = { ...item, phase: "waiting" };
    this.publish();
    this.pump();
  }

  /** Gives a file up, also on the server. */
  cancel(id: string): void {
    const entry = this.entries.get(id);
    if (!entry) return;
    entry.stop.abort();
    this.forget(id);
    entry.settle.reject(new ChatError("discarded", "the upload was cancelled"));
    // At worst the server collects it after a day.
    if (entry.mediaId !== undefined) this.context.http.repeated("DELETE", `/media/${entry.mediaId}`).catch(() => undefined);
  }

  /** A message uses this file: it is not held any more. */
  used(id: string): void {
    this.forget(id);
  }

  /** The bytes of a file in a message that the user can read; of a picture, a smaller form where there is one. */
  async read(mediaId: MediaId, { variant, signal }: ReadOptions = {}): Promise<Blob> {
    const { fetcher, tokens, base, settings } = this.context;
    const deadline = AbortSignal.timeout(settings.timing.answerTimeoutMs * 6);
    const response = await fetcher(`${base}/chat/media/${mediaId}${variant ? `?variant=${variant}` : ""}`, {
      headers: { Authorization: `Bearer ${await tokens.get()}` },
      signal: signal ? AbortSignal.any([signal, deadline]) : deadline,
    });
    if (!response.ok) throw failureOf(response, await response.text(), base, settings);
    return response.blob();
  }

  /** Whose files these are; goes on with those that were stored. @internal */
  async openFor(user: UserId): Promise<void> {
    this.user = user;
    const saved = await this.storage?.list(user).catch(() => []);
    for (const upload of saved ?? []) {
      if (this.entries.has(upload.id) || this.entries.size >= UPLOADS_MAX) continue;
      this.hold(upload).entry.mediaId = upload.mediaId;
    }
    for (const entry of this.entries.values()) {
      const isNew = entry.user === undefined;
      entry.user = user;
      if (isNew && !saved?.some(({ id }) => id === entry.item.id)) void this.save(entry);
    }
    this.pump();
  }

  /** Sends no more; what is stored is gone on with at the next start. @internal */
  close(): void {
    this.closed = true;
    for (const entry of this.entries.values()) entry.stop.abort();
  }

  /** Goes on with what {@link close} stopped. @internal */
  reopen(): void {
    this.closed = false;
    for (const entry of this.entries.values()) {
      if (!entry.stop.signal.aborted) continue;
      entry.stop = new AbortController();
      if (entry.item.phase === "uploading" || entry.item.phase === "checking") entry.item = { ...entry.item, phase: "waiting" };
    }
    this.publish();
    this.pump();
  }

  private hold(upload: Omit<SavedUpload, "user">): { entry: Entry; ready: Promise<Media> } {
    const { id, conversationId, blob, fileName, kind, addedAt, contentType } = upload;
    let settle: Entry["settle"] | undefined;
    const ready = new Promise<Media>((resolve, reject) => (settle = { resolve, reject }));
    ready.catch(() => undefined); // a caller may ignore the promise
    const item: UploadItem = { id, conversationId, fileName, kind, phase: "waiting", bytes: blob.size, sentBytes: 0, blob };
    const prepare = () => Promise.resolve();
    const entry: Entry = {
      item,
      user: this.user,
      mediaId: undefined,
      addedAt,
      contentType,
      prepare,
      stop: new AbortController(),
      settle: settle!,
    };
    this.entries.set(id, entry);
    this.publish();
    return { entry, ready };
  }

  private pump(): void {
    for (const entry of this.entries.values()) {
      if (this.closed || this.running >= UPLOADS_AT_ONCE) return;
      if (entry.item.phase === "waiting") void this.run(entry);
    }
  }

  private async run(entry: Entry): Promise<void> {
    this.running += 1;
    this.change(entry, { phase: "uploading", sentBytes: 0 });
    try {
      await entry.prepare();
      const media = await this.transfer(entry).run();
      this.change(entry, { phase: "ready", sentBytes: entry.item.bytes, media });
      entry.settle.resolve(media);
    } catch (thrown) {
      const error = this.closed ? new ChatError("client_closed", "the client was closed") : ChatError.from(thrown);
      if (error.code !== "client_closed") this.change(entry, { phase: "failed", error });
      entry.settle.reject(error);
    } finally {
      this.running -= 1;
      this.pump();
    }
  }

  private transfer(entry: Entry): Transfer {
    const { conversationId, fileName, kind, blob, bytes } = entry.item;
    const contentType = (blob.type || entry.contentType || "application/octet-stream").split(";")[0]!.trim().toLowerCase();
    const file = { conversationId, fileName, contentType, bytes, kind };
    return new Transfer(this.context, file, blob, entry.mediaId, entry.stop.signal, {
      begun: (mediaId) => {
        entry.mediaId = mediaId;
        void this.save(entry);
      },
      progress: (sentBytes) => this.change(entry, { sentBytes }),
      arrived: () => this.change(entry, { phase: "checking", sentBytes: bytes }),
    });
  }

  private change(entry: Entry, change: Partial<UploadItem>): void {
    if (!this.entries.has(entry.item.id)) return;
    entry.item = { ...entry.item, ...change };
    this.publish();
  }

  private forget(id: string): void {
    if (!this.entries.delete(id)) return;
    this.storage?.remove(id).catch(() => undefined);
    this.publish();
  }

  private async save({ item, user, mediaId, addedAt, contentType }: Entry): Promise<void> {
    if (!this.storage || user === undefined || !this.entries.has(item.id)) return;
    const { id, conversationId, blob, fileName, kind } = item;
    const saved = { id, user, conversationId, blob, fileName, contentType, kind, addedAt, ...(mediaId !== undefined && { mediaId }) };
    await this.storage.put(saved).catch(() => undefined); // full or forbidden: it is uploaded all the same
  }

  private publish(): void {
    this.items.set([...this.entries.values()].map(({ item }) => item));
  }
}

/** A name that the server takes: no slashes or control characters, and not too long. */
function nameFor(given: string): string {
  const clean = [...given.replace(/[\p{Cc}/\\]/gu, "_")].slice(-255).join("");
  return clean.trim() === "" ? "file" : clean;
}
