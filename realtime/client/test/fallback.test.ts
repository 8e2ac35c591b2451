import { expect, test } from "vitest";
import { clientOf, connected, contents, pass, setup, useFakeTime } from "./setup.js";

useFakeTime();

test("without any WebSocket everything goes over HTTP", async () => {
  const { client, hub } = setup({ WebSocket: null }, 2);
  const view = client.open("r");
  const connecting = client.connect();
  await pass(1_000);
  await connecting;
  expect(client.connection.get()).toMatchObject({ state: "connected", transport: "http", quality: "poor" });
  expect(client.userId).toBe("alice");
  const { stored } = view.send("hello");
  await pass(1_000);
  expect(await stored).toMatchObject({ seq: 3 });
  hub.store.send("bob", "r", { content: "answer" });
  hub.store.edit("bob", "r-1", "edited");
  view.markRead();
  await pass(5_000);
  expect(contents(view)).toEqual(["edited", "2", "hello", "answer"]);
  expect(client.conversations.entries.get()).toMatchObject([{ id: "r", headSeq: 4 }]);
  expect(hub.logins).toBe(0);
});

test("takes over when WebSockets do not get through, and gives back when they do", async () => {
  const { client, hub, network, view } = await connected({}, 1);
  const transports: (string | null)[] = [];
  client.on("connection", ({ transport }) => transports.at(-1) !== transport && transports.push(transport));
  network.sockets = false;
  network.cut();
  view.send("sent over HTTP");
  await pass(15_000);
  expect(client.connection.get()).toMatchObject({ state: "connected", transport: "http" });
  hub.store.send("bob", "r", { content: "polled" });
  await pass(10_000);
  expect(contents(view)).toEqual(["1", "sent over HTTP", "polled"]);
  network.sockets = true;
  await pass(25_000);
  expect(client.connection.get()).toMatchObject({ state: "connected", transport: "websocket" });
  const polls = () => hub.requests.filter(({ path }) => path === "/chat/sync").length;
  const polled = polls();
  hub.store.send("bob", "r", { content: "pushed" });
  await pass(60_000);
  expect(contents(view)).toEqual(["1", "sent over HTTP", "polled", "pushed"]);
  expect(polls()).toBe(polled);
  expect(transports).toEqual([null, "http", "websocket"]);
});

test("polls less often while nothing happens, and often again when something does", async () => {
  const { client, hub } = setup({ WebSocket: null });
  const view = client.open("r");
  void client.connect();
  const polls = () => hub.requests.filter(({ path }) => path === "/chat/sync").length;
  await pass(120_000);
  const before = polls();
  await pass(60_000);
  expect(polls() - before).toBeLessThanOrEqual(3);
  view.send("hello");
  const then = polls();
  await pass(10_000);
  expect(polls() - then).toBeGreaterThanOrEqual(2);
});

test("polls on while the user writes without a pause", async () => {
  const { client, hub } = setup({ WebSocket: null });
  const view = client.open("r");
  void client.connect();
  await pass(1_000);
  for (let i = 0; i < 10; i++) {
    view.send(`${i}`);
    await pass(1_000);
    if (i === 1) hub.store.send("bob", "r", { content: "theirs" });
  }
  expect(contents(view)).toContain("theirs");
});

test("offline: neither gets through, and it says so", async () => {
  const { client, network } = await connected();
  network.sockets = network.http = false;
  network.cut();
  await pass(30_000);
  expect(client.connection.get()).toMatchObject({ state: "offline", transport: null, quality: "offline" });
  network.http = true;
  await pass(60_000);
  expect(client.connection.get()).toMatchObject({ state: "connected", transport: "http" });
});

test("closing ends everything, until it is connected again", async () => {
  const { client, network, hub } = await connected();
  const other = clientOf(network, { WebSocket: null });
  void other.connect();
  await pass(1_000);
  await client.close();
  await other.close();
  const { logins, requests } = hub;
  const made = requests.length;
  await pass(600_000);
  expect(hub.logins).toBe(logins);
  expect(requests.length).toBe(made);
  expect(client.connection.get().state).toBe("closed");
  const view = client.open("r");
  hub.store.send("bob", "r", { content: "meanwhile" });
  void client.connect();
  await pass(1_000);
  expect(client.connection.get().state).toBe("connected");
  expect(contents(view)).toEqual(["meanwhile"]);
});
