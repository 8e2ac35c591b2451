/** A client in the network inside the process, with fake timers. */
import { afterEach, beforeEach, vi } from "vitest";
import { ChatClient, type ChatClientOptions, type ChatMessage, type ConversationView } from "../src/index.js";
import { Hub, tokenOf } from "./server/hub.js";
import { Network } from "./server/network.js";

export interface Setup {
  hub: Hub;
  network: Network;
  client: ChatClient;
}

const clients: ChatClient[] = [];

export function useFakeTime(): void {
  beforeEach(() => void vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout", "Date", "performance"] }));
  afterEach(async () => {
    for (const client of clients.splice(0)) await client.close();
    vi.useRealTimers();
  });
}

export function clientOf(network: Network, options: Partial<ChatClientOptions> = {}): ChatClient {
  const client = new ChatClient({
    url: "http://chat.example",
    token: tokenOf("alice"),
    WebSocket: network.WebSocket,
    fetch: network.fetch,
    random: () => 0.5,
    ...options,
  });
  clients.push(client);
  return client;
}

/** A room `r` of alice, bob and carol with `messages` from bob. */
export function setup(options: Partial<ChatClientOptions> = {}, messages = 0): Setup {
  const hub = new Hub();
  const network = new Network(hub);
  hub.store.room("r", ["alice", "bob", "carol"]);
  for (let i = 1; i <= messages; i++) hub.store.send("bob", "r", { content: `${i}` });
  return { hub, network, client: clientOf(network, options) };
}

export async function connected(options: Partial<ChatClientOptions> = {}, messages = 0): Promise<Setup & { view: ConversationView }> {
  const world = setup(options, messages);
  const view = world.client.open("r");
  void world.client.connect().catch(() => undefined);
  await pass(200);
  return { ...world, view };
}

export const pass = (ms: number) => vi.advanceTimersByTimeAsync(ms);
export const contents = (view: ConversationView) => view.state.get().messages.map((message: ChatMessage) => message.content);
export const commands = (hub: Hub, name: string) =>
  [...hub.sessions].flatMap((session) => session.heard.filter(({ event }) => event === name).map(({ data }) => data));

/** What `localStorage` is. */
export function memoryStorage() {
  const items = new Map<string, string>();
  return {
    items,
    getItem: (key: string) => items.get(key) ?? null,
    setItem: (key: string, value: string) => void items.set(key, value),
    removeItem: (key: string) => void items.delete(key),
  };
}
