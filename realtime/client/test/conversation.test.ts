import { describe, expect, test } from "vitest";
import { NO_FAULTS, type Session } from "./server/hub.js";
import { clientOf, commands, connected, contents, pass, setup, useFakeTime } from "./setup.js";

useFakeTime();

const aliceOf = (hub: { of(user: string): Session[] }) => hub.of("alice")[0]!;

describe("an open conversation", () => {
  test("joins first and loads then", async () => {
    const { view, hub } = await connected({}, 120);
    await view.ready;
    expect(view.state.get()).toMatchObject({ status: "ready", hasMoreBefore: true, hasMoreAfter: false, headSeq: 120 });
    expect(view.state.get().messages).toHaveLength(50);
    expect(commands(hub, "join_conversation")).toEqual([{ conversationId: "r" }]);
  });

  test("loses nothing that is sent between joining and the page", async () => {
    const { client, hub, network } = setup({}, 5);
    network.httpDelay = () => 500;
    const view = client.open("r");
    void client.connect();
    await pass(600); // joined; the page was read and is on its way
    hub.store.send("bob", "r", { content: "between" });
    hub.store.edit("bob", "r-2", "edited between");
    await pass(10_000);
    expect(contents(view)).toEqual(["1", "edited between", "3", "4", "5", "between"]);
  });

  test("loses no edit of a message whose page is on its way", async () => {
    const { view, hub, network } = await connected({}, 120);
    network.httpDelay = () => 500;
    const loading = view.loadBefore();
    await pass(600);
    hub.store.edit("bob", "r-60", "edited meanwhile");
    await pass(10_000);
    expect(await loading).toBe(true);
    expect(view.state.get().messages).toHaveLength(100);
    expect(contents(view)).toContain("edited meanwhile");
  });

  test("scrolls back to the beginning within its bound, and forth again", async () => {
    const { view, hub } = await connected({ bounds: { messagesKept: 100 } }, 230);
    for (let pages = 0; pages < 10; pages++) {
      const loading = view.loadBefore();
      await pass(50);
      if (!(await loading)) break;
    }
    expect(contents(view)).toEqual(Array.from({ length: 100 }, (_, i) => `${i + 1}`));
    expect(view.state.get()).toMatchObject({ hasMoreBefore: false, hasMoreAfter: true });
    hub.store.send("bob", "r", { content: "new" });
    await pass(50);
    expect(view.state.get()).toMatchObject({ headSeq: 231 });
    const jumping = view.jumpToLatest();
    await pass(50);
    await jumping;
    expect(contents(view).at(-1)).toBe("new");
    const around = view.jumpTo(100);
    await pass(50);
    await around;
    expect(contents(view)).toContain("100");
    for (let pages = 0; pages < 10 && view.state.get().hasMoreAfter; pages++) {
      void view.loadAfter();
      await pass(50);
    }
    expect(contents(view).at(-1)).toBe("new");
    expect(view.state.get().messages.length).toBeLessThanOrEqual(100);
  });

  test("loads a hole that a lost push left, once", async () => {
    const { view, hub } = await connected({}, 3);
    hub.faults = { ...NO_FAULTS, losePush: () => "silently" };
    hub.store.send("bob", "r", { content: "lost" });
    hub.faults = NO_FAULTS;
    hub.store.send("bob", "r", { content: "next" });
    const pages = hub.requests.length;
    await pass(100);
    expect(contents(view)).toEqual(["1", "2", "3", "next"]);
    await pass(1_000);
    expect(contents(view)).toEqual(["1", "2", "3", "lost", "next"]);
    expect(hub.requests.length).toBe(pages + 1);
  });

  test("finds out from the list that its last push was lost", async () => {
    const { view, hub } = await connected({}, 3);
    hub.faults = { ...NO_FAULTS, losePush: () => "silently" };
    hub.store.edit("bob", "r-2", "edited");
    await pass(5_000);
    expect(contents(view)).toEqual(["1", "edited", "3"]);
  });

  test("resyncs what was too much to resume, and loads anew what was too much to sync", async () => {
    const { view, hub, network } = await connected({ bounds: { messagesKept: 100 } }, 10);
    hub.store.syncMost = 40;
    network.sockets = false;
    network.cut();
    hub.store.edit("bob", "r-9", "edited");
    for (let i = 11; i <= 70; i++) hub.store.send("bob", "r", { content: `${i}` });
    network.sockets = true;
    await pass(5_000);
    expect(contents(view)).toEqual(Array.from({ length: 70 }, (_, i) => (i === 8 ? "edited" : `${i + 1}`)));
    network.sockets = false;
    network.cut();
    for (let i = 71; i <= 400; i++) hub.store.send("bob", "r", { content: `${i}` });
    network.sockets = true;
    await pass(5_000);
    expect(contents(view)).toEqual(Array.from({ length: 100 }, (_, i) => `${i + 301}`));
  });

  test("ends when the user is removed, and comes back with them", async () => {
    const { view, client, hub } = await connected({}, 2);
    const left: string[] = [];
    client.on("left", (id) => left.push(id));
    hub.store.remove("r", "alice");
    await pass(100);
    expect(view.state.get()).toMatchObject({ status: "left", error: { code: "not_a_member" } });
    expect(left).toEqual(["r"]);
    expect(client.conversations.entries.get()).toEqual([]);
    hub.store.rooms.get("r")!.members.set("alice", { ...hub.store.rooms.get("r")!.members.get("bob")!, userId: "alice", readSeq: 0 });
    hub.store.mark("alice", "r", "messages_read"); // touches the list entry
    await pass(5_000);
    expect(view.state.get().status).toBe("ready");
  });

  test("is told to be left when the client was away", async () => {
    const { view, hub, network } = await connected({}, 2);
    network.cut();
    hub.store.remove("r", "alice");
    await pass(2_000);
    expect(view.state.get().status).toBe("left");
  });

  test("refuses what the user may not see", async () => {
    const { client, hub } = await connected();
    hub.store.room("secret", ["bob"]);
    const view = client.open("secret");
    const ready = expect(view.ready).rejects.toMatchObject({ code: "not_a_member" });
    await pass(1_000);
    await ready;
    expect(view.state.get().status).toBe("left");
  });

  test("is shared by those who open it, and left by the last", async () => {
    const { client, view, hub } = await connected();
    expect(client.open("r")).toBe(view);
    view.close();
    await pass(50);
    expect(commands(hub, "leave_conversation")).toEqual([]);
    view.close();
    await pass(50);
    expect(commands(hub, "leave_conversation")).toEqual([{ conversationId: "r" }]);
    expect(client.open("r")).not.toBe(view);
  });
});

describe("typing", () => {
  test("is told at most every 3 s and ends 5 s after the last key", async () => {
    const { view, hub } = await connected();
    for (let key = 0; key < 70; key++) {
      view.typing();
      await pass(100);
    }
    expect(commands(hub, "typing_start")).toHaveLength(3);
    expect(commands(hub, "typing_stop")).toHaveLength(0);
    await pass(5_000);
    expect(commands(hub, "typing_stop")).toHaveLength(1);
    view.typing();
    view.send("done");
    await pass(100);
    expect(commands(hub, "typing_stop")).toHaveLength(2);
  });

  test("of others is shown until it ends, a message comes, or for 6 s", async () => {
    const { view, hub } = await connected();
    const type = (userId: string, isTyping: boolean) => aliceOf(hub).emit("user_typing", { conversationId: "r", userId, isTyping });
    type("bob", true);
    type("carol", true);
    type("alice", true);
    await pass(100);
    expect(view.state.get().typingUsers).toEqual(["bob", "carol"]);
    type("carol", false);
    await pass(4_000);
    type("bob", true);
    await pass(4_000);
    expect(view.state.get().typingUsers).toEqual(["bob"]);
    await pass(2_100);
    expect(view.state.get().typingUsers).toEqual([]);
    type("bob", true);
    hub.store.send("bob", "r", { content: "hello" });
    await pass(100);
    expect(view.state.get().typingUsers).toEqual([]);
  });
});

describe("receipts", () => {
  test("marks are collected and only the greatest is told", async () => {
    const { view, hub, client } = await connected({ autoDelivered: false }, 10);
    for (let seq = 1; seq <= 10; seq++) view.markRead(seq);
    view.markRead(4);
    expect(client.conversations.unread.get()).toEqual({ total: 0, conversations: 0, mentions: 0 });
    await pass(1_000);
    expect(commands(hub, "mark_read")).toEqual([{ conversationId: "r", seq: 10 }]);
    view.markRead();
    await pass(1_000);
    expect(commands(hub, "mark_read")).toHaveLength(1);
  });

  test("marks made offline are told later", async () => {
    const { view, hub, network } = await connected({}, 5);
    network.sockets = network.http = false;
    network.cut();
    view.markRead();
    await pass(20_000);
    network.sockets = true;
    await pass(30_000);
    expect(hub.store.rooms.get("r")!.members.get("alice")?.readSeq).toBe(5);
  });

  test("others' marks move watermarks and the status of own messages", async () => {
    const { view, hub } = await connected();
    view.send("hello");
    await pass(100);
    const status = () => view.state.get().messages[0] as { status?: string };
    expect(status().status).toBe("sent");
    hub.store.mark("bob", "r", "messages_read", 1);
    hub.store.mark("carol", "r", "messages_delivered", 1);
    await pass(100);
    expect(status().status).toBe("delivered");
    expect(view.state.get().watermarks.get("bob")).toEqual({ readSeq: 1, deliveredSeq: 1 });
    hub.store.mark("carol", "r", "messages_read", 1);
    await pass(100);
    expect(status().status).toBe("read");
  });

  test("whoever writes has read what came before", async () => {
    const { view, hub, client } = await connected({ autoDelivered: false });
    view.send("hello");
    await pass(100);
    for (const user of ["bob", "carol"]) hub.store.send(user, "r", { content: "hi" });
    await pass(100);
    expect(view.state.get().messages[0]).toMatchObject({ status: "read" });
    expect(client.conversations.unread.get().total).toBe(2);
    hub.store.send("alice", "r", { content: "from the other device" });
    await pass(100);
    expect(client.conversations.unread.get().total).toBe(0);
  });

  test("marks missed while away are learned", async () => {
    const { view, hub, network } = await connected();
    view.send("hello");
    await pass(100);
    network.cut();
    for (const user of ["bob", "carol"]) hub.store.mark(user, "r", "messages_read", 1);
    await pass(5_000);
    expect(view.state.get().messages[0]).toMatchObject({ status: "read" });
  });

  test("arrival is told by itself", async () => {
    const { hub } = await connected();
    hub.store.send("bob", "r", { content: "hello" });
    await pass(1_000);
    expect(hub.store.rooms.get("r")!.members.get("alice")?.deliveredSeq).toBe(1);
  });
});

describe("presence", () => {
  test("is asked for again on every connection", async () => {
    const { client, hub, network } = await connected();
    const bob = clientOf(network, { token: (await import("./server/hub.js")).tokenOf("bob") });
    client.presence.watch(["bob", "carol"]);
    client.presence.announce("busy");
    await pass(100);
    const shown = () => Object.fromEntries([...client.presence.users.get()].map(([user, { status }]) => [user, status]));
    expect(shown()).toEqual({ bob: "offline", carol: "offline" });
    void bob.connect();
    aliceOf(hub).emit("user_online", { userId: "bob", status: "away" });
    aliceOf(hub).emit("user_online", { userId: "stranger", status: "online" });
    await pass(100);
    expect(shown()).toEqual({ bob: "away", carol: "offline" });
    hub.of("alice")[0]!.close(4000);
    await pass(10);
    expect(shown()).toEqual({});
    await pass(2_000);
    expect(shown()).toEqual({ bob: "online", carol: "offline" });
    expect(commands(hub, "presence_update")).toEqual([{ status: "busy" }]);
  });

  test("of users that several parts of a page hold is asked for as long as one of them does", async () => {
    const { client, hub } = await connected();
    client.presence.watch(["bob"]);
    const releases = [client.presence.hold(["carol"]), client.presence.hold(["carol", "bob"])];
    await pass(100);
    const watched = () => (commands(hub, "presence_subscribe") as { userIds: string[] }[]).at(-1)?.userIds;
    expect(watched()).toEqual(["bob", "carol"]);
    releases[1]!();
    await pass(100);
    expect(watched()).toEqual(["bob", "carol"]);
    releases[0]!();
    await pass(100);
    expect(watched()).toEqual(["bob"]);
    expect([...client.presence.users.get().keys()]).toEqual(["bob"]);
  });
});
