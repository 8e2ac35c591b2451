// The front-ends that this server was made for, with their own code where it is known. What they call (their connection
// manager, their state) is made here as their code uses it. Started by `node.rs`, which gives the server's address and a
// conversation of alice, bob and carol; a token is its bearer's name.

import assert from "node:assert/strict";
import { once } from "node:events";
import { after, test } from "node:test";
import { io } from "socket.io-client";
import WebSocket from "ws";

const url = process.env.SERVER_URL;
const conversationId = process.env.CONVERSATION;
const open = [];

after(() => open.forEach((socket) => socket.close()));

/** Waits until `value` gives something. */
async function eventually(what, value) {
  const late = Date.now() + 10_000;
  for (;;) {
    const found = value();
    if (found) return found;
    assert.ok(Date.now() < late, `${what} does not come`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

/** A list of state, and the function that sets it, as React's `useState` gives them. */
function useState(initial) {
  const state = { now: initial };
  return [state, (next) => (state.now = typeof next === "function" ? next(state.now) : next)];
}

test("rooms: the browser console's code", async () => {
  const log = [];
  const console = { log: (...said) => log.push(said) };
  const heard = (start, fits = () => true) =>
    eventually(start, () => log.find(([text, data]) => text === start && fits(data)));

  const token = "alice";
  // ---- from here as it is, but for the address and the id ----
  // Connect to WebSocket
  const socket = io(`${url}/chat`, {
    auth: { token }
  });

  socket.on('connect', () => {
    console.log('Connected to WebSocket');
  });

  socket.on('disconnect', () => {
    console.log('Disconnected from WebSocket');
  });

  // Join a conversation
  socket.emit('join_conversation', { conversationId });

  // Send a message
  socket.emit('send_message', {
    conversationId,
    content: 'Hello from console!',
  });

  // Listen for new messages
  socket.on('new_message', (data) => {
    console.log('New message:', data);
  });

  // Start typing
  socket.emit('typing_start', { conversationId });

  // Stop typing
  socket.emit('typing_stop', { conversationId });

  // Listen for typing
  socket.on('user_typing', (data) => {
    console.log('User typing:', data);
  });

  socket.on('user_online', (data) => {
    console.log('User online:', data.userId);
  });

  socket.on('user_offline', (data) => {
    console.log('User offline:', data.userId);
  });
  // ---- to here ----
  open.push(socket);
  socket.on('joined_conversation', (data) => console.log('Joined:', data));
  socket.on('messages_read', (data) => console.log('Read:', data));
  socket.on('error', (data) => console.log('Error:', data));

  await heard('Connected to WebSocket');
  const [, joined] = await heard('Joined:');
  assert.equal(joined.conversationId, conversationId);
  const [, told] = await heard('New message:');
  assert.equal(told.conversationId, conversationId);
  assert.equal(told.message.content, 'Hello from console!');
  assert.equal(told.message.senderId, 'alice');

  const bob = io(`${url}/chat`, { auth: { token: 'bob' } });
  open.push(bob);
  await heard('User online:', (user) => user === 'bob');
  bob.emit('join_conversation', { conversationId });
  bob.emit('typing_start', { conversationId });
  const [, typing] = await heard('User typing:');
  assert.deepEqual(typing, { conversationId, userId: 'bob', isTyping: true });
  bob.emit('typing_stop', { conversationId });
  await heard('User typing:', (data) => data.isTyping === false);
  bob.emit('mark_read', { conversationId, messageIds: [told.message.id] });
  const [, read] = await heard('Read:');
  assert.equal(read.conversationId, conversationId);
  assert.ok(read.messageIds.includes(told.message.id));
  assert.equal(read.readBy, 'bob');
  bob.emit('leave_conversation', { conversationId });
  bob.emit('presence_update', { status: 'offline' });
  await heard('User offline:', (user) => user === 'bob');
  socket.emit('join_conversation', { conversationId: 'your-conversation-id' });
  const [, error] = await heard('Error:');
  assert.equal(typeof error.message, 'string');
  socket.close();
  await heard('Disconnected from WebSocket');
});

/** The connection manager of the front-end with namespaces, as its components use it. */
class ProductionWebSocketManager {
  sockets = {};
  statusListeners = new Set();

  async connect(userId, token) {
    for (const namespace of ["messaging", "realtime", "notifications"]) {
      const socket = io(`${url}/${namespace}`, { auth: { token }, forceNew: true });
      this.sockets[namespace] = socket;
      open.push(socket);
    }
    await Promise.all(Object.values(this.sockets).map((socket) => once(socket, "connect")));
    this.statusListeners.forEach((listener) => listener("connected"));
  }

  on(namespace, event, handler) {
    this.sockets[namespace].on(event, handler);
  }

  off(namespace, event) {
    this.sockets[namespace].off(event);
  }

  emit(namespace, event, data) {
    this.sockets[namespace].emit(event, data);
  }

  addStatusListener(listener) {
    this.statusListeners.add(listener);
  }
}

test("namespaces: the chat page's code", async () => {
  const heard = [];
  const note = (name) => (data) => heard.push([name, data]);
  const [handleNewMessage, handleSent, handleTyping, handleRead] = ["new", "sent", "typing", "read"].map(note);
  const productionWebSocketManager = new ProductionWebSocketManager();
  const selectedUser = { id: "erin" };
  await productionWebSocketManager.connect("dave", "dave");
  // ---- from here as it is ----
  productionWebSocketManager.on('messaging', 'NEW_MESSAGE', handleNewMessage);
  productionWebSocketManager.on('messaging', 'MESSAGE_SENT', handleSent);
  productionWebSocketManager.on('messaging', 'USER_TYPING', handleTyping);
  productionWebSocketManager.on('messaging', 'MESSAGE_READ_UPDATE', handleRead);

  const sendMessage = (content) => {
    productionWebSocketManager.emit('messaging', 'NEW_MESSAGE', {
      content,
      receiverId: selectedUser.id,
    });
  };

  const sendTypingIndicator = (isTyping) => {
    productionWebSocketManager.emit('messaging', isTyping ? 'TYPING_START' : 'TYPING_STOP', {
      receiverId: selectedUser.id,
    });
  };
  // ---- to here ----
  const of = (name, fits = () => true) =>
    eventually(name, () => heard.find(([other, data]) => other === name && fits(data))?.[1]);

  const erin = new ProductionWebSocketManager();
  await erin.connect("erin", "erin");
  const dashboard = [];
  erin.on('realtime', 'message:new', (data) => dashboard.push(data));
  const pages = [];
  for (const event of ["NEW_MESSAGE", "USER_TYPING"]) {
    erin.on('messaging', event, (data) => pages.push([event, data]));
  }

  sendMessage("hello");
  const sent = await of("sent");
  const received = await eventually("message:new", () => dashboard[0]);
  assert.equal(received.id, sent.messageId);
  assert.equal(received.content, "hello");
  assert.equal(received.senderId, "dave");
  assert.equal(received.receiverId, "erin");
  await eventually("NEW_MESSAGE", () => pages.find(([event, data]) => event === "NEW_MESSAGE" && data.id === sent.messageId));
  sendTypingIndicator(true);
  await eventually("typing", () => pages.find(([event, data]) => event === "USER_TYPING" && data.isTyping));
  sendTypingIndicator(false);
  await eventually("no typing", () => pages.find(([event, data]) => event === "USER_TYPING" && !data.isTyping));

  erin.emit('messaging', 'MESSAGE_READ_UPDATE', { receiverId: "dave" });
  const read = await of("read", (data) => data.readBy === "erin");
  assert.ok(read.messageIds.includes(sent.messageId));
  erin.emit('messaging', 'NEW_MESSAGE', { content: "hi", receiverId: "dave", senderId: "erin" });
  assert.equal((await of("new")).senderId, "erin");
  erin.emit('messaging', 'TYPING_START', { receiverId: "dave" });
  assert.equal((await of("typing")).userId, "erin");
});

test("namespaces: the notification center's code", async () => {
  const [notifications, setNotifications] = useState([]);
  const [unreadCount, setUnreadCount] = useState(0);
  const shown = [];
  class Notification {
    static permission = 'granted';

    constructor(title, options) {
      shown.push([title, options.body]);
    }
  }
  const productionWebSocketManager = new ProductionWebSocketManager();
  await productionWebSocketManager.connect("frank", "frank"); // who is sent notifications
  // ---- from here as it is, but for the types ----
  // Listen to new notifications
  const handleNewNotification = (data) => {
    setNotifications(prev => [data, ...prev]);
    setUnreadCount(prev => prev + 1);

    // Show browser notification
    if (Notification.permission === 'granted') {
      new Notification(data.title, {
        body: data.message,
        icon: '/logo.png',
      });
    }
  };

  productionWebSocketManager.on(
    'notifications',
    'notification:new',
    handleNewNotification,
  );

  // Get initial unread count
  productionWebSocketManager.emit(
    'notifications',
    'notification:get_unread_count',
    {},
  );

  const handleMarkAsRead = (notificationId) => {
    productionWebSocketManager.emit(
      'notifications',
      'notification:mark_read',
      { notificationId },
    );

    setNotifications(prev =>
      prev.map(n => n.id === notificationId ? { ...n, read: true } : n)
    );
    setUnreadCount(prev => Math.max(0, prev - 1));
  };
  // ---- to here ----
  const counts = [];
  productionWebSocketManager.on('notifications', 'notification:unread_count', ({ total }) => counts.push(total));
  const first = await eventually("notification:new", () => notifications.now.at(-1));
  assert.deepEqual([first.title, first.message, first.read], ["an offer", "about an offer", false]);
  assert.deepEqual(shown[0], ["an offer", "about an offer"]);
  await eventually("a count", () => counts.length > 0);
  handleMarkAsRead(first.id);
  const kept = await productionWebSocketManager.sockets.notifications.emitWithAck("notification:mark_read", { notificationId: first.id });
  assert.ok(kept.readAt);
});

/** The service of the front-end with a plain WebSocket, as its context uses it. */
class ChatService {
  handlers = new Map();

  initializeWebSocket(token) {
    this.ws = new WebSocket(`${url.replace(/^http/, "ws")}/ws/chat?token=${token}`);
    open.push(this.ws);
    this.ws.onmessage = ({ data: text }) => {
      const { type, data } = JSON.parse(text);
      this.handlers.get(type)?.forEach((handler) => handler(data));
    };
  }

  on(name, handler) {
    if (!this.handlers.has(name)) this.handlers.set(name, new Set());
    this.handlers.get(name).add(handler);
  }

  off(name, handler) {
    this.handlers.get(name)?.delete(handler);
  }
}

test("plain: the chat context's code", async () => {
  const [messages, setMessages] = useState([]);
  const typing = [];
  const effects = [];
  const useEffect = (effect) => effects.push(effect());
  const chatService = new ChatService();
  const user = { token: "carol" };
  // ---- from here as it is, but for the types and what is done with `typing` ----
  // Add WebSocket initialization
  useEffect(() => {
    if (user && user.token) {
      chatService.initializeWebSocket(user.token);
    }
  }, [user]);

  // Add WebSocket event listeners
  useEffect(() => {
    const handleNewMessage = (message) => {
      setMessages(prev => [...prev, message]);
    };

    const handleTyping = (data) => {
      typing.push(data);
    };

    chatService.on('new_message', handleNewMessage);
    chatService.on('typing', handleTyping);

    return () => {
      chatService.off('new_message', handleNewMessage);
      chatService.off('typing', handleTyping);
    };
  }, []);
  // ---- to here ----
  let hello;
  chatService.on("hello", (data) => (hello = data));
  await eventually("hello", () => hello);
  await new Promise((resolve) => setTimeout(resolve, 300)); // it opens its conversations

  const bob = io(`${url}/chat`, { auth: { token: "bob" }, forceNew: true });
  open.push(bob);
  await bob.emitWithAck("join_conversation", { conversationId });
  const sent = await bob.emitWithAck("send_message", { conversationId, content: "to the plain one" });
  await eventually("new_message", () => messages.now.find((message) => message.id === sent.id));
  const { content, senderId, createdAt } = messages.now.find((message) => message.id === sent.id);
  assert.deepEqual({ content, senderId, createdAt }, { content: "to the plain one", senderId: "bob", createdAt: sent.createdAt });
  bob.emit("typing_start", { conversationId });
  assert.equal((await eventually("typing", () => typing[0])).isTyping, true);

  const told = once(bob, "user_typing");
  chatService.ws.send(JSON.stringify({ type: "typing", conversationId }));
  assert.deepEqual((await told)[0], { conversationId, userId: "carol", isTyping: true });

  const [cleanup] = effects.filter(Boolean);
  cleanup();
  const before = messages.now.length;
  await bob.emitWithAck("send_message", { conversationId, content: "after" });
  await new Promise((resolve) => setTimeout(resolve, 300));
  assert.equal(messages.now.length, before);
});
