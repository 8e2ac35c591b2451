import { expect, test } from "vitest";
import type { ChatClientOptions, SavedUpload, UploadStorage } from "../src/index.js";
import { fitting, scaled } from "../src/upload-scale.js";
import { UPLOADS_AT_ONCE, UPLOADS_MAX } from "../src/upload.js";
import { MediaServer } from "./server/media.js";
import { clientOf, pass, setup, useFakeTime } from "./setup.js";

useFakeTime();

const text = (content: string, name = "notes.txt") => new File([content], name, { type: "text/plain" });

/** What a browser's database is. */
function memoryUploads() {
  const saved = new Map<string, SavedUpload>();
  const storage: UploadStorage = {
    list: async (user) => [...saved.values()].filter((upload) => upload.user === user),
    put: async (upload) => void saved.set(upload.id, upload),
    remove: async (id) => void saved.delete(id),
  };
  return { saved, storage };
}

async function world(options: Partial<ChatClientOptions> = {}) {
  const { network, hub } = setup();
  const server = new MediaServer(network.fetch);
  const start = async (more: Partial<ChatClientOptions> = {}) => {
    const client = clientOf(network, { ...options, ...more, fetch: server.fetch });
    void client.connect().catch(() => undefined);
    await pass(200);
    return client;
  };
  return { server, hub, start, client: await start() };
}

test("a small file goes in one request, and a message can use it", async () => {
  const { client, server } = await world();
  const { id, ready } = client.uploads.add("r", text("hello"));
  expect(client.uploads.items.get()).toMatchObject([{ id, fileName: "notes.txt", kind: "file", bytes: 5 }]);
  await pass(100);
  expect(await ready).toMatchObject({ mediaId: "m1", state: "ready" });
  expect(server.requests).toEqual(["POST media", "PUT part 1", "POST complete"]);
  expect(await server.bytesOf("m1")).toBe("hello");
  expect(client.uploads.items.get()).toMatchObject([{ phase: "ready", sentBytes: 5, media: { mediaId: "m1" } }]);
  expect(await (await client.uploads.read("m1")).text()).toBe("hello");
  client.uploads.used(id);
  expect(client.uploads.items.get()).toEqual([]);
});

test("a large file goes in parts, in as many rounds as the server names them, with progress", async () => {
  const { client, server } = await world();
  server.partsNamed = 2;
  const progress: number[] = [];
  client.uploads.items.subscribe(() => progress.push(client.uploads.items.get()[0]?.sentBytes ?? 0));
  const { ready } = client.uploads.add("r", text("abcdefghijklmnopq"));
  await pass(500);
  await ready;
  expect(await server.bytesOf("m1")).toBe("abcdefghijklmnopq");
  expect(server.requests.filter((request) => request === "GET upload")).toHaveLength(3);
  expect(progress).toEqual([...progress].sort((a, b) => a - b));
  expect(progress.at(-1)).toBe(17);
});

test("after a failure only what is missing is sent again", async () => {
  const { client, server } = await world();
  let failures = 2;
  server.fault = (request) => (request === "PUT part 3" && failures-- > 0 ? (failures === 1 ? "cut" : 503) : undefined);
  const { ready } = client.uploads.add("r", text("abcdefghijklmnop"));
  await pass(60_000);
  await ready;
  const sent = (part: number) => server.requests.filter((request) => request === `PUT part ${part}`).length;
  expect([sent(1), sent(2), sent(3), sent(4)]).toEqual([1, 1, 3, 1]);
  expect(await server.bytesOf("m1")).toBe("abcdefghijklmnop");
});

test("one that goes on failing is left to the user, who can try again", async () => {
  const { client, server } = await world();
  server.fault = (request) => (request.startsWith("PUT") ? 500 : undefined);
  const { id, ready } = client.uploads.add("r", text("hello"));
  await pass(300_000);
  await expect(ready).rejects.toMatchObject({ code: "overloaded" });
  expect(client.uploads.items.get()).toMatchObject([{ phase: "failed", error: { code: "overloaded" } }]);
  expect(server.requests.filter((request) => request.startsWith("PUT"))).toHaveLength(6);
  server.fault = () => undefined;
  client.uploads.retry(id);
  await pass(1_000);
  expect(client.uploads.items.get()).toMatchObject([{ phase: "ready" }]);
  expect(server.requests.filter((request) => request === "POST media")).toHaveLength(1);
});

test("the server's refusal is final, and says why", async () => {
  const { client, server } = await world();
  server.verdict = { state: "rejected", reason: "its content is of another type" };
  const { ready } = client.uploads.add("r", text("hello"));
  await pass(1_000);
  await expect(ready).rejects.toMatchObject({ code: "media_rejected", message: "its content is of another type" });
});

test("a file can be used while the server still makes smaller forms of it", async () => {
  const { client, server } = await world();
  server.verdict = { state: "processing" };
  const { ready } = client.uploads.add("r", text("hello"));
  await pass(500);
  expect(await ready).toMatchObject({ state: "processing" });
  await client.uploads.read("m1", { variant: "small" });
  expect(server.requests.at(-1)).toBe("GET file small");
});

test("an upload goes on after a reload, from where it was", async () => {
  const { saved, storage } = memoryUploads();
  const { client, server, start } = await world({ uploadStorage: storage });
  server.fault = (request) => (request === "PUT part 4" ? "hangs" : undefined);
  const { id } = client.uploads.add("r", text("abcdefghijklmnop"));
  await pass(500);
  expect(saved.get(id)).toMatchObject({ user: "alice", mediaId: "m1", fileName: "notes.txt" });
  await client.close();
  server.fault = () => undefined;
  server.requests.length = 0;
  const again = await start();
  await pass(500);
  expect(server.requests).toEqual(["GET upload", "PUT part 4", "GET upload", "POST complete"]);
  expect(again.uploads.items.get()).toMatchObject([{ id, conversationId: "r", phase: "ready", fileName: "notes.txt" }]);
  again.uploads.used(id);
  await pass(1);
  expect(saved.size).toBe(0);
});

test("a file that the server has collected meanwhile begins anew", async () => {
  const { storage } = memoryUploads();
  const { client, server, start } = await world({ uploadStorage: storage });
  server.fault = (request) => (request.startsWith("PUT") ? "hangs" : undefined);
  client.uploads.add("r", text("hello"));
  await pass(500);
  await client.close();
  server.fault = () => undefined;
  server.files.clear();
  const again = await start();
  await pass(500);
  expect(again.uploads.items.get()).toMatchObject([{ phase: "ready" }]);
});

test("a client that was closed and connects again goes on", async () => {
  const { client, server } = await world();
  server.fault = (request) => (request.startsWith("PUT") ? "hangs" : undefined);
  const { ready } = client.uploads.add("r", text("hello"));
  await pass(500);
  await client.close();
  await expect(ready).rejects.toMatchObject({ code: "client_closed" });
  server.fault = () => undefined;
  void client.connect();
  await pass(1_000);
  expect(client.uploads.items.get()).toMatchObject([{ phase: "ready" }]);
});

test("one that is cancelled stops, and is given up on the server", async () => {
  const { saved, storage } = memoryUploads();
  const { client, server } = await world({ uploadStorage: storage });
  server.fault = (request) => (request.startsWith("PUT") ? "hangs" : undefined);
  const { id, ready } = client.uploads.add("r", text("hello"));
  await pass(500);
  client.uploads.cancel(id);
  await expect(ready).rejects.toMatchObject({ code: "discarded" });
  await pass(500);
  expect(client.uploads.items.get()).toEqual([]);
  expect([server.files.size, saved.size]).toEqual([0, 0]);
});

test("so many at once, and no more than are held", async () => {
  const { client, server } = await world();
  server.fault = (request) => (request.startsWith("PUT") ? "hangs" : undefined);
  for (let file = 0; file < UPLOADS_MAX; file++) client.uploads.add("r", text("hello"));
  expect(() => client.uploads.add("r", text("one too many"))).toThrow("too many files");
  await pass(500);
  expect(server.requests.filter((request) => request === "POST media")).toHaveLength(UPLOADS_AT_ONCE);
});

test("names are such that the server takes them", async () => {
  const { client, server } = await world();
  client.uploads.add("r", text("hello", `../a\\b\u0000${"x".repeat(300)}.txt`));
  await pass(500);
  const { fileName } = server.files.get("m1")!;
  expect(fileName).toHaveLength(255);
  expect(fileName).toMatch(/^x+\.txt$/);
});

test("pictures are made to fit, and what cannot be made smaller stays", async () => {
  expect(fitting({ width: 4_000, height: 3_000 }, 2_000)).toEqual({ width: 2_000, height: 1_500 });
  expect(fitting({ width: 10_000, height: 1 }, 2_000)).toEqual({ width: 2_000, height: 1 });
  expect(fitting({ width: 30, height: 20 }, 2_000)).toEqual({ width: 30, height: 20 });
  const file = { blob: new Blob(["no picture"], { type: "image/jpeg" }), fileName: "a.jpg" };
  expect(await scaled(file, { longestEdge: 100, quality: 0.8, keepBelowBytes: 0 })).toBe(file);
});
