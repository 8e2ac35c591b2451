import { describe, expect, test, vi } from "vitest";
import type { ChatError } from "../src/index.js";
import { tokenOf } from "./server/hub.js";
import { clientOf, commands, connected, contents, pass, setup, useFakeTime } from "./setup.js";

useFakeTime();

describe("connecting", () => {
  test("goes through its states and measures", async () => {
    const { client, network } = setup();
    const states: string[] = [];
    client.on("connection", ({ state }) => states.at(-1) !== state && states.push(state));
    const connecting = client.connect();
    network.delay = () => 40;
    await pass(1_000);
    await connecting;
    expect(states).toEqual(["connecting", "connected"]);
    const { transport, quality, latencyMs, smoothedLatencyMs } = client.connection.get();
    expect({ transport, quality }).toEqual({ transport: "websocket", quality: "excellent" });
    expect(latencyMs).toBe(80);
    network.delay = () => 500;
    await pass(20_000);
    expect(client.connection.get()).toMatchObject({ quality: "poor", latencyMs: 1_000 });
    expect(client.connection.get().smoothedLatencyMs).toBeGreaterThan(smoothedLatencyMs!);
    network.cut();
    expect(client.connection.get()).toMatchObject({ state: "reconnecting", quality: "offline", transport: null });
  });

  test("waits with full jitter up to the bound", async () => {
    const { client, hub, network } = setup({ random: () => 1 });
    network.http = network.sockets = false;
    const attempts: number[] = [];
    const { WebSocket: Original } = network;
    const began = Date.now();
    class Counted extends Original {
      constructor(address: string) {
        super(address);
        attempts.push(Date.now() - began);
      }
    }
    const counted = clientOf(network, { WebSocket: Counted, random: () => 1 });
    void counted.connect().catch(() => undefined);
    await pass(70_000);
    const waits = attempts.slice(1).map((at, i) => Math.round((at - attempts[i]!) / 100) / 10);
    expect(waits.slice(0, 7)).toEqual([0.5, 1, 2, 4, 8, 16, 20]);
    expect(counted.connection.get().state).toBe("offline");
    expect(hub.logins).toBe(0);
    expect(client.connection.get().state).toBe("closed");
  });

  test("forgets its failures only after it was stable", async () => {
    const { network, hub } = await connected({ random: () => 1 });
    network.cut();
    await pass(600);
    network.cut();
    await pass(900);
    expect(hub.sessions.size).toBe(0); // the second wait is 1 s
    await pass(200);
    expect(hub.sessions.size).toBe(1);
    await pass(31_000);
    network.cut();
    await pass(600);
    expect(hub.sessions.size).toBe(1);
  });

  test("obeys `reconnect`: neither earlier nor later", async () => {
    const { hub, client } = await connected();
    const [session] = hub.sessions;
    session!.emit("reconnect", { afterMs: 7_000 });
    await pass(10);
    hub.closeAll(4000);
    await pass(6_900);
    expect(hub.sessions.size).toBe(0);
    await pass(200);
    expect(hub.sessions.size).toBe(1);
    expect(client.connection.get().state).toBe("connected");
  });

  test("leaves a node that does not close by itself", async () => {
    const { hub } = await connected();
    const [session] = hub.sessions;
    session!.emit("reconnect", { afterMs: 3_000 });
    await pass(4_000);
    expect(hub.sessions.size).toBe(1);
    expect(hub.sessions.has(session!)).toBe(false);
  });

  test.each([4500, 4502, 4503, 4504])("stops at %i and says why", async (code) => {
    const { client, hub } = await connected();
    const errors: ChatError[] = [];
    client.on("error", (error) => errors.push(error));
    hub.closeAll(code);
    await pass(60_000);
    expect(client.connection.get()).toMatchObject({ state: "closed", transport: null });
    expect(client.connection.get().error).toBe(errors[0]);
    expect(errors).toHaveLength(1);
    expect(hub.logins).toBe(1);
    void client.connect();
    await pass(100);
    expect(client.connection.get().state).toBe("connected");
  });

  test.each([4000, 4001, 4002, 4003, 4008, 4029, 4505, 4099, 1006, 1001])("comes back after %i", async (code) => {
    const { client, hub } = await connected();
    hub.closeAll(code);
    await pass(1_100);
    expect(client.connection.get().state).toBe("connected");
    expect(hub.logins).toBe(2);
  });

  test("an expired token is replaced where there is a function, and is the end where there is none", async () => {
    const expired = tokenOf("alice", Date.now() - 1_000);
    const token = vi.fn().mockResolvedValueOnce(expired).mockImplementation(async () => tokenOf("alice"));
    const { client } = setup({ token });
    void client.connect();
    await pass(5_000);
    expect(client.connection.get().state).toBe("connected");
    expect(token).toHaveBeenCalledTimes(2);

    const { client: other } = setup({ token: expired });
    const connecting = expect(other.connect()).rejects.toMatchObject({ code: "token_expired" });
    await pass(5_000);
    await connecting;
  });

  test("a token function that fails is asked again", async () => {
    const token = vi.fn().mockRejectedValueOnce(new Error("no network")).mockImplementation(async () => tokenOf("alice"));
    const { client } = setup({ token });
    void client.connect();
    await pass(5_000);
    expect(client.connection.get().state).toBe("connected");
  });

  test("renews its token before the end, on the open connection", async () => {
    const token = vi.fn(async () => tokenOf("alice", Date.now() + 120_000));
    const { hub } = await connected({ token });
    await pass(89_000);
    expect(commands(hub, "refresh_token")).toHaveLength(0);
    await pass(2_000);
    expect(commands(hub, "refresh_token")).toHaveLength(1);
    await pass(100_000);
    expect(commands(hub, "refresh_token")).toHaveLength(2);
    expect(hub.logins).toBe(1);
  });

  test("serves one user: another's token is the end", async () => {
    const { client, hub } = await connected();
    client.setToken(tokenOf("bob"));
    hub.closeAll(4000);
    await pass(5_000);
    expect(client.connection.get()).toMatchObject({ state: "closed", error: { code: "token_invalid" } });
    expect(hub.sessions.size).toBe(0);
  });

  test("events that are not as they should be stop nothing", async () => {
    const { client, hub, view } = await connected();
    const errors: ChatError[] = [];
    client.on("error", (error) => errors.push(error));
    const [session] = hub.sessions;
    session!.emit("new_message", null);
    session!.emit("constructor", {});
    session!.emit("from_the_future", { much: "more" });
    hub.store.send("bob", "r", { content: "hello" });
    await pass(100);
    expect(errors.map(({ code }) => code)).toEqual(["invalid_frame"]);
    expect(contents(view)).toEqual(["hello"]);
  });

  test("never puts the token into an address", async () => {
    const { network } = await connected();
    expect([...network.open].map(({ address }) => address)).toEqual(["ws://chat.example/ws/chat"]);
  });
});

describe("a dead connection", () => {
  test("is noticed although nothing says so", async () => {
    const { network, hub, client } = await connected();
    for (const socket of network.open) socket.frozen = true;
    await pass(26_000); // a ping after 15 s, its answer missing for 10 s
    expect(hub.logins).toBe(2);
    expect(client.connection.get().state).toBe("connected");
  });

  test("what was missed is there afterwards", async () => {
    const { network, hub, view } = await connected({}, 3);
    for (const socket of network.open) socket.frozen = true;
    hub.store.send("bob", "r", { content: "while away" });
    hub.store.edit("bob", "r-1", "changed");
    await pass(30_000);
    expect(contents(view)).toEqual(["changed", "2", "3", "while away"]);
  });
});

describe("commands", () => {
  test("are paced to what the server takes", async () => {
    const { hub, client } = setup();
    hub.commandsPerSecond = 20;
    void client.connect();
    await pass(100);
    for (let room = 0; room < 60; room++) hub.store.room(`x${room}`, ["alice"]);
    for (let room = 0; room < 60; room++) client.send(`x${room}`, "hello");
    const perSecond: number[] = [];
    for (let second = 0; second < 5; second++) {
      const before = commands(hub, "send_message").length;
      await pass(1_000);
      perSecond.push(commands(hub, "send_message").length - before);
    }
    expect(Math.max(...perSecond.slice(1))).toBeLessThanOrEqual(20);
    expect(perSecond.reduce((a, b) => a + b, 0)).toBe(60);
  });

  test("are not paced where the server sets no limit", async () => {
    const { hub, client } = setup();
    hub.commandsPerSecond = 0;
    void client.connect();
    await pass(100);
    for (let room = 0; room < 100; room++) hub.store.room(`x${room}`, ["alice"]);
    for (let room = 0; room < 100; room++) client.send(`x${room}`, "hello");
    await pass(100);
    expect(client.unsent).toBe(0);
  });

  test("a frame that is too large is refused here, not closed for there", async () => {
    const { hub, client } = await connected();
    const { stored, clientMsgId } = client.send("r", "x".repeat(70_000));
    await expect(Promise.all([stored, pass(100)])).rejects.toMatchObject({ code: "frame_too_large" });
    expect(hub.sessions.size).toBe(1);
    client.discard(clientMsgId);
    expect(client.unsent).toBe(0);
  });
});
