/**
 * Against a real server. Not part of `npm test`:
 *
 *   CLIENT_TEST_URL=http://127.0.0.1:8080 CLIENT_TEST_TOKEN_COMMAND='backscroll token --user' npm run test:real
 *
 * The command prints a token; the user's name is appended as an argument, and `--role admin` after it where it needs to be.
 */
import { execFileSync } from "node:child_process";
import { randomUUID } from "node:crypto";
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { WebSocket } from "ws";
import { ChatClient, type ChatClientOptions, type ChatMessage, type ConversationView, type NotificationsRead, type StoredMessage } from "../src/index.js";
import { memoryStorage } from "./setup.js";

const url = required("CLIENT_TEST_URL");
const [program = "", ...programArguments] = required("CLIENT_TEST_TOKEN_COMMAND").split(/\s+/);

function required(name: string): string {
  const value = process.env[name];
  if (!value) throw new Error(`${name} is not set: this suite needs a running server`);
  return value;
}

/** Without this suite's own variables: the program takes its configuration from such names and refuses unknown ones. */
const { CLIENT_TEST_URL: _url, CLIENT_TEST_TOKEN_COMMAND: _command, ...environment } = process.env;

const tokens = new Map<string, string>();
function tokenOf(user: string, ...options: string[]): string {
  const token = tokens.get(user) ?? execFileSync(program, [...programArguments, user, ...options], { encoding: "utf8", env: environment }).trim();
  tokens.set(user, token);
  return token;
}

/** Sockets that can be killed without a goodbye. */
class Sockets {
  readonly made: WebSocket[] = [];
  refuse = false;
  readonly WebSocket = (() => {
    const sockets = this;
    return class extends WebSocket {
      constructor(address: string) {
        if (sockets.refuse) throw new Error("there is no network");
        super(address);
        sockets.made.push(this);
      }
    };
  })();

  kill(): void {
    for (const socket of this.made.splice(0)) socket.terminate();
  }
}

interface Person {
  user: string;
  client: ChatClient;
  sockets: Sockets;
}

let run = "";
const clients: ChatClient[] = [];

function person(name: string, options: Partial<ChatClientOptions> = {}): Person {
  const user = `${name}-${run}`;
  const sockets = new Sockets();
  const client = new ChatClient({ url, token: async () => tokenOf(user), WebSocket: sockets.WebSocket, ...options });
  clients.push(client);
  return { user, client, sockets };
}

beforeEach(() => {
  run = randomUUID().slice(0, 8);
});
afterEach(async () => {
  await Promise.all(clients.splice(0).map((client) => client.close()));
});

const within = (check: () => void | Promise<void>, timeout = 15_000) => vi.waitFor(check, { timeout, interval: 50 });
const contents = (view: ConversationView) => view.state.get().messages.map((message: ChatMessage) => message.content);
const message = (view: ConversationView, at: number) => view.state.get().messages[at] as StoredMessage;

/** Alice and Bob, connected, with a group of theirs open. */
async function together() {
  const [alice, bob] = [person("alice"), person("bob")];
  await Promise.all([alice.client.connect(), bob.client.connect()]);
  expect(alice.client.connection.get().transport).toBe("websocket");
  const { id } = await alice.client.createConversation({ kind: "group", members: [bob.user], title: "Real" });
  const views = { alice: alice.client.open(id), bob: bob.client.open(id) };
  await Promise.all([views.alice.ready, views.bob.ready]);
  return { alice, bob, id, views };
}

describe("over WebSocket", () => {
  test("connects and measures", async () => {
    const { client, user } = person("alice");
    await client.connect();
    await within(() => expect(client.connection.get().latencyMs).toBeGreaterThanOrEqual(0));
    expect(client.connection.get()).toMatchObject({ state: "connected", transport: "websocket", quality: expect.stringMatching(/excellent|good/) });
    expect(client.userId).toBe(user);
  });

  test("sends, and another receives", async () => {
    const { views, alice } = await together();
    const { stored, clientMsgId } = views.alice.send("hello", { metadata: { color: "red" } });
    expect(views.alice.state.get().messages).toMatchObject([{ state: "sending", content: "hello" }]);
    expect(await stored).toMatchObject({ seq: 1, clientMsgId, senderId: alice.user });
    await within(() => expect(contents(views.bob)).toEqual(["hello"]));
    await within(() => expect(views.alice.state.get().messages).toMatchObject([{ state: "sent", seq: 1 }]));
    expect(message(views.bob, 0).metadata).toEqual({ color: "red" });
  });

  test("edits, deletes and reacts", async () => {
    const { views, alice, bob } = await together();
    const first = await views.alice.send("first").stored;
    const second = await views.alice.send("second").stored;
    await alice.client.edit(first.id, "changed");
    await alice.client.delete(second.id);
    await bob.client.react(first.id, "👍");
    await within(() => {
      for (const view of [views.alice, views.bob]) {
        expect(message(view, 0)).toMatchObject({ content: "changed", reactions: { "👍": [bob.user] } });
        expect(message(view, 1)).toMatchObject({ content: "", deletedAt: expect.any(String) as string });
      }
    });
    await bob.client.react(first.id, "👍", { remove: true });
    await within(() => expect(message(views.alice, 0).reactions["👍"] ?? []).toEqual([]));
  });

  test("keeps a conversation's messages in order", async () => {
    const { views } = await together();
    const expected = Array.from({ length: 40 }, (_, i) => `${i}`);
    const sent = expected.map((content) => views.alice.send(content).stored);
    await Promise.all(sent);
    await within(() => expect(contents(views.bob)).toEqual(expected));
    expect(contents(views.alice)).toEqual(expected);
  });

  test("shows typing until it ends", async () => {
    const { views, alice } = await together();
    views.alice.typing();
    await within(() => expect(views.bob.state.get().typingUsers).toEqual([alice.user]));
    views.alice.stopTyping();
    await within(() => expect(views.bob.state.get().typingUsers).toEqual([]));
  });

  test("tells of notifications, counts and lists them", async () => {
    const { client, user } = person("alice");
    const told: (string | NotificationsRead)[] = [];
    client.on("notification", ({ title }) => told.push(title));
    client.on("notificationsRead", (range) => told.push(range));
    await client.connect();
    const headers = { Authorization: `Bearer ${tokenOf(`root-${run}`, "--role", "admin")}`, "Content-Type": "application/json" };
    for (const title of ["first", "second"]) {
      const body = JSON.stringify({ userIds: [user], type: "offer", title });
      const response = await fetch(`${url}/admin/notifications`, { method: "POST", headers, body });
      expect(response.status).toBe(200);
    }
    await within(() => expect(told).toEqual(["first", "second"]));
    expect(await client.unreadNotifications()).toEqual({ total: 2 });
    const { notifications, nextCursor } = await client.notifications({ limit: 1 });
    expect(notifications).toMatchObject([{ id: "2", title: "second", type: "offer", priority: "normal" }]);
    const rest = await client.notifications({ cursor: nextCursor ?? "" });
    expect(rest.notifications.map(({ title }) => title)).toEqual(["first"]);
    expect((await client.markNotificationRead("1")).readAt).toBeDefined();
    await client.markNotificationsRead();
    await within(() => expect(told.slice(2)).toEqual([{ from: "1", through: "1" }, { from: "1", through: "2" }]));
    expect((await client.notifications({ unread: true })).notifications).toEqual([]);
  });

  test("finds messages by their words", async () => {
    const { alice, views } = await together();
    for (const content of ["Crème brûlée", "hay", "two BRULEES"]) await views.alice.send(content).stored;
    const request = { q: "brulee", conversationId: views.alice.id, limit: 1 };
    const first = await alice.client.search(request);
    expect(first.hits).toMatchObject([{ message: { content: "two BRULEES" }, ranges: [[4, 10]] }]);
    expect(first.complete).toBe(false);
    const second = await alice.client.search({ ...request, cursor: first.cursor ?? "" });
    expect(second.hits).toMatchObject([{ message: { content: "Crème brûlée" }, ranges: [[6, 12]] }]);
  });

  test("tells of presence", async () => {
    const { alice, bob } = await together();
    alice.client.presence.watch([bob.user, `nobody-${run}`]);
    const status = (user: string) => alice.client.presence.users.get().get(user)?.status;
    await within(() => expect([status(bob.user), status(`nobody-${run}`)]).toEqual(["online", "offline"]));
    bob.client.presence.announce("busy");
    await within(() => expect(status(bob.user)).toBe("busy"));
    await bob.client.close();
    await within(() => expect(status(bob.user)).toBe("offline"), 25_000);
  });

  test("tells what was received and read, and counts what was not", async () => {
    const { views, alice, bob } = await together();
    await views.alice.send("hello").stored;
    await within(() => expect(message(views.alice, 0).status).toBe("delivered"));
    await within(() => expect(bob.client.conversations.unread.get()).toEqual({ total: 1, conversations: 1, mentions: 0 }));
    // The client counts by itself; the server's lists follow the conversations.
    await within(async () => expect(await bob.client.unreadCount()).toEqual({ total: 1, conversations: 1, mentions: 0 }));
    views.bob.markRead();
    await within(() => expect(message(views.alice, 0).status).toBe("read"));
    expect(views.alice.state.get().watermarks.get(bob.user)?.readSeq).toBe(1);
    expect(bob.client.conversations.unread.get()).toEqual({ total: 0, conversations: 0, mentions: 0 });
    await within(() => expect(alice.client.conversations.entries.get()).toMatchObject([{ headSeq: 1, title: "Real" }]));
  });

  test("resumes after its socket was killed", async () => {
    const { views, alice, bob } = await together();
    await views.alice.send("before").stored;
    await within(() => expect(contents(views.bob)).toEqual(["before"]));
    bob.sockets.refuse = true;
    bob.sockets.kill();
    await within(() => expect(bob.client.connection.get().state).toBe("reconnecting"));
    const first = await views.alice.send("while away").stored;
    await alice.client.edit(first.id, "edited while away");
    await views.alice.send("and more").stored;
    bob.sockets.refuse = false;
    await within(() => expect(contents(views.bob)).toEqual(["before", "edited while away", "and more"]));
    await views.alice.send("live again").stored;
    await within(() => expect(contents(views.bob).at(-1)).toBe("live again"));
    await within(() => expect(bob.client.conversations.entries.get()).toMatchObject([{ headSeq: 4 }]));
  });

  test("catches up with more than is replayed", async () => {
    const { views, alice, bob, id } = await together();
    bob.sockets.refuse = true;
    bob.sockets.kill();
    const expected = Array.from({ length: 600 }, (_, i) => `${i}`);
    const headers = { Authorization: `Bearer ${tokenOf(alice.user)}`, "Content-Type": "application/json" };
    for (const content of expected) {
      const { status } = await fetch(`${url}/chat/conversations/${id}/messages`, { method: "POST", headers, body: JSON.stringify({ content }) });
      expect(status).toBe(201);
    }
    bob.sockets.refuse = false;
    for (const view of [views.alice, views.bob]) await within(() => expect(contents(view)).toEqual(expected), 30_000);
  }, 120_000);

  test("what was written offline is sent later, in order, also after a restart", async () => {
    const storage = memoryStorage();
    const alice = person("alice", { storage });
    const bob = person("bob");
    await Promise.all([alice.client.connect(), bob.client.connect()]);
    const { id } = await alice.client.createConversation({ kind: "direct", members: [bob.user] });
    const view = bob.client.open(id);
    alice.sockets.refuse = true;
    alice.sockets.kill();
    for (const content of ["1", "2", "3"]) alice.client.send(id, content);
    await alice.client.close();
    const restarted = person("alice", { storage });
    await restarted.client.connect();
    await within(() => expect(contents(view)).toEqual(["1", "2", "3"]));
    expect(restarted.client.unsent).toBe(0);
  });

  test("refuses a token that is none", async () => {
    const { client } = person("alice", { token: "e30.e30.none" });
    await expect(client.connect()).rejects.toMatchObject({ code: "token_invalid" });
    expect(client.connection.get().state).toBe("closed");
  });

  test("who is blocked is refused", async () => {
    const [alice, bob] = [person("alice"), person("bob")];
    await Promise.all([alice.client.connect(), bob.client.connect()]);
    const { id } = await bob.client.createConversation({ kind: "direct", members: [alice.user] });
    const view = bob.client.open(id);
    await view.ready;
    await view.send("hello").stored;
    await alice.client.block(bob.user);
    expect((await alice.client.blocks()).users).toEqual([bob.user]);
    await expect(view.send("again").stored).rejects.toMatchObject({ code: "not_accepted" });
    await alice.client.unblock(bob.user);
    expect((await alice.client.blocks({ limit: 1 })).users).toEqual([]);
    await view.send("and again").stored;
  });

  test("a message is reported once", async () => {
    const { views, alice, bob } = await together();
    const said = await views.bob.send("buy this").stored;
    const first = await alice.client.report(said.id, { reason: "spam", note: "the third time" });
    expect(await alice.client.report(said.id, { reason: "other" })).toEqual(first);
    await expect(bob.client.report(said.id, { reason: "spam" })).rejects.toMatchObject({ code: "invalid_request" });
  });

  test("one who is removed is told", async () => {
    const { views, id, alice, bob } = await together();
    const path = `${url}/chat/conversations/${id}/members/${encodeURIComponent(bob.user)}`;
    await fetch(path, { method: "DELETE", headers: { Authorization: `Bearer ${tokenOf(alice.user)}` } });
    await within(() => expect(views.bob.state.get().status).toBe("left"));
    await within(() => expect(bob.client.conversations.entries.get()).toEqual([]));
  });
});

describe("over HTTP alone", () => {
  test("sends, receives, edits, reacts and counts", async () => {
    const timing = { pollFirstMs: 200, pollLastMs: 500 };
    const [alice, bob] = [person("alice", { WebSocket: null, timing }), person("bob", { WebSocket: null, timing })];
    await Promise.all([alice.client.connect(), bob.client.connect()]);
    expect(alice.client.connection.get()).toMatchObject({ state: "connected", transport: "http" });
    const { id } = await alice.client.createConversation({ kind: "direct", members: [bob.user] });
    const [sent, received] = [alice.client.open(id), bob.client.open(id)];
    await Promise.all([sent.ready, received.ready]);
    for (const content of ["1", "2", "3"]) sent.send(content);
    await within(() => expect(contents(received)).toEqual(["1", "2", "3"]));
    await within(() => expect(bob.client.conversations.unread.get()).toEqual({ total: 3, conversations: 1, mentions: 0 }));
    await alice.client.edit(`${id}-1`, "changed");
    await alice.client.delete(`${id}-2`);
    await bob.client.react(`${id}-3`, "🎉");
    await within(() => expect(contents(received)).toEqual(["changed", "", "3"]));
    await within(() => expect(message(sent, 2).reactions).toEqual({ "🎉": [bob.user] }));
    received.markRead();
    await within(() => expect(bob.client.conversations.unread.get().total).toBe(0));
    const unread = await bob.client.unreadCount();
    expect(unread.total).toBeLessThanOrEqual(3);
    await expect(alice.client.open("0".repeat(32)).ready).rejects.toMatchObject({ code: "not_a_member" });
  });

  test("scrolls through a long history", async () => {
    const alice = person("alice", { WebSocket: null, bounds: { messagesKept: 60, pageSize: 20 }, timing: { pollFirstMs: 300 } });
    await alice.client.connect();
    const { id } = await alice.client.createConversation({ kind: "group", members: [], title: "Alone" });
    const view = alice.client.open(id);
    for (let i = 1; i <= 100; i++) await view.send(`${i}`).stored;
    await within(() => expect(contents(view).at(-1)).toBe("100"));
    while (await view.loadBefore());
    expect(contents(view)).toEqual(Array.from({ length: 60 }, (_, i) => `${i + 1}`));
    await view.jumpToLatest();
    expect(contents(view)).toEqual(Array.from({ length: 20 }, (_, i) => `${i + 81}`));
  });
});
