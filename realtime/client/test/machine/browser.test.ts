/** The client in Chromium, against a real server: what only browsers do. */
import type { Page } from "playwright-core";
import { afterAll, afterEach, expect, test } from "vitest";
import { browser, endAll, endBrowser, network, pages, server } from "./machine.js";

afterEach(endAll);
afterAll(endBrowser);

const OPEN = { SERVER__CORS_ORIGINS: '["*"]' };
/** The client as `bs` in the page. */
const CLIENT = `import * as bs from "@backscroll/client"; Object.assign(window, { bs });`;

async function pageAt(origin: string): Promise<{ page: Page; errors: string[] }> {
  const page = await (await browser()).newPage();
  const errors: string[] = [];
  page.on("pageerror", ({ message }) => errors.push(message));
  await page.goto(origin);
  return { page, errors };
}

test("a page over plain HTTP can send", async () => {
  const one = await server(OPEN);
  const [group, port] = [await one.group("alice", ["bob"]), await pages(CLIENT)];
  const { page } = await pageAt(`http://chat.test:${port}/`);
  const given = { url: `http://chat.test:${one.port}`, token: one.token("alice"), group };
  const [secure, seq] = await page.evaluate(`(async ({ url, token, group }) => {
    const client = new bs.ChatClient({ url, token });
    await client.connect();
    const { seq } = await client.send(group, "hi").stored;
    return [isSecureContext, seq];
  })(${JSON.stringify(given)})`) as [boolean, number];
  expect([secure, seq]).toEqual([false, 1]);
  await page.close();
});

test("a policy that forbids the socket leaves HTTP", async () => {
  const one = await server(OPEN);
  const port = await pages(CLIENT, { "content-security-policy": `connect-src ${one.origin}` });
  const { page } = await pageAt(`http://127.0.0.1:${port}/`);
  const given = { url: one.origin, token: one.token("alice") };
  const [ms, transport] = await page.evaluate(`(async (given) => {
    const begun = performance.now();
    const client = new bs.ChatClient(given);
    await client.connect();
    return [performance.now() - begun, client.connection.get().transport];
  })(${JSON.stringify(given)})`) as [number, string];
  expect(transport).toBe("http");
  expect(ms).toBeLessThan(15_000);
  await page.close();
});

test("a clock that is three hours ahead asks for no more tokens", async () => {
  const one = await server(OPEN);
  const port = await pages(`const right = Date.now.bind(Date); Date.now = () => right() + 3 * 3_600_000; ${CLIENT}`);
  const { page } = await pageAt(`http://127.0.0.1:${port}/`);
  const given = { url: one.origin, token: one.token("alice") };
  const asked = await page.evaluate(`(async ({ url, token }) => {
    let asked = 0;
    const client = new bs.ChatClient({ url, token: async () => (asked++, token) });
    await client.connect();
    await new Promise((later) => setTimeout(later, 6_000));
    return asked;
  })(${JSON.stringify(given)})`);
  expect(asked).toBe(1);
  await page.close();
});

test("blocked HTTP is said by every view, with what to do", async () => {
  const one = await server(OPEN);
  const [group, port] = [await one.group("alice", ["bob"]), await pages(CLIENT)];
  const { page } = await pageAt(`http://127.0.0.1:${port}/`);
  const given = { url: one.origin, token: one.token("alice"), group };
  const [state, said, listed] = await page.evaluate(`(async ({ url, token, group }) => {
    const traced = (to, init) => fetch(to, { ...init, headers: { ...init.headers, "x-traced": "1" } });
    const client = new bs.ChatClient({ url, token, fetch: traced });
    await client.connect();
    const view = client.open(group);
    const has = () => view.state.get().error && client.conversations.error.get();
    while (!has()) await new Promise((next) => setTimeout(next, 50));
    return [client.connection.get().state, view.state.get().error.message, client.conversations.error.get().message];
  })(${JSON.stringify(given)})`) as [string, string, string];
  expect(state).toBe("connected");
  for (const text of [said, listed]) expect(text).toContain("server.cors_headers");
  await page.close();
});

test("the network comes back: an own message is stored within seconds", async () => {
  const one = await server(OPEN);
  const line = await network(one.port);
  const [group, port] = [await one.group("alice", ["bob"]), await pages(CLIENT)];
  const { page } = await pageAt(`http://127.0.0.1:${port}/`);
  const given = { url: line.origin, token: one.token("alice"), group };
  await page.evaluate(`(async ({ url, token, group }) => {
    window.client = new bs.ChatClient({ url, token });
    await client.connect();
    window.view = client.open(group);
    await view.ready;
  })(${JSON.stringify(given)})`);
  line.drop();
  await one.api("bob", "POST", `/conversations/${group}/messages`, { content: "news" });
  const ms = await page.evaluate(`(async () => {
    const begun = performance.now();
    dispatchEvent(new Event("online"));
    await view.send("mine").stored;
    while (!view.state.get().messages.some(({ content }) => content === "news")) await new Promise((next) => setTimeout(next, 20));
    return performance.now() - begun;
  })()`) as number;
  expect(ms).toBeLessThan(12_000);
  await page.close();
});

test("tabs share an outbox: what a closed one was sending goes out from the other, once", async () => {
  const one = await server(OPEN);
  const [group, port] = [await one.group("alice", ["bob"]), await pages(CLIENT)];
  const context = await (await browser()).newContext();
  const tabs = await Promise.all([context.newPage(), context.newPage()]);
  const given = { url: one.origin, token: one.token("alice"), group };
  for (const tab of tabs) {
    await tab.goto(`http://127.0.0.1:${port}/`);
    await tab.evaluate(`(async ({ url, token }) => {
      window.reachable = true;
      const fetched = (...request) => (reachable ? fetch(...request) : Promise.reject(new TypeError("no network")));
      window.client = new bs.ChatClient({ url, token, storage: localStorage, WebSocket: null, fetch: fetched });
      await client.connect();
      reachable = false;
    })(${JSON.stringify(given)})`);
  }
  await tabs[0]!.evaluate(`client.send(${JSON.stringify(group)}, "from the closed tab")`);
  await tabs[1]!.evaluate(`client.send(${JSON.stringify(group)}, "from the other tab")`);
  await tabs[0]!.close();
  await tabs[1]!.waitForFunction("client.unsent === 2");
  await tabs[1]!.evaluate("reachable = true");
  await tabs[1]!.waitForFunction("client.unsent === 0", undefined, { timeout: 40_000 });
  const { messages } = await one.api<{ messages: { content: string }[] }>("bob", "GET", `/conversations/${group}/messages`);
  expect(messages.map(({ content }) => content).sort()).toEqual(["from the closed tab", "from the other tab"]);
  expect(await tabs[1]!.evaluate("Object.keys(localStorage)")).toEqual(["backscroll.user"]);
  await context.close();
});

const REACT = `
  import * as React from "react";
  import { createRoot } from "react-dom/client";
  import { ChatClient } from "@backscroll/client";
  import { ChatProvider, useBackscroll, useChat } from "@backscroll/client/react";
  const h = React.createElement;
  const Room = ({ id }) => { const { status, connectionState } = useChat(id); return h("p", null, status + " " + connectionState); };
  function Hook({ url, token, id }) { return h(ChatProvider, { client: useBackscroll({ url, token }) }, h(Room, { id })); }
  function Own({ url, token, id }) {
    const [client] = React.useState(() => new ChatClient({ url, token }));
    React.useEffect(() => { client.connect().catch(() => {}); return () => void client.close(); }, [client]);
    return h(ChatProvider, { client }, h(Room, { id }));
  }
  window.start = (props, hook, strict) => createRoot(document.body).render(h(strict ? React.StrictMode : React.Fragment, null, h(hook ? Hook : Own, props)));`;

test("React, with effects that run twice", async () => {
  const one = await server(OPEN);
  const [id, port] = [await one.group("alice", ["bob"]), await pages(REACT)];
  const props = JSON.stringify({ url: one.origin, token: one.token("alice"), id });
  for (const [hook, strict] of [[true, true], [true, false], [false, true]]) {
    const { page, errors } = await pageAt(`http://127.0.0.1:${port}/`);
    await page.evaluate(`start(${props}, ${hook}, ${strict})`);
    await page.waitForFunction(`document.body.innerText === "ready connected"`, undefined, { timeout: 10_000 });
    expect(errors).toEqual([]);
    await page.close();
  }
});
