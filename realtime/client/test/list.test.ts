import { expect, test } from "vitest";
import { ConversationListStore } from "../src/list.js";
import type { ListEntry, Message, SyncPage } from "../src/types.gen.js";
import { connected, pass, useFakeTime } from "./setup.js";

useFakeTime();

function entry(id: string, given: Partial<ListEntry> = {}): ListEntry {
  return {
    id,
    kind: "group",
    headSeq: 5,
    rev: 5,
    readSeq: 2,
    unreadCount: 3,
    unreadMentions: 0,
    memberCount: 2,
    members: [],
    lastActivityAt: "2026-01-01T00:00:00.000Z",
    pinned: false,
    muted: false,
    ...given,
  };
}

function page(entries: ListEntry[], cursor: string, hasMore = false): SyncPage {
  const changes = entries.map((conversation) => ({ conversationId: conversation.id, conversation, messages: [], members: [], rev: conversation.rev }));
  return { changes, cursor, hasMore };
}

const ids = (list: ConversationListStore) => list.entries.get().map(({ id }) => id);

test("pinned first, then the latest", () => {
  const list = new ConversationListStore(10);
  list.applySync(page([entry("old"), entry("new", { lastActivityAt: "2026-02-01T00:00:00.000Z" }), entry("pinned", { pinned: true })], "3"), 0);
  expect(ids(list)).toEqual(["pinned", "new", "old"]);
  expect(list.unread.get()).toEqual({ total: 9, conversations: 3, mentions: 0 });
});

test("an entry goes neither back in rev nor in what was read", () => {
  const list = new ConversationListStore(10);
  list.applySync(page([entry("a")], "1"), 0);
  list.sawRead("a", 5);
  list.applyEvent(entry("a", { rev: 4, headSeq: 4 }), "2");
  expect(list.get("a")).toMatchObject({ headSeq: 5, readSeq: 5, unreadCount: 0 });
  list.applyEvent(entry("a", { rev: 7, headSeq: 7 }), "3");
  expect(list.get("a")).toMatchObject({ headSeq: 7, readSeq: 5, unreadCount: 2 });
});

test("an answer that an event has overtaken does not undo it", () => {
  const list = new ConversationListStore(10);
  list.applySync(page([entry("a")], "1"), 0);
  const askedAt = list.now;
  list.applyEvent(entry("a", { pinned: true }), "2");
  list.applySync(page([entry("a")], "1"), askedAt);
  expect(list.get("a")?.pinned).toBe(true);
});

test("the cursor stays while something before it is missing", () => {
  const list = new ConversationListStore(10);
  list.applyEvent(entry("a"), "7");
  expect(list.cursor).toBeUndefined();
  list.applySync(page([entry("b")], "3", true), 0);
  list.applyEvent(entry("a"), "8");
  expect(list.cursor).toBe("3");
  list.applySync(page([entry("c")], "8"), 0);
  list.applyEvent(entry("a"), "9");
  expect(list.cursor).toBe("9");
  list.distrust();
  list.applyEvent(entry("a"), "20");
  expect(list.cursor).toBe("9");
});

test("it is bounded, and what was left goes", () => {
  const list = new ConversationListStore(2);
  const at = (day: number) => ({ lastActivityAt: `2026-01-0${day}T00:00:00.000Z` });
  list.applySync(page([entry("a", at(1)), entry("b", at(2)), entry("c", at(3))], "1"), 0);
  expect(ids(list)).toEqual(["c", "b"]);
  list.applyEvent(entry("c", { ...at(3), removed: true, rev: 6 }), "2");
  expect(ids(list)).toEqual(["b"]);
});

test("a deleted newest message is marked at once, also where the server tells no entry", () => {
  const list = new ConversationListStore(2);
  list.applySync(page([entry("a", { headSeq: 3, rev: 5 })], "1"), 0);
  const last = () => list.get("a")?.lastMessage;
  const message = (changes: Partial<Message>): Message => ({
    id: "a-4",
    conversationId: "a",
    seq: 4,
    rev: 6,
    senderId: "bob",
    content: "secret",
    messageType: "text",
    attachments: [],
    reactions: {},
    metadata: {},
    createdAt: "2026-01-01T00:00:00.000Z",
    status: "sent",
    ...changes,
  });
  list.sawMessage(message({}));
  expect(last()).toMatchObject({ seq: 4, content: "secret" });
  list.sawMessage(message({ rev: 8, content: "", deletedAt: "2026-01-01T00:00:01.000Z" }));
  expect(last()).toMatchObject({ seq: 4, content: "", deleted: true });
  list.sawMessage(message({ rev: 7, content: "older" }));
  expect(last()).toMatchObject({ deleted: true });
});

test("it is live, also for conversations that are not open", async () => {
  const { client, hub, network } = await connected({}, 2);
  hub.store.room("other", ["alice", "bob"]);
  hub.store.send("bob", "other", { content: "hello" });
  await pass(100);
  expect(client.conversations.entries.get()).toMatchObject([
    { id: "other", unreadCount: 1, lastMessage: { content: "hello" } },
    { id: "r", unreadCount: 2 },
  ]);
  expect(client.conversations.unread.get()).toEqual({ total: 3, conversations: 2, mentions: 0 });
  const counting = client.unreadCount();
  await pass(100);
  expect(await counting).toEqual({ total: 3, conversations: 2, mentions: 0 });
  network.cut();
  hub.store.send("bob", "r", { content: "while away" });
  await pass(2_000);
  expect(ids(client.conversations)).toEqual(["r", "other"]);
  hub.store.mark("alice", "r", "messages_read"); // on another device
  await pass(100);
  expect(client.conversations.unread.get()).toEqual({ total: 1, conversations: 1, mentions: 0 });
});
