/** Networks that fail without a word, and come back. */
import { describe, expect, test, vi } from "vitest";
import type { ConversationView } from "../src/index.js";
import { clientOf, connected, contents, pass, setup, useFakeTime } from "./setup.js";

useFakeTime();

const sent = (view: ConversationView) => view.state.get().messages.map(({ state }) => state);

test("a connection that only looks open is looked at when the network comes back", async () => {
  const listeners = new Map<string, () => void>();
  vi.stubGlobal("addEventListener", (name: string, listener: () => void) => listeners.set(name, listener));
  vi.stubGlobal("removeEventListener", (name: string) => listeners.delete(name));
  try {
    const { client, network, view } = await connected();
    for (const socket of network.open) socket.frozen = true;
    view.send("mine");
    await pass(100);
    listeners.get("online")!();
    await pass(4_000);
    expect(sent(view)).toEqual(["sent"]);
    await client.close();
    expect(listeners.size).toBe(0);
  } finally {
    vi.unstubAllGlobals();
  }
});

test("a WebSocket that is forbidden fails at once, although no close follows", async () => {
  const { network } = setup();
  class Forbidden {
    readyState = 0;
    onopen = null;
    onmessage = null;
    onclose = null;
    onerror: ((event: never) => void) | null = null;
    constructor() {
      setTimeout(() => this.onerror?.({} as never), 1);
    }
    send() {}
    close() {}
  }
  const client = clientOf(network, { WebSocket: Forbidden });
  void client.connect();
  await pass(5_000);
  expect(client.connection.get()).toMatchObject({ state: "connected", transport: "http" });
});

test("a login that resumes more than the server takes begins anew", async () => {
  const { client, hub, network, view } = await connected({}, 2);
  const login = hub.authenticate.bind(hub);
  hub.authenticate = (session, given) => (given.resume ? session.close(4503) : login(session, given));
  network.cut();
  hub.store.send("bob", "r", { content: "missed" });
  await pass(5_000);
  expect(client.connection.get()).toMatchObject({ state: "connected", transport: "websocket" });
  expect(contents(view)).toEqual(["1", "2", "missed"]);
});

describe("answers of something in between", () => {
  const page = (status: number, headers: Record<string, string> = { "Content-Type": "text/html" }) =>
    new Response(status === 204 ? null : "<html>log in</html>", { status, headers });
  const some = [200, 204, 302, 403, 404, 408, 429, 500, 502, 520, 530];

  test.each(some)("are no word on a conversation (%i)", async (status) => {
    const { client, network } = setup({}, 1);
    let bad = 8; // more than a request is repeated for
    network.intercept = (path) => (path.endsWith("/messages") && bad-- > 0 ? page(status) : undefined);
    const view = client.open("r");
    void client.connect();
    await pass(2_500);
    expect(view.state.get()).toMatchObject({ status: "loading", error: { code: "intercepted", retryable: true } });
    expect(view.state.get().error!.message).toContain("server.cors_origins");
    await pass(60_000);
    expect(view.state.get()).toMatchObject({ status: "ready" });
    expect(view.state.get().error).toBeUndefined();
    expect(contents(view)).toEqual(["1"]);
  });

  test.each(some)("are no word on a message, however often they come (%i)", async (status) => {
    const { client, network, hub } = setup({ WebSocket: null });
    void client.connect();
    await pass(1_000);
    const view = client.open("r");
    let bad = 30;
    network.intercept = (path) => (path.endsWith("/messages") && bad-- > 0 ? page(status) : undefined);
    view.send("kept");
    await pass(600_000);
    expect(hub.store.rooms.get("r")!.messages.map(({ content }) => content)).toEqual(["kept"]);
  });

  test("a problem document of somebody else is none", async () => {
    const { client, network } = setup({}, 1);
    let bad = 1;
    const foreign = () => new Response(JSON.stringify({ type: "about:blank", code: "not_a_member", status: 403 }), { status: 403, headers: { "Content-Type": "application/problem+json" } });
    network.intercept = (path) => (path.endsWith("/messages") && bad-- > 0 ? foreign() : undefined);
    const view = client.open("r");
    void client.connect();
    await pass(3_000);
    expect(view.state.get().status).toBe("ready");
  });

  test("a list that cannot be loaded says why", async () => {
    const { client, network } = setup();
    network.intercept = () => page(404);
    void client.connect();
    await pass(5_000);
    expect(client.conversations.error.get()).toMatchObject({ code: "intercepted" });
    network.intercept = () => undefined;
    await pass(30_000);
    expect(client.conversations.error.get()).toBeUndefined();
  });
});

test("a fetch that never ends is given up", async () => {
  const { hub, network } = setup();
  let hangs = 1;
  const fetcher: typeof fetch = (...request) => (hangs-- > 0 ? new Promise<Response>(() => undefined) : network.fetch(...request));
  const client = clientOf(network, { WebSocket: null, fetch: fetcher });
  void client.connect();
  await pass(30_000);
  expect(client.connection.get().state).toBe("connected");
  expect(hub.requests.length).toBeGreaterThan(0);
});
