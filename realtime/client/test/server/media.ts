/** The server's side of uploads, and the object store that the bytes go to. */
import type { MediaKind, MediaState } from "../../src/index.js";

interface Held {
  fileName: string;
  contentType: string;
  bytes: number;
  kind: MediaKind;
  state: MediaState | "processing";
  parts: Map<number, Blob>;
}

export class MediaServer {
  readonly files = new Map<string, Held>();
  /** Every request, as `PUT part 2`. */
  readonly requests: string[] = [];
  /** Parts of this size from this size on. */
  partBytes = 4;
  partsAbove = 8;
  /** How many parts are named in one answer. */
  partsNamed = 100;
  /** What a request is answered instead: a status, or nothing for ever, or a connection that ends. */
  fault: (request: string) => number | "hangs" | "cut" | undefined = () => undefined;
  verdict: { state: MediaState | "processing"; reason?: string } = { state: "ready" };

  constructor(private readonly others: typeof fetch) {}

  readonly fetch: typeof fetch = async (input, init = {}) => {
    const url = new URL(String(input));
    const path = url.pathname.match(/\/(?:chat\/media|objects)(\/.*)?$/)?.[1];
    if (path === undefined && !url.pathname.endsWith("/media")) return this.others(input, init);
    const [, id = "", tail = ""] = (path ?? "").split("/");
    const name = url.pathname.includes("/objects") ? `PUT part ${tail}` : `${init.method ?? "GET"} ${tail || (id ? "file" : "media")}`;
    this.requests.push([name, url.searchParams.get("variant")].filter(Boolean).join(" "));
    const fault = this.fault(name);
    if (fault === "cut") throw new TypeError("the connection was cut");
    if (fault === "hangs") await new Promise((_, reject) => init.signal?.addEventListener("abort", () => reject(init.signal!.reason)));
    if (typeof fault === "number") return problem("overloaded", fault);
    if (url.pathname.includes("/objects")) return this.put(id, Number(tail), init.body as Blob);
    return this.answer(name, id, init.body as string | undefined);
  };

  bytesOf(id: string): Promise<string> {
    const parts = [...this.files.get(id)!.parts].sort(([a], [b]) => a - b);
    return new Blob(parts.map(([, part]) => part)).text();
  }

  private put(id: string, number: number, body: Blob): Response {
    this.files.get(id)?.parts.set(number, body);
    return new Response("");
  }

  private answer(name: string, id: string, body: string | undefined): Response {
    if (name === "POST media") {
      const mediaId = `m${this.files.size + 1}`;
      this.files.set(mediaId, { ...(JSON.parse(body!) as Held), state: "pending", parts: new Map() });
      return Response.json({ mediaId, state: "pending", upload: this.instructions(mediaId) }, { status: 201 });
    }
    const file = this.files.get(id);
    if (!file) return problem("not_found", 404);
    if (name === "DELETE file") this.files.delete(id);
    if (name === "GET file") return new Response(new Blob([...file.parts.values()]));
    if (name === "GET upload") {
      const present = [...file.parts].map(([number, part]) => ({ number, bytes: part.size }));
      return Response.json({ state: file.state, present, ...(file.state === "pending" && { upload: this.instructions(id) }) });
    }
    if (name === "POST complete") file.state = this.verdict.state;
    const { parts: _, ...facts } = file;
    return Response.json({ mediaId: id, ...facts, ...(this.verdict.reason && { reason: this.verdict.reason }) });
  }

  private instructions(id: string): object {
    const { bytes, parts } = this.files.get(id)!;
    const request = (number: number) => ({
      number,
      method: "PUT",
      url: `http://store.example/objects/${id}/${number}`,
      headers: { "content-length": "0", "x-part": "1" },
    });
    if (bytes <= this.partsAbove) return { ...request(1), number: null };
    const missing = Array.from({ length: Math.ceil(bytes / this.partBytes) }, (_, at) => at + 1).filter((number) => !parts.has(number));
    return { partBytes: this.partBytes, parts: missing.slice(0, this.partsNamed).map(request) };
  }
}

function problem(code: string, status: number): Response {
  const headers = { "Content-Type": "application/problem+json" };
  return Response.json(
    { type: `urn:problem-type:backscroll:${code}`, title: code, status, code, detail: code, requestId: "r" },
    { status, headers },
  );
}
