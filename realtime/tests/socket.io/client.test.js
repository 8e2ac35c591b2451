// The client library of Socket.IO, as the front-ends that this server was made for use it. Started by `node.rs`, which
// gives the server's address and a conversation of alice, bob and carol; a token is its bearer's name.

import assert from "node:assert/strict";
import { once } from "node:events";
import { after, test } from "node:test";
import { io } from "socket.io-client";

const url = process.env.SERVER_URL;
const conversationId = process.env.CONVERSATION;
const open = [];

function connect(namespace, token, options = {}) {
  const socket = io(`${url}${namespace}`, {
    auth: { token },
    forceNew: true,
    ...options,
  });
  open.push(socket);
  return socket;
}

after(() => open.forEach((socket) => socket.close()));

/** The next event of that name that fits. */
function heard(socket, event, fits = () => true) {
  return new Promise((resolve, reject) => {
    const late = setTimeout(
      () => reject(new Error(`no ${event} came`)),
      10_000,
    );
    const listener = (data) => {
      if (fits(data)) {
        clearTimeout(late);
        socket.off(event, listener);
        resolve(data);
      }
    };
    socket.on(event, listener);
  });
}

test("the default transports connect by polling and are upgraded", async () => {
  const socket = connect("/chat", "alice");
  const hello = heard(socket, "hello");
  await once(socket, "connect");
  assert.equal((await hello).userId, "alice");
  const engine = socket.io.engine;
  if (engine.transport.name === "polling") {
    await once(engine, "upgrade");
  }
  assert.equal(engine.transport.name, "websocket");
  assert.deepEqual(await socket.emitWithAck("ping", {}), {});
  assert.ok(!socket.recovered, "resuming is the protocol's own");
});

for (const transports of [["polling"], ["websocket"]]) {
  test(`the documented events, over ${transports}`, async () => {
    const alice = connect("/chat", "alice", { transports });
    const bob = connect("/chat", "bob", { transports });

    const joined = heard(alice, "joined_conversation");
    alice.emit("join_conversation", { conversationId });
    assert.equal((await joined).conversationId, conversationId);
    bob.emit("join_conversation", { conversationId });
    await heard(bob, "joined_conversation");

    const told = heard(bob, "new_message", (data) => data.message.content === "Hello from console!");
    alice.emit("send_message", {
      conversationId,
      content: "Hello from console!",
    });
    const { message } = await told;
    assert.equal(message.senderId, "alice");
    assert.equal(message.messageType, "text");

    const typing = heard(bob, "user_typing");
    alice.emit("typing_start", { conversationId });
    assert.deepEqual(await typing, { conversationId, userId: "alice", isTyping: true });
    const stopped = heard(bob, "user_typing");
    alice.emit("typing_stop", { conversationId });
    assert.equal((await stopped).isTyping, false);

    const read = heard(alice, "messages_read", (data) => data.messageIds.includes(message.id));
    bob.emit("mark_read", { conversationId, messageIds: [message.id] });
    const receipt = await read;
    assert.equal(receipt.conversationId, conversationId);
    assert.equal(receipt.readBy, "bob");

    await alice.emitWithAck("presence_subscribe", { userIds: ["carol"] });
    const online = heard(alice, "user_online");
    const carol = connect("/chat", "carol", { transports });
    assert.equal((await online).userId, "carol");
    const offline = heard(alice, "user_offline");
    await carol.emitWithAck("presence_update", { status: "offline" });
    assert.equal((await offline).userId, "carol");

    const error = heard(alice, "error");
    alice.emit("join_conversation", { conversationId: "your-conversation-id" });
    assert.equal(typeof (await error).message, "string");

    assert.deepEqual(await bob.emitWithAck("leave_conversation", { conversationId }), {});
    for (const socket of [alice, bob, carol]) {
      socket.close();
    }
  });
}

test("acknowledgements carry data or an error", async () => {
  const socket = connect("/chat", "alice");
  const stored = await socket.emitWithAck("send_message", { conversationId, content: "with a callback" });
  assert.equal(stored.content, "with a callback");
  const edited = await socket.emitWithAck("edit_message", { messageId: stored.id, content: "edited" });
  assert.equal(edited.content, "edited");
  const reacted = await socket.emitWithAck("react", { messageId: stored.id, emoji: "👍" });
  assert.deepEqual(reacted.reactions, { "👍": ["alice"] });
  const deleted = await socket.emitWithAck("delete_message", { messageId: stored.id });
  assert.equal(deleted.content, "");
  const { error } = await socket.emitWithAck("join_conversation", {});
  assert.equal(error.code, "invalid_request");
  const binary = await socket.emitWithAck("ping", Buffer.from([1, 2, 3]));
  assert.equal(binary.error.code, "invalid_request");
});

test("a refusal is a connect_error with data", async () => {
  const expired = connect("/chat", "expired");
  const [error] = await once(expired, "connect_error");
  assert.deepEqual(error.data, { code: "token_expired" });
  assert.equal(expired.active, false, "the library does not try again");
  const nobody = connect("/chat", undefined);
  const [unauthenticated] = await once(nobody, "connect_error");
  assert.equal(unauthenticated.data.code, "unauthenticated");
  // With a better token the same socket connects.
  expired.auth = { token: "alice" };
  expired.connect();
  await once(expired, "connect");
  const nowhere = connect("/nowhere", "alice");
  const [invalid] = await once(nowhere, "connect_error");
  assert.equal(invalid.message, "Invalid namespace");
});

test("who was cut off comes back and resumes", async () => {
  const known = { conversations: {} };
  const bob = connect("/chat", "bob", {
    auth: (give) => give({ token: "bob", resume: known.cursor && known }),
    reconnectionDelay: 10,
  });
  const hello = await heard(bob, "hello");
  known.cursor = hello.cursor;
  const { rev } = await bob.emitWithAck("join_conversation", { conversationId });
  known.conversations[conversationId] = rev;
  const reason = heard(bob, "disconnect");
  const error = heard(bob, "error", (data) => data.code === "rate_limited" && !data.retryAfterMs);
  const again = heard(bob, "hello");
  const missed = heard(bob, "new_message", (data) => data.message.content === "meanwhile");
  for (let n = 0; n < 400; n++) {
    bob.emit("ping", {}, () => {});
  }
  await error;
  assert.equal(await reason, "transport close");
  const alice = connect("/chat", "alice");
  await alice.emitWithAck("send_message", { conversationId, content: "meanwhile" });
  assert.equal((await again).recovered, true);
  await missed;
});

test("who may not come back stays away", async () => {
  const alice = connect("/chat", "alice");
  await once(alice, "connect");
  const reason = heard(alice, "disconnect");
  const { error } = await alice.emitWithAck("refresh_token", { token: "bob" });
  assert.equal(error.code, "token_invalid");
  assert.equal(await reason, "io server disconnect");
  assert.equal(alice.active, false);
});

test("an older front-end connects unchanged", async () => {
  const manager = { messaging: connect("/messaging", "dave"), realtime: connect("/realtime", "erin") };
  await Promise.all(Object.values(manager).map((socket) => once(socket, "connect")));
  await new Promise((resolve) => setTimeout(resolve, 300));

  const received = heard(manager.realtime, "message:new");
  const sent = heard(manager.messaging, "MESSAGE_SENT");
  manager.messaging.emit("NEW_MESSAGE", { content: "hello", receiverId: "erin" });
  const message = await received;
  assert.equal(message.content, "hello");
  assert.equal(message.senderId, "dave");
  assert.equal((await sent).messageId, message.id);

  const confirmed = heard(manager.realtime, "message:sent");
  const answered = heard(manager.messaging, "NEW_MESSAGE");
  manager.realtime.emit("message:new", { content: "hi", receiverId: "dave" });
  assert.equal((await answered).senderId, "erin");
  await confirmed;

  const typing = heard(manager.realtime, "USER_TYPING");
  manager.messaging.emit("TYPING_START", { receiverId: "erin" });
  assert.equal((await typing).isTyping, true);
  const stopped = heard(manager.realtime, "USER_TYPING");
  manager.messaging.emit("TYPING_STOP", { receiverId: "erin" });
  assert.equal((await stopped).isTyping, false);

  // All namespaces of one page share a connection.
  const notifications = manager.messaging.io.socket("/notifications", { auth: { token: "dave" } });
  open.push(notifications);
  notifications.connect();
  const count = heard(notifications, "notification:unread_count");
  notifications.emit("notification:get_unread_count", {});
  assert.equal(typeof (await count).total, "number");
  const mark = await notifications.emitWithAck("notification:mark_read", { notificationId: "7" });
  assert.equal(mark.error.code, "not_found");
});
