/**
 * INV-PUSH: whatever the connection does, the client ends with exactly the server's log; nothing that was acknowledged
 * is missing or doubled.
 */
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { ChatClient, type ConversationView, type Message, type StoredMessage } from "../src/index.js";
import { Hub, NO_FAULTS, tokenOf } from "./server/hub.js";
import { Network } from "./server/network.js";
import { Random } from "./server/random.js";
import { Refusal } from "./server/store.js";

const SEEDS = 250;
const STEPS = 120;
const ROOMS = ["a", "b"];
const OTHERS = ["bob", "carol"];

beforeEach(() => void vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout", "Date", "performance"] }));
afterEach(() => void vi.useRealTimers());

class World {
  readonly random: Random;
  readonly hub = new Hub();
  readonly network = new Network(this.hub);
  readonly views = new Map<string, ConversationView>();
  readonly client: ChatClient;
  readonly acknowledged: Message[] = [];
  private sent = 0;
  readonly outgoing: string[] = [];
  readonly failed = new Set<string>();

  /** Half of the worlds lose more than can be replayed; in the others a fault is not covered up by loading anew. */
  private readonly wild: boolean;

  constructor(seed: number) {
    this.wild = seed % 2 === 0;
    this.random = new Random(seed);
    for (const id of ROOMS) this.hub.store.room(id, ["alice", ...OTHERS]);
    this.hub.store.syncPage = 7;
    this.hub.findLostAfterMs = 1_000;
    if (this.wild) {
      this.hub.store.syncMost = 25;
      this.hub.replayMost = 10;
    }
    for (let i = 0; i < 80; i++) this.hub.store.send("bob", "a", { content: `old ${i}` });
    this.client = new ChatClient({
      url: "http://chat.example",
      token: async () => tokenOf("alice", Date.now() + 60_000, Date.now()),
      WebSocket: this.network.WebSocket,
      fetch: this.network.fetch,
      random: this.random.next,
      bounds: { messagesKept: 60, pageSize: 15 },
    });
    for (const id of ROOMS) this.views.set(id, this.client.open(id));
    void this.client.connect().catch(() => undefined);
  }

  misbehave(): void {
    const { random } = this;
    this.network.delay = () => 1 + random.below(random.chance(0.1) ? 2_000 : 60);
    this.network.httpDelay = () => 1 + random.below(random.chance(0.4) ? 1_500 : 60);
    this.network.breakHttp = () => (random.chance(0.1) ? random.pick(["before", "after"] as const) : "no");
    this.hub.faults = {
      losePush: () => (random.chance(0.2) ? random.pick(this.wild ? (["late", "resync"] as const) : (["late"] as const)) : "no"),
      duplicatePush: () => random.chance(0.1),
      delayPush: () => (random.chance(0.3) ? random.below(800) : 0),
      delayAnswer: () => (random.chance(0.1) ? random.pick([300, 12_000, "lost" as const]) : 0),
      refuse: () => (random.chance(0.05) ? new Refusal("shard_unavailable", 100) : undefined),
      forget: () => random.chance(this.wild ? 0.3 : 0.1),
    };
  }

  async behave(): Promise<void> {
    this.hub.faults = NO_FAULTS;
    this.network.delay = this.network.httpDelay = () => 1;
    this.network.breakHttp = () => "no";
    this.network.sockets = this.network.http = true;
    await vi.advanceTimersByTimeAsync(180_000);
  }

  async step(): Promise<void> {
    const { random, hub, network } = this;
    const room = random.pick(ROOMS);
    const view = this.views.get(room)!;
    const action = random.below(this.wild ? 20 : 40) % 26;
    if (action < 6) for (let i = random.below(6); i >= 0; i--) hub.store.send(random.pick(OTHERS), room, { content: `theirs ${this.sent++}` });
    else if (action < 9) this.changeSomething(room);
    else if (action < 12) this.send(room);
    else if (action === 12) network.cut();
    else if (action === 13) hub.closeAll(random.pick([4000, 4001, 4008, 4009, 1006]));
    else if (action === 14) for (const socket of network.open) socket.frozen = true;
    else if (action === 15) network.sockets = random.chance(0.6);
    else if (action === 16) network.http = random.chance(0.7);
    else if (action === 17) void view.loadBefore().catch(() => undefined);
    else if (action === 18) void (random.chance(0.5) ? view.jumpToLatest() : view.jumpTo(1 + random.below(40))).catch(() => undefined);
    else if (action === 19) this.reopen(room);
    else this.changeSomething(room);
    await vi.advanceTimersByTimeAsync(random.below(random.chance(0.2) ? 20_000 : 400));
  }

  changeSomething(room: string): void {
    const { random, hub } = this;
    const length = hub.store.rooms.get(room)!.messages.length;
    if (length === 0) return;
    const id = `${room}-${length - random.below(Math.min(length, 70))}`;
    const change = random.below(3);
    if (change === 0) hub.store.edit("bob", id, `edited ${this.sent++}`);
    else if (change === 1) hub.store.delete("bob", id);
    else hub.store.react("carol", id, "👍", random.chance(0.3));
  }

  send(room: string): void {
    const content = `mine ${this.sent++}`;
    const { clientMsgId, stored } = this.client.send(room, content);
    const key = `${room}/#${clientMsgId}`;
    this.outgoing.push(key);
    stored.then(
      (message) => this.acknowledged.push(message),
      () => this.failed.add(key),
    );
  }

  reopen(room: string): void {
    this.views.get(room)!.close();
    this.views.set(room, this.client.open(room));
  }
}

test.each(Array.from({ length: SEEDS }, (_, seed) => seed))("seed %i", async (seed) => {
  const world = new World(seed);
  world.misbehave();
  for (let step = 0; step < STEPS; step++) await world.step();
  await world.behave();
  const { client, hub, views } = world;
  expect(client.connection.get()).toMatchObject({ state: "connected", transport: "websocket" });
  for (const [room, view] of views) {
    expect(view.state.get().error).toBeUndefined();
    await expectWindow(hub, room, view);
    if (view.state.get().hasMoreAfter) {
      const jumped = view.jumpToLatest();
      await vi.advanceTimersByTimeAsync(5_000);
      await jumped;
    }
    await expectWindow(hub, room, view);
    const shown = storedIn(view);
    expect(shown.at(-1)?.seq ?? 0).toBe(hub.store.rooms.get(room)!.messages.length);
    expect(shown.length).toBeLessThanOrEqual(60);
  }
  for (const failed of pendingOf(world)) client.retry(failed);
  await vi.advanceTimersByTimeAsync(60_000);
  expect(client.unsent).toBe(0);
  expect(world.acknowledged.length + world.failed.size).toBe(world.outgoing.length);
  const stored = ROOMS.flatMap((room) => hub.store.rooms.get(room)!.messages);
  const byKey = stored.filter((message) => message.senderId === "alice").map((message) => message.clientMsgId);
  expect(new Set(byKey).size).toBe(byKey.length);
  expect(byKey.length).toBe(world.outgoing.length);
  for (const room of ROOMS) expectOrder(world, room);
  for (const message of world.acknowledged) expect(stored.find(({ id }) => id === message.id)?.clientMsgId).toBe(message.clientMsgId);
  const listed = client.conversations.entries.get().map(({ id, headSeq, rev, unreadCount }) => ({ id, headSeq, rev, unreadCount }));
  const expected = hub.store.list("alice").map(({ id, headSeq, rev, unreadCount }) => ({ id, headSeq, rev, unreadCount }));
  expect(listed.sort((x, y) => (x.id < y.id ? -1 : 1))).toEqual(expected.sort((x, y) => (x.id < y.id ? -1 : 1)));
  await client.close();
  await vi.advanceTimersByTimeAsync(60_000);
  expect(vi.getTimerCount()).toBe(0);
});

function storedIn(view: ConversationView): StoredMessage[] {
  return view.state.get().messages.filter((message) => message.state === "sent");
}

/** What is shown is a stretch of the log, exactly. */
async function expectWindow(hub: Hub, room: string, view: ConversationView): Promise<void> {
  const shown = storedIn(view);
  const first = shown[0]?.seq ?? 1;
  const log = hub.store.rooms.get(room)!.messages.slice(first - 1, first - 1 + shown.length);
  expect(shown.map(({ seq, rev, content }) => ({ seq, rev, content }))).toEqual(log.map(({ seq, rev, content }) => ({ seq, rev, content })));
}

/** Own messages that never failed are in the order they were given. */
function expectOrder({ hub, outgoing, failed }: World, room: string): void {
  const given = outgoing.filter((one) => one.startsWith(`${room}/`) && !failed.has(one));
  const mine = hub.store.rooms.get(room)!.messages.filter(({ senderId }) => senderId === "alice");
  const stored = mine.map(({ clientMsgId }) => given.find((one) => one.endsWith(`#${clientMsgId}`))).filter((one) => one !== undefined);
  expect(stored).toEqual(given);
}

function pendingOf({ views }: World): string[] {
  return [...views.values()].flatMap((view) =>
    view.state.get().messages.flatMap((message) => (message.state === "failed" ? [message.clientMsgId] : [])),
  );
}
