/**
 * Sending the bytes of one request of an upload, with progress.
 *
 * Invariant: it ends. Where nothing moves for `stallMs`, it is given up, whatever the size.
 */
import { ChatError } from "./errors.js";
import type { UploadRequest } from "./types.gen.js";

export interface PutOptions {
  /** How many bytes of this request have left. */
  readonly progress: (bytes: number) => void;
  readonly signal: AbortSignal;
  readonly stallMs: number;
}

/** Sends `bytes`, to `url` as resolved by the caller. */
export type Put = (url: string, request: UploadRequest, bytes: Blob, options: PutOptions) => Promise<void>;

/** Browsers do not let a page set this one, and set it themselves. */
const SET_BY_BROWSERS = "content-length";

/** With `XMLHttpRequest`, which tells how far it is; `fetch` does not. */
export const putWithXhr: Put = (url, request, bytes, { progress, signal, stallMs }) =>
  new Promise((resolve, reject) => {
    const xhr = new XMLHttpRequest();
    let stall: ReturnType<typeof setTimeout> | undefined;
    const moved = () => {
      clearTimeout(stall);
      stall = setTimeout(() => finish(new ChatError("timeout", `nothing was sent for ${stallMs} ms`)), stallMs);
    };
    const abort = () => finish(new ChatError("discarded", "the upload was cancelled"));
    const finish = (error?: ChatError) => {
      clearTimeout(stall);
      signal.removeEventListener("abort", abort);
      if (!error) return resolve();
      xhr.abort();
      reject(error);
    };
    xhr.upload.onprogress = ({ loaded }) => {
      moved();
      progress(loaded);
    };
    xhr.onload = () => finish(failureOf(xhr.status, xhr.responseText));
    xhr.onerror = () => finish(new ChatError("connection_lost", "the connection to the object store was lost"));
    signal.addEventListener("abort", abort);
    if (signal.aborted) return abort();
    xhr.open(request.method, url);
    for (const [name, value] of Object.entries(request.headers)) {
      if (name.toLowerCase() !== SET_BY_BROWSERS) xhr.setRequestHeader(name, value);
    }
    moved();
    xhr.send(bytes);
  });

/** With `fetch`, where there is no `XMLHttpRequest`; progress comes at the end. */
export const putWithFetch =
  (fetcher: typeof fetch): Put =>
  async (url, request, bytes, { progress, signal, stallMs }) => {
    const deadline = AbortSignal.timeout(stallMs + Math.ceil(bytes.size / SLOWEST_BYTES_PER_MS));
    const headers = Object.entries(request.headers).filter(([name]) => name.toLowerCase() !== SET_BY_BROWSERS);
    let response: Response;
    try {
      response = await fetcher(url, {
        method: request.method,
        headers: Object.fromEntries(headers),
        body: bytes,
        signal: AbortSignal.any([signal, deadline]),
      });
    } catch (thrown) {
      if (signal.aborted) throw new ChatError("discarded", "the upload was cancelled");
      if (deadline.aborted) throw new ChatError("timeout", "the object store did not take the bytes in time");
      throw new ChatError("connection_lost", ChatError.from(thrown).message);
    }
    const failure = failureOf(response.status, await response.text());
    if (failure) throw failure;
    progress(bytes.size);
  };

/** A connection that is slower than this is one over which nothing moves. */
const SLOWEST_BYTES_PER_MS = 16;

/** Addresses that are over, and stores that are busy, are asked for and tried again. */
function failureOf(status: number, text: string): ChatError | undefined {
  if (status >= 200 && status < 300) return undefined;
  const passing = status === 403 || status === 408 || status === 429 || status >= 500;
  return new ChatError(passing ? "overloaded" : "invalid_request", `the object store answered ${status}: ${text.slice(0, 200)}`);
}
