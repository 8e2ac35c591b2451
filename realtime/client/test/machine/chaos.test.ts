/**
 * A network, a server, tokens and clocks that fail at random, while three clients of two users write: one of each user in Node, one more in
 * Chromium. In the end all show the log, with each message once and none missing, and no client is closed.
 *
 *   CLIENT_TEST_SEED=7 CLIENT_TEST_SECONDS=600 CLIENT_TEST_BINARY=… npx vitest run --config vitest.real.config.ts chaos
 */
import { afterAll, expect, test } from "vitest";
import { WebSocket } from "ws";
import { ChatClient, type ConversationView } from "../../src/index.js";
import { Random } from "../server/random.js";
import { browser, endAll, endBrowser, network, pages, server, sleep, until, type RunningServer } from "./machine.js";

afterAll(async () => {
  await endBrowser();
  await endAll();
});

const seed = Number(process.env.CLIENT_TEST_SEED ?? Date.now() % 1_000_000);
const SECONDS = Number(process.env.CLIENT_TEST_SECONDS ?? 25);
/** After how long of a network that works everything has to be there: a dead connection is noticed after 25 s, waits are up to 20 s. */
const HEALED_WITHIN_MS = 90_000;
/** All that is written in ten minutes stays in view, so that all of it is compared. */
const BOUNDS = { messagesKept: 10_000 };
const SETTINGS = { SERVER__CORS_ORIGINS: '["*"]' };

/** A client, here or in a page. */
interface Writer {
  readonly name: string;
  send(content: string): Promise<void>;
  shown(): Promise<string[]>;
  state(): Promise<string>;
  unsent(): Promise<number>;
}

test(`everything is there in the end (seed ${seed})`, async () => {
  const random = new Random(seed);
  let one: RunningServer = await server(SETTINGS);
  const line = await network(one.port);
  const group = await one.group("alice", ["bob"]);
  let tokens: "good" | "fail" | "hang" | "bad" = "good";
  const tokenFor = async (user: string): Promise<string> => {
    if (tokens === "fail") throw new Error("the application's server is away");
    if (tokens === "hang") return new Promise(() => undefined);
    return tokens === "bad" ? "e30.e30.bad" : one.token(user);
  };

  const writers = [await inNode("alice"), await inNode("bob"), await inChromium("alice")];
  const written: string[] = [];
  const ends = Date.now() + SECONDS * 1_000;
  while (Date.now() < ends) {
    await happen();
    for (const writer of writers) {
      if (!random.chance(0.7)) continue;
      const content = `${writer.name} ${written.length}`;
      written.push(content);
      await writer.send(content);
    }
    await sleep(random.below(1_500));
  }

  tokens = "good";
  line.become("open");
  line.delay(0);
  const wanted = [...written].sort();
  const complete = async (writer: Writer) => (await writer.unsent()) === 0 && (await writer.shown()).length >= wanted.length;
  for (const writer of writers) {
    await until(`seed ${seed}: all of ${writer.name}'s`, () => complete(writer), HEALED_WITHIN_MS).catch(() => undefined);
    expect((await writer.shown()).sort(), `seed ${seed}: what ${writer.name} shows`).toEqual(wanted);
    expect(await writer.state(), `seed ${seed}: ${writer.name}`).toBe("connected");
  }
  const orders = await Promise.all(writers.map((writer) => writer.shown()));
  for (const order of orders) expect(order, `seed ${seed}: one order`).toEqual(orders[0]);

  /** Something fails, or works again. */
  async function happen(): Promise<void> {
    const events: (() => void | Promise<void>)[] = [
      () => line.cut(),
      () => line.drop(),
      () => line.reset(),
      () => line.delay(random.below(2) * random.below(600)),
      () => line.become("away"),
      () => line.become("captive"),
      () => line.become("open"),
      () => line.become("open"),
      () => void (tokens = "fail"),
      () => void (tokens = "hang"),
      () => void (tokens = "bad"),
      () => void (tokens = "good"),
      () => void (tokens = "good"),
      async () => {
        await one.stop(random.chance(0.5) ? "SIGKILL" : "SIGTERM");
        one = await server(SETTINGS, one);
      },
    ];
    if (random.chance(0.8)) await events[random.below(events.length)]!();
  }

  async function inNode(user: string): Promise<Writer> {
    const client = new ChatClient({ url: line.origin, token: () => tokenFor(user), WebSocket, bounds: BOUNDS });
    await client.connect();
    const view: ConversationView = client.open(group);
    await view.ready;
    return {
      name: `${user} in Node`,
      send: async (content) => void client.send(group, content),
      shown: async () => view.state.get().messages.map(({ content }) => content),
      state: async () => client.connection.get().state,
      unsent: async () => client.unsent,
    };
  }

  async function inChromium(user: string): Promise<Writer> {
    const script = `import * as bs from "@backscroll/client"; Object.assign(window, { bs });
      const right = Date.now.bind(Date); let ahead = 0; Date.now = () => right() + ahead; setInterval(() => { ahead = (Math.random() - 0.5) * 7_200_000; }, 5_000);`;
    const port = await pages(script);
    const page = await (await browser()).newPage();
    await page.exposeFunction("tokenFor", () => tokenFor(user));
    await page.goto(`http://127.0.0.1:${port}/`);
    await page.evaluate(`(async ({ url, group, bounds }) => {
      window.client = new bs.ChatClient({ url, token: () => tokenFor(), storage: localStorage, bounds });
      await client.connect();
      window.view = client.open(group);
      await view.ready;
    })(${JSON.stringify({ url: line.origin, group, bounds: BOUNDS })})`);
    return {
      name: `${user} in Chromium`,
      send: async (content) => void (await page.evaluate(`void client.send(${JSON.stringify(group)}, ${JSON.stringify(content)})`)),
      shown: () => page.evaluate("view.state.get().messages.map(({ content }) => content)"),
      state: () => page.evaluate("client.connection.get().state"),
      unsent: () => page.evaluate("client.unsent"),
    };
  }
}, SECONDS * 1_000 + 240_000);
