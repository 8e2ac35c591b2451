/** The same over real sockets: what the network inside the process could get wrong. */
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { WebSocket } from "ws";
import { ChatClient, type ChatMessage, type ConversationView } from "../src/index.js";
import { tokenOf } from "./server/hub.js";
import { start, type Running } from "./server/real.js";

const QUICK = { backoffFirstMs: 20, backoffLastMs: 200, pingEveryMs: 200, pollFirstMs: 50, pollLastMs: 200, holeGraceMs: 50 };

let server: Running;
const clients: ChatClient[] = [];

beforeEach(async () => {
  server = await start();
  server.hub.store.room("r", ["alice", "bob"]);
});
afterEach(async () => {
  await Promise.all(clients.splice(0).map((client) => client.close()));
  await server.stop();
});

function clientOf(user: string): ChatClient {
  const client = new ChatClient({ url: server.url, token: async () => tokenOf(user), WebSocket, timing: QUICK });
  clients.push(client);
  return client;
}

const contents = (view: ConversationView) => view.state.get().messages.map((message: ChatMessage) => message.content);
const within = (check: () => void) => vi.waitFor(check, { timeout: 5_000, interval: 20 });

test("two clients talk, through broken connections", async () => {
  const [alice, bob] = [clientOf("alice"), clientOf("bob")];
  await Promise.all([alice.connect(), bob.connect()]);
  const views = [alice.open("r"), bob.open("r")];
  await Promise.all(views.map((view) => view.ready));
  const expected: string[] = [];
  for (let i = 0; i < 60; i++) {
    const [view] = i % 3 === 0 ? [views[1]!] : [views[0]!];
    expected.push(`${i}`);
    const { stored } = view.send(`${i}`);
    if (i % 10 === 5) server.cut();
    await stored;
  }
  await within(() => {
    for (const view of views) expect(contents(view)).toEqual(expected);
  });
  expect(server.hub.store.rooms.get("r")!.messages).toHaveLength(60);
  await within(() => expect(alice.connection.get()).toMatchObject({ state: "connected", transport: "websocket" }));
  expect(alice.connection.get().latencyMs).toBeGreaterThanOrEqual(0);
});

test("messages that arrive with the answer to joining are not lost", async () => {
  const alice = clientOf("alice");
  await alice.connect();
  const { store } = server.hub;
  const head = store.head.bind(store);
  store.head = (user, id) => {
    const answer = head(user, id);
    queueMicrotask(() => store.send("bob", "r", { content: "at once" })); // the frame follows in the same packet
    store.head = head;
    return answer;
  };
  const view = alice.open("r");
  await within(() => expect(contents(view)).toEqual(["at once"]));
});

test("a server that is gone and comes back", async () => {
  const alice = clientOf("alice");
  await alice.connect();
  const view = alice.open("r");
  await view.ready;
  const { hub } = server;
  server.hub.refused.set("*", 4001);
  server.cut();
  view.send("kept");
  await within(() => expect(alice.connection.get().transport).toBe("http"));
  await within(() => expect(contents(view)).toEqual(["kept"]));
  hub.refused.clear();
  await within(() => expect(alice.connection.get().transport).toBe("websocket"));
});
