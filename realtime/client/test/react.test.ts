// @vitest-environment happy-dom
import { act, createElement, StrictMode, useEffect } from "react";
import { createRoot, type Root } from "react-dom/client";
import { afterEach, expect, test } from "vitest";
import { ChatProvider, useBackscroll, useChat, useConversations, type Chat } from "../src/react.js";
import type { ChatClient, ChatClientOptions } from "../src/index.js";
import { tokenOf } from "./server/hub.js";
import type { Network } from "./server/network.js";
import { commands, connected, pass, setup, useFakeTime } from "./setup.js";

useFakeTime();
(globalThis as { IS_REACT_ACT_ENVIRONMENT?: boolean }).IS_REACT_ACT_ENVIRONMENT = true;

let root: Root | undefined;
afterEach(() => act(() => root?.unmount()));

const passed = (ms: number) => act(() => pass(ms));

async function render(element: ReturnType<typeof createElement>): Promise<HTMLElement> {
  const container = document.createElement("div");
  root = createRoot(container);
  await act(async () => root!.render(element));
  return container;
}

function Room({ id, client, seen }: { id: string; client?: ChatClient; seen: (chat: Chat) => void }) {
  const chat = client ? useChat(client, id) : useChat(id);
  seen(chat);
  const { messages, isConnected, typingUsers } = chat;
  return createElement("p", null, `${isConnected ? "on" : "off"}: ${messages.map(({ content }) => content).join(" ")} ${typingUsers.join()}`);
}

test("shows a conversation live and sends", async () => {
  const { client, hub, view, network } = await connected({}, 2);
  view.close();
  let chat: Chat | undefined;
  const room = createElement(Room, { id: "r", seen: (now) => (chat = now) });
  const page = await render(createElement(StrictMode, null, createElement(ChatProvider, { client }, room)));
  await passed(200);
  expect(page.textContent).toBe("on: 1 2 ");
  expect(chat).toMatchObject({ status: "ready", connectionState: "connected", quality: "excellent" });
  await act(async () => void chat!.sendMessage("hello"));
  expect(page.textContent).toBe("on: 1 2 hello ");
  expect(chat!.messages[2]).toMatchObject({ state: "sending", status: "sending", id: chat!.messages[2]!.clientMsgId });
  await passed(200);
  expect(chat!.messages[2]).toMatchObject({ state: "sent", status: "sent", id: "r-3" });
  hub.store.send("bob", "r", { content: "answer" });
  hub.of("alice")[0]!.emit("user_typing", { conversationId: "r", userId: "carol", isTyping: true });
  await passed(200);
  expect(page.textContent).toBe("on: 1 2 hello answer carol");
  expect([chat!.isUserTyping("carol"), chat!.isUserTyping("bob")]).toEqual([true, false]);
  expect(chat!.isUserOnline("bob")).toBe(false);
  hub.of("alice")[0]!.emit("user_online", { userId: "bob", status: "away" });
  await passed(200);
  expect(chat!.isUserOnline("bob")).toBe(true);
  chat!.markAsRead([chat!.messages[2]!.id, "r-1", "another-9", "r-x"]);
  await passed(1_000);
  expect(hub.store.rooms.get("r")!.members.get("alice")?.readSeq).toBe(3);
  chat!.markRead();
  await passed(1_000);
  expect(hub.store.rooms.get("r")!.members.get("alice")?.readSeq).toBe(4);
  chat!.startTyping();
  chat!.stopTyping();
  await passed(200);
  expect([commands(hub, "typing_start").length, commands(hub, "typing_stop").length]).toEqual([1, 1]);
  await act(async () => network.cut());
  expect(page.textContent).toMatch(/^off/);
  await passed(2_000);
  expect(page.textContent).toMatch(/^on/);
});

test("changes conversations, and gives them back", async () => {
  const { client, hub, view } = await connected({}, 1);
  view.close();
  hub.store.room("other", ["alice", "bob"]);
  hub.store.send("bob", "other", { content: "elsewhere" });
  const seen = () => undefined;
  const page = await render(createElement(Room, { id: "r", client, seen }));
  await passed(200);
  expect(page.textContent).toBe("on: 1 ");
  await act(async () => root!.render(createElement(Room, { id: "other", client, seen })));
  expect(page.textContent).toBe("on:  ");
  await passed(200);
  expect(page.textContent).toBe("on: elsewhere ");
  await act(async () => root!.unmount());
  await passed(100);
  expect(commands(hub, "leave_conversation").map((data) => (data as { conversationId: string }).conversationId)).toEqual(["r", "r", "other"]);
});

test("the list and what is unread", async () => {
  const { client, hub } = await connected({}, 1);
  function List() {
    const { conversations, unread } = useConversations();
    return createElement("p", null, `${unread.total} in ${conversations.map(({ id }) => id).join()}`);
  }
  const page = await render(createElement(ChatProvider, { client }, createElement(List)));
  expect(page.textContent).toBe("1 in r");
  hub.store.send("bob", "r", { content: "hello" });
  await passed(100);
  expect(page.textContent).toBe("2 in r");
});

test("says what is missing without a provider", async () => {
  const seen = () => undefined;
  await expect(render(createElement(Room, { id: "r", seen }))).rejects.toThrow("ChatProvider");
});

/** An application that makes its client with the hook. */
function App({ network, token, user, seen }: { network: Network; token: ChatClientOptions["token"]; user: string; seen: (client: ChatClient) => void }) {
  const client = useBackscroll({ url: "http://chat.example", token, WebSocket: network.WebSocket, fetch: network.fetch }, [user]);
  seen(client);
  return createElement(ChatProvider, { client }, createElement(Room, { id: "r", seen: () => undefined }));
}

test("`useBackscroll` connects while it is mounted, also when effects run twice", async () => {
  const { hub, network } = setup({}, 1);
  const clients = new Set<ChatClient>();
  const props = { network, token: tokenOf("alice"), user: "alice", seen: (client: ChatClient) => void clients.add(client) };
  const page = await render(createElement(StrictMode, null, createElement(App, props)));
  await passed(1_000);
  expect(page.textContent).toBe("on: 1 ");
  expect(hub.sessions.size).toBe(1);
  await act(async () => root!.render(createElement(StrictMode, null, createElement(App, { ...props, token: async () => tokenOf("bob"), user: "bob" }))));
  await passed(1_000);
  expect([...hub.sessions].map(({ user }) => user)).toEqual(["bob"]);
  await act(async () => root!.unmount());
  await passed(1_000);
  expect(hub.sessions.size).toBe(0);
});

test("`useBackscroll` goes on with another token of the same user", async () => {
  const { hub, network } = setup();
  const props = { network, token: tokenOf("alice"), user: "alice", seen: () => undefined };
  await render(createElement(App, props));
  await passed(1_000);
  await act(async () => root!.render(createElement(App, { ...props, token: tokenOf("alice", Date.now() + 7_200_000) })));
  await passed(1_000);
  expect(commands(hub, "refresh_token")).toHaveLength(1);
  expect(hub.logins).toBe(1);
});

test("a client that its application makes, connects and closes works when effects run twice", async () => {
  const { client } = setup({}, 1);
  function Own() {
    useEffect(() => {
      client.connect().catch(() => undefined);
      return () => void client.close();
    }, []);
    return createElement(ChatProvider, { client }, createElement(Room, { id: "r", seen: () => undefined }));
  }
  const page = await render(createElement(StrictMode, null, createElement(Own)));
  await passed(1_000);
  expect(page.textContent).toBe("on: 1 ");
});

test("a conversation that cannot be opened is a state, not an error of the page", async () => {
  const { client, view } = await connected({}, 1);
  view.close();
  for (let n = 0; n < 100; n++) client.open(`other-${n}`);
  let chat: Chat | undefined;
  const room = createElement(Room, { id: "r", client, seen: (now) => (chat = now) });
  await render(room);
  expect(chat).toMatchObject({ status: "failed", error: { code: "limit_reached" } });
});
