/** Nothing written is lost: before the first token, over several tabs, and when they are closed. */
import { afterEach, describe, expect, test, vi } from "vitest";
import type { ChatClientOptions } from "../src/index.js";
import { browser } from "./server/browser.js";
import { tokenOf } from "./server/hub.js";
import { clientOf, contents, memoryStorage, pass, setup, useFakeTime } from "./setup.js";

useFakeTime();
afterEach(() => void vi.unstubAllGlobals());

/** A token function without a network. */
const offline = () => new Promise<string>((_, reject) => setTimeout(() => reject(new Error("offline")), 10));
const stored = (hub: ReturnType<typeof setup>["hub"]) => hub.store.rooms.get("r")!.messages.map(({ content }) => content);
const kept = (storage: ReturnType<typeof memoryStorage>) =>
  [...storage.items].filter(([key]) => key.includes(".outbox.")).flatMap(([, text]) => (JSON.parse(text) as { message: { content: string } }[]).map(({ message }) => message.content));

describe("before the first token", () => {
  test("a message is stored and shown at once, for the last user", async () => {
    const storage = memoryStorage();
    const { client, hub, network } = setup({ storage });
    void client.connect();
    await pass(500);
    await client.close();

    const away = clientOf(network, { storage, token: offline });
    void away.connect().catch(() => undefined);
    const view = away.open("r");
    view.send("written offline");
    await pass(20);
    expect(kept(storage)).toEqual(["written offline"]);
    expect(view.state.get().messages).toMatchObject([{ content: "written offline", state: "sending", senderId: "alice" }]);
    await away.close();

    const again = clientOf(network, { storage, token: offline });
    const shown = again.open("r");
    await pass(20);
    expect(contents(shown), "shown without a connection").toEqual(["written offline"]);
    again.setToken(tokenOf("alice"));
    void again.connect();
    await pass(1_000);
    expect(stored(hub)).toEqual(["written offline"]);
    expect(kept(storage)).toEqual([]);
  });

  test("another user's token takes what was written now, and leaves what the last user wrote", async () => {
    const storage = memoryStorage();
    const saved = { conversationId: "r", message: { content: "by alice", clientMsgId: "a" }, createdAt: new Date().toISOString() };
    storage.items.set("backscroll.user", "alice");
    storage.items.set("backscroll.outbox.alice", JSON.stringify([saved]));
    let token = offline;
    const { client, hub, network } = setup({ storage, token: () => token() });
    void client.connect();
    client.send("r", "by bob");
    await pass(100);
    expect(client.unsent).toBe(2);
    token = async () => tokenOf("bob");
    await pass(5_000);
    expect(hub.store.rooms.get("r")!.messages).toMatchObject([{ content: "by bob", senderId: "bob" }]);
    expect(kept(storage)).toEqual(["by alice"]);
    await client.close();

    const alice = clientOf(network, { storage });
    void alice.connect();
    await pass(1_000);
    expect(hub.store.rooms.get("r")!.messages.at(-1)).toMatchObject({ content: "by alice", senderId: "alice" });
  });

  test("a storage that hangs stops nothing", async () => {
    const hangs = () => new Promise<never>(() => undefined);
    const { client, hub } = setup({ storage: { getItem: hangs, setItem: hangs, removeItem: hangs } });
    client.send("r", "hello");
    void client.connect();
    await pass(1_000);
    expect(stored(hub)).toEqual(["hello"]);
    const closing = client.close();
    await pass(60_000);
    await closing;
  });
});

describe("several tabs", () => {
  function tabs(count: number) {
    const locks = browser();
    const storage = memoryStorage();
    const { hub, network, client } = setup({ storage, WebSocket: null });
    const more = (options: Partial<ChatClientOptions> = {}) => clientOf(network, { storage, ...options });
    return { locks, storage, hub, network, tabs: [client, ...Array.from({ length: count - 1 }, () => more({ WebSocket: null }))], more };
  }

  test("keep their messages apart, and each sends its own once", async () => {
    const { tabs: all, storage, hub, network } = tabs(3);
    network.http = false;
    for (const tab of all) void tab.connect().catch(() => undefined);
    await pass(100);
    all.forEach((tab, n) => tab.send("r", `from tab ${n}`));
    await pass(100);
    expect(kept(storage).sort()).toEqual(["from tab 0", "from tab 1", "from tab 2"]);
    expect(all.map((tab) => tab.unsent)).toEqual([1, 1, 1]);
    network.http = true;
    await pass(60_000);
    expect(stored(hub).sort()).toEqual(["from tab 0", "from tab 1", "from tab 2"]);
    const posts = hub.requests.filter(({ method, path }) => method === "POST" && path.endsWith("/messages"));
    expect(posts).toHaveLength(3);
    expect(kept(storage)).toEqual([]);
  });

  test("what a closed tab was sending goes out from one that runs, or from the next", async () => {
    const { tabs: all, storage, hub, network, more } = tabs(2);
    network.http = false;
    for (const tab of all) void tab.connect().catch(() => undefined);
    await pass(100);
    all[0]!.send("r", "taken over");
    await pass(100);
    await all[0]!.close();
    await pass(100);
    expect(all[1]!.unsent, "the other tab has it").toBe(1);
    expect(kept(storage)).toEqual(["taken over"]);
    await all[1]!.close();
    expect(kept(storage)).toEqual(["taken over"]);
    network.http = true;
    const next = more();
    void next.connect();
    await pass(2_000);
    expect(stored(hub)).toEqual(["taken over"]);
    expect(kept(storage)).toEqual([]);
  });

  test("a tab that starts later is watched, too", async () => {
    const { tabs: all, hub, network, more } = tabs(1);
    network.http = false;
    void all[0]!.connect().catch(() => undefined);
    await pass(100);
    const later = more({ WebSocket: null });
    void later.connect().catch(() => undefined);
    await pass(100);
    later.send("r", "from the later tab");
    await pass(10);
    await later.close();
    network.http = true;
    await pass(60_000);
    expect(stored(hub)).toEqual(["from the later tab"]);
  });

  test("without locks they share one place, and lose nothing", async () => {
    const storage = memoryStorage();
    const { hub, network, client } = setup({ storage, WebSocket: null });
    const other = clientOf(network, { storage, WebSocket: null });
    network.http = false;
    for (const tab of [client, other]) void tab.connect().catch(() => undefined);
    await pass(100);
    client.send("r", "one");
    await pass(10);
    other.send("r", "two");
    await pass(10);
    client.send("r", "three");
    await pass(10);
    expect(kept(storage).sort()).toEqual(["one", "three", "two"]);
    network.http = true;
    await pass(60_000);
    expect(stored(hub).sort()).toEqual(["one", "three", "two"]);
    expect(kept(storage)).toEqual([]);
  });
});

test("an id is unique where there is no `crypto.randomUUID`", async () => {
  const { getRandomValues } = crypto;
  vi.stubGlobal("crypto", { getRandomValues: getRandomValues.bind(crypto) });
  const { client } = setup();
  const ids = new Set(Array.from({ length: 100 }, () => client.send("r", "hi").clientMsgId));
  expect(ids.size).toBe(100);
  for (const id of ids) expect(id).toMatch(/^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
});
