import { describe, expect, test, vi } from "vitest";
import type { Message } from "../src/index.js";
import { NO_FAULTS } from "./server/hub.js";
import { Refusal } from "./server/store.js";
import { clientOf, commands, connected, contents, memoryStorage, pass, setup, useFakeTime } from "./setup.js";

useFakeTime();

const states = (messages: readonly { state: string; content: string }[]) => messages.map(({ state, content }) => `${content}: ${state}`);

describe("sending", () => {
  test("shows a message at once, and once", async () => {
    const { view, network } = await connected({}, 1);
    network.delay = () => 50;
    const { stored, clientMsgId } = view.send("hello", { metadata: { color: "red" } });
    expect(states(view.state.get().messages)).toEqual(["1: sent", "hello: sending"]);
    expect(view.state.get().messages[1]).toMatchObject({ clientMsgId, senderId: "alice", metadata: { color: "red" } });
    await pass(200);
    expect(states(view.state.get().messages)).toEqual(["1: sent", "hello: sent"]);
    expect(await stored).toMatchObject({ seq: 2, clientMsgId });
  });

  test.each([
    ["the event first", 500],
    ["the answer never", "lost" as const],
  ])("%s: still once", async (_, delayAnswer) => {
    const { view, hub } = await connected();
    hub.faults = { ...NO_FAULTS, delayAnswer: (name) => (name === "send_message" ? delayAnswer : 0) };
    const { stored } = view.send("hello");
    await pass(100);
    expect(states(view.state.get().messages)).toEqual(["hello: sent"]);
    expect((await stored).seq).toBe(1);
    await pass(30_000);
    expect(hub.store.rooms.get("r")!.messages).toHaveLength(1);
  });

  test("an unanswered send is repeated with the same id", async () => {
    const { view, hub } = await connected();
    let lost = 2;
    hub.faults = { ...NO_FAULTS, losePush: () => "silently", delayAnswer: (name) => (name === "send_message" && lost-- > 0 ? "lost" : 0) };
    view.send("hello");
    await pass(60_000);
    const ids = commands(hub, "send_message").map((data) => (data as Message).clientMsgId);
    expect(ids).toHaveLength(3);
    expect(new Set(ids).size).toBe(1);
    expect(hub.store.rooms.get("r")!.messages).toHaveLength(1);
    expect(states(view.state.get().messages)).toEqual(["hello: sent"]);
  });

  test("waits offline and goes out in order", async () => {
    const { view, hub, network, client } = await connected();
    network.sockets = network.http = false;
    network.cut();
    for (let i = 1; i <= 5; i++) view.send(`${i}`);
    await pass(120_000);
    expect(client.connection.get().state).toBe("offline");
    expect(client.unsent).toBe(5);
    network.sockets = true;
    await pass(60_000);
    expect(hub.store.rooms.get("r")!.messages.map(({ content }) => content)).toEqual(["1", "2", "3", "4", "5"]);
    expect(contents(view)).toEqual(["1", "2", "3", "4", "5"]);
  });

  test("what the server refuses for good fails alone, and can be retried or discarded", async () => {
    const { view, hub, client } = await connected();
    hub.faults = { ...NO_FAULTS, refuse: (name) => (name === "send_message" && commands(hub, name).length === 1 ? new Refusal("forbidden") : undefined) };
    const { clientMsgId, stored } = view.send("first");
    view.send("second");
    await expect(Promise.all([stored, pass(1_000)])).rejects.toMatchObject({ code: "forbidden" });
    await pass(1_000);
    expect(states(view.state.get().messages)).toEqual(["second: sent", "first: failed"]);
    expect(view.state.get().messages[1]).toMatchObject({ error: { code: "forbidden" } });
    client.retry(clientMsgId);
    await pass(1_000);
    expect(states(view.state.get().messages)).toEqual(["second: sent", "first: sent"]);
    hub.faults = { ...NO_FAULTS, refuse: (name) => (name === "send_message" ? new Refusal("forbidden") : undefined) };
    const third = view.send("third");
    await pass(1_000);
    client.discard(third.clientMsgId);
    expect(contents(view)).toEqual(["second", "first"]);
  });

  test("what may pass waits as long as the server says, then fails after the last attempt", async () => {
    const { view, hub } = await connected({ random: () => 0 });
    hub.faults = { ...NO_FAULTS, refuse: (name) => (name === "send_message" ? new Refusal("overloaded", 2_000) : undefined) };
    view.send("hello");
    await pass(1_900);
    expect(commands(hub, "send_message")).toHaveLength(1);
    await pass(200);
    expect(commands(hub, "send_message")).toHaveLength(2);
    await pass(60_000);
    expect(commands(hub, "send_message")).toHaveLength(10);
    expect(states(view.state.get().messages)).toEqual(["hello: failed"]);
  });

  test("a rate limit is waited for, however often", async () => {
    const { view, hub } = await connected({ random: () => 0 });
    let refusals = 15;
    hub.faults = { ...NO_FAULTS, refuse: (name) => (name === "send_message" && refusals-- > 0 ? new Refusal("rate_limited", 2_000) : undefined) };
    const { stored } = view.send("hello");
    view.send("after it");
    await pass(1_900);
    expect(commands(hub, "send_message")).toHaveLength(1);
    await pass(28_000);
    expect(states(view.state.get().messages)).toEqual(["hello: sending", "after it: sending"]);
    await pass(2_000);
    expect(await stored).toMatchObject({ seq: 1 });
    await pass(2_000);
    expect(states(view.state.get().messages)).toEqual(["hello: sent", "after it: sent"]);
  });

  test("the queue is bounded, and says so", async () => {
    const { client } = setup({ bounds: { outbox: 3 } });
    for (let i = 0; i < 3; i++) client.send("r", "hello");
    expect(() => client.send("r", "one too many")).toThrowError(expect.objectContaining({ code: "queue_full" }) as Error);
  });

  test("unsent messages survive a restart, for their user only", async () => {
    const storage = memoryStorage();
    const { view, network, hub, client } = await connected({ storage });
    network.sockets = network.http = false;
    network.cut();
    const { clientMsgId } = view.send("kept", { replyTo: "r-1" });
    await pass(10);
    await client.close();
    network.sockets = network.http = true;

    const stranger = clientOf(network, { storage, token: (await import("./server/hub.js")).tokenOf("bob") });
    void stranger.connect();
    await pass(1_000);
    expect(stranger.unsent).toBe(0);

    const restarted = clientOf(network, { storage });
    void restarted.connect();
    await pass(1_000);
    expect(hub.store.rooms.get("r")!.messages).toMatchObject([{ content: "kept", clientMsgId, replyTo: "r-1", senderId: "alice" }]);
    await pass(100);
    expect([...storage.items]).toEqual([["backscroll.user", "alice"]]);
  });

  test("what was unsent before the restart goes before what was written since", async () => {
    const storage = memoryStorage();
    const saved = { conversationId: "r", message: { content: "old", clientMsgId: "old" }, createdAt: new Date().toISOString() };
    storage.items.set("backscroll.outbox.alice", JSON.stringify([saved]));
    const slow = { ...storage, getItem: async (key: string) => storage.getItem(key) };
    const { client, hub } = setup({ storage: slow });
    client.send("r", "new");
    void client.connect();
    await pass(1_000);
    expect(hub.store.rooms.get("r")!.messages.map(({ content }) => content)).toEqual(["old", "new"]);
  });

  test("what is older than the server is sure to recognise is left to the user", async () => {
    const storage = memoryStorage();
    const ago = (days: number) => new Date(Date.now() - days * 86_400_000).toISOString();
    const saved = (name: string, createdAt: string) => ({ conversationId: "r", message: { content: name, clientMsgId: name }, createdAt });
    storage.items.set("backscroll.outbox.alice", JSON.stringify([saved("old", ago(31)), saved("young", ago(29))]));
    const { view, hub, client } = await connected({ storage });
    await pass(1_000);
    const stored = () => hub.store.rooms.get("r")!.messages.map(({ content }) => content);
    expect(stored()).toEqual(["young"]);
    const [, old] = view.state.get().messages;
    expect(old).toMatchObject({ state: "failed", content: "old", error: { code: "too_old", outcomeUnknown: true } });
    client.retry("old");
    await pass(1_000);
    expect(stored()).toEqual(["young", "old"]);
  });

  test("a damaged storage is not the end", async () => {
    const storage = memoryStorage();
    storage.items.set("backscroll.outbox.alice", '[{"conversationId": 7}, {"');
    const { client, view } = await connected({ storage });
    view.send("hello");
    await pass(100);
    expect(client.unsent).toBe(0);
  });
});

describe("changing", () => {
  test("edits, deletes and reacts, and sees it", async () => {
    const { view, client } = await connected({}, 3);
    void client.edit("r-1", "changed");
    void client.delete("r-2");
    void client.react("r-3", "👍");
    await pass(100);
    expect(view.state.get().messages).toMatchObject([
      { content: "changed", editedAt: expect.any(String) as string },
      { content: "", deletedAt: expect.any(String) as string },
      { reactions: { "👍": ["alice"] } },
    ]);
    void client.react("r-3", "👍", { remove: true });
    await pass(100);
    expect(view.state.get().messages[2]).toMatchObject({ reactions: { "👍": [] } });
  });

  test("goes over REST while there is no WebSocket, and is repeated when its outcome is unknown", async () => {
    const { client, network, hub } = await connected({}, 1);
    network.sockets = false;
    network.cut();
    network.breakHttp = vi.fn().mockReturnValueOnce("after").mockReturnValue("no");
    const edited = client.edit("r-1", "changed");
    await pass(5_000);
    expect(await edited).toMatchObject({ content: "changed" });
    expect(hub.requests.filter(({ method }) => method === "PATCH").length).toBe(2);
  });
});
