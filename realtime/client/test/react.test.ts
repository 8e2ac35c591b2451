// @vitest-environment happy-dom
import { act, createElement, StrictMode } from "react";
import { createRoot, type Root } from "react-dom/client";
import { afterEach, expect, test } from "vitest";
import { ChatProvider, useChat, useConversations, type Chat } from "../src/react.js";
import type { ChatClient } from "../src/index.js";
import { commands, connected, pass, useFakeTime } from "./setup.js";

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
  expect(chat).toMatchObject({ status: "ready", connectionState: "connected", quality: "good" });
  await act(async () => void chat!.sendMessage("hello"));
  expect(page.textContent).toBe("on: 1 2 hello ");
  expect(chat!.messages[2]?.state).toBe("sending");
  await passed(200);
  expect(chat!.messages[2]?.state).toBe("sent");
  hub.store.send("bob", "r", { content: "answer" });
  hub.of("alice")[0]!.emit("user_typing", { conversationId: "r", userId: "carol", isTyping: true });
  await passed(200);
  expect(page.textContent).toBe("on: 1 2 hello answer carol");
  chat!.markRead();
  await passed(1_000);
  expect(hub.store.rooms.get("r")!.members.get("alice")?.readSeq).toBe(4);
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
