/**
 * One upload from its first byte to the server's verdict.
 *
 * Invariants: bytes that arrived are not sent again: after a failure the server is asked which parts it has. It gives up after
 * some failures in a row without a part in between. The server's verdict is final.
 */
import { ChatError } from "./errors.js";
import type { Http } from "./http.js";
import type { Settings } from "./settings.js";
import { fullJitter, pause } from "./timer.js";
import type { BegunMedia, Media, MediaId, MediaUpload, NewMedia, UploadInstructions, UploadRequest } from "./types.gen.js";
import type { Put } from "./upload-put.js";

/** Failures in a row after which an upload is left to the user. */
const ATTEMPTS = 6;
/** Parts that are sent at once. */
const PARTS_AT_ONCE = 3;
/** How long nothing may move. */
const STALL_MS = 30_000;

export interface TransferHandlers {
  /** The server has a name for it now. */
  begun(mediaId: MediaId): void;
  /** Bytes that are there, those of requests under way included. */
  progress(bytes: number): void;
  /** All bytes are there; the server checks them. */
  arrived(): void;
}

export interface TransferContext {
  readonly http: Http;
  readonly put: Put;
  readonly settings: Settings;
  /** The address that paths on the server begin at. */
  readonly base: string;
}

export class Transfer {
  private readonly arrivedParts = new Map<number, number>();
  private readonly underWay = new Map<number, number>();

  constructor(
    private readonly context: TransferContext,
    private readonly file: NewMedia,
    private readonly bytes: Blob,
    private mediaId: MediaId | undefined,
    private readonly signal: AbortSignal,
    private readonly handlers: TransferHandlers,
  ) {}

  /** The file, ready to be used. Throws `media_rejected` with the server's reason when it cannot be. */
  async run(): Promise<Media> {
    for (let failures = 0; ; failures++) {
      const before = this.arrivedParts.size;
      try {
        await this.send();
        return await this.verdict();
      } catch (thrown) {
        const error = ChatError.from(thrown);
        if (this.signal.aborted) throw new ChatError("discarded", "the upload was cancelled");
        if (this.arrivedParts.size > before) failures = 0;
        if (!error.retryable || failures + 1 >= ATTEMPTS) throw error;
        const { backoffFirstMs, backoffLastMs } = this.context.settings.timing;
        const jitterMs = fullJitter(failures, backoffFirstMs, backoffLastMs, this.context.settings.random);
        await pause((error.retryAfterMs ?? 0) + jitterMs, this.signal);
      }
    }
  }

  /** Sends what is missing until nothing is. */
  private async send(): Promise<void> {
    for (let next = await this.instructions(); next; next = await this.resumed()) {
      if (!("parts" in next)) return this.sendWhole(next);
      if (next.parts.length === 0) return;
      await this.sendParts(next.parts, next.partBytes);
    }
  }

  private async instructions(): Promise<UploadInstructions | undefined> {
    if (this.mediaId !== undefined) {
      try {
        return await this.resumed();
      } catch (thrown) {
        if (ChatError.from(thrown).code !== "not_found") throw thrown;
        this.mediaId = undefined; // collected meanwhile
      }
    }
    const begun = await this.context.http.repeated<BegunMedia>("POST", "/media", this.file);
    this.mediaId = begun.mediaId;
    this.handlers.begun(begun.mediaId);
    return begun.upload;
  }

  /** What is missing, with fresh addresses; undefined when the file was completed already. */
  private async resumed(): Promise<UploadInstructions | undefined> {
    const { upload, present } = await this.context.http.repeated<MediaUpload>("GET", `/media/${this.mediaId}/upload`);
    this.arrivedParts.clear();
    for (const { number, bytes } of present) this.arrivedParts.set(number, bytes);
    this.report();
    const whole = upload && !("parts" in upload) && this.arrivedParts.has(1);
    return whole ? undefined : (upload ?? undefined);
  }

  private async sendWhole(request: UploadRequest): Promise<void> {
    await this.sendOne(1, request, this.bytes);
  }

  private async sendParts(parts: readonly UploadRequest[], partBytes: number): Promise<void> {
    const waiting = [...parts];
    const failed = new AbortController();
    const worker = async () => {
      for (let part = waiting.shift(); part && !failed.signal.aborted; part = waiting.shift()) {
        const number = part.number ?? 1;
        const from = (number - 1) * partBytes;
        await this.sendOne(number, part, this.bytes.slice(from, Math.min(from + partBytes, this.bytes.size)));
      }
    };
    const workers = Array.from({ length: PARTS_AT_ONCE }, () =>
      worker().catch((error: unknown) => (failed.abort(), Promise.reject(error))),
    );
    const ended = await Promise.allSettled(workers);
    const failure = ended.find((one) => one.status === "rejected");
    if (failure) throw failure.reason;
  }

  private async sendOne(number: number, request: UploadRequest, bytes: Blob): Promise<void> {
    const url = request.url.startsWith("/") ? `${this.context.base}${request.url}` : request.url;
    try {
      await this.context.put(url, request, bytes, {
        signal: this.signal,
        stallMs: STALL_MS,
        progress: (sent) => {
          this.underWay.set(number, Math.min(sent, bytes.size));
          this.report();
        },
      });
      this.arrivedParts.set(number, bytes.size);
    } finally {
      this.underWay.delete(number);
      this.report();
    }
  }

  private report(): void {
    const sum = (parts: Map<number, number>) => [...parts.values()].reduce((total, bytes) => total + bytes, 0);
    this.handlers.progress(Math.min(sum(this.arrivedParts) + sum(this.underWay), this.bytes.size));
  }

  private async verdict(): Promise<Media> {
    this.handlers.arrived();
    const { http } = this.context;
    const media = await http.repeated<Media>("POST", `/media/${this.mediaId}/complete`);
    if (media.state === "rejected") throw new ChatError("media_rejected", media.reason ?? "the server refused the file");
    return media;
  }
}
