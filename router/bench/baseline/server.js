// A chat server of the usual kind: Express, Socket.IO with the Redis adapter, MySQL. One transaction for each message.
//
// It is what Backscroll is measured beside, so it is written to do well: WebSocket only (no upgrade from long polling, no
// sticky sessions), no compression, a pool, prepared statements, an index for each query, the native frame masking of
// `bufferutil`, and no work that the tasks do not ask for. Several of these processes share the load through Redis.
//
// It reads: PORT, MYSQL_URL, REDIS_URL (none: no adapter), JWT_SECRET.

import { createServer } from 'node:http';
import { createAdapter } from '@socket.io/redis-adapter';
import express from 'express';
import jwt from 'jsonwebtoken';
import mysql from 'mysql2/promise';
import { createClient } from 'redis';
import { Server } from 'socket.io';

const { PORT, MYSQL_URL, REDIS_URL, JWT_SECRET } = process.env;
const POOL_SIZE = 20;
const PREVIEW_CHARACTERS = 100;
const MAX_CONTENT_CHARACTERS = 5000;

const pool = mysql.createPool({ uri: MYSQL_URL, connectionLimit: POOL_SIZE, supportBigNumbers: true });

const app = express();
app.get('/health', async (_request, response) => {
  await pool.query('SELECT 1');
  response.json({ status: 'ok' });
});

const server = createServer(app);
const io = new Server(server, { transports: ['websocket'], serveClient: false });
if (REDIS_URL) {
  const publisher = createClient({ url: REDIS_URL });
  const subscriber = publisher.duplicate();
  for (const client of [publisher, subscriber]) {
    client.on('error', (error) => console.error('redis:', error.message));
  }
  await Promise.all([publisher.connect(), subscriber.connect()]);
  io.adapter(createAdapter(publisher, subscriber));
}

class Refusal extends Error {
  constructor(code, message) {
    super(message);
    this.code = code;
  }
}

const room = (conversationId) => `conversation:${conversationId}`;

const IS_MEMBER = 'SELECT last_read_message_id FROM conversation_members WHERE conversation_id = ? AND user_id = ?';
const INSERT_MESSAGE = `INSERT INTO chat_messages (conversation_id, sender_id, client_msg_id, content, message_type, created_at)
  VALUES (?, ?, ?, ?, ?, ?)`;
const UPDATE_LAST_MESSAGE = `UPDATE conversations
  SET last_message_id = ?, last_message_preview = ?, last_message_at = ? WHERE id = ?`;
const MARK_READ = `UPDATE conversation_members SET last_read_message_id = GREATEST(last_read_message_id, ?)
  WHERE conversation_id = ? AND user_id = ?`;

async function requireMember(connection, conversationId, userId) {
  const [rows] = await connection.execute(IS_MEMBER, [conversationId, userId]);
  if (rows.length === 0) {
    throw new Refusal('forbidden', 'not a member of this conversation');
  }
}

async function storeMessage(userId, { conversationId, content, messageType = 'text', clientMsgId = null }) {
  if (typeof content !== 'string' || content.length === 0 || content.length > MAX_CONTENT_CHARACTERS) {
    throw new Refusal('invalid', 'content: 1 to 5000 characters');
  }
  const createdAt = new Date();
  const connection = await pool.getConnection();
  try {
    await connection.beginTransaction();
    await requireMember(connection, conversationId, userId);
    const [inserted] = await connection.execute(INSERT_MESSAGE, [
      conversationId, userId, clientMsgId, content, messageType, createdAt,
    ]);
    const preview = content.slice(0, PREVIEW_CHARACTERS);
    await connection.execute(UPDATE_LAST_MESSAGE, [inserted.insertId, preview, createdAt, conversationId]);
    await connection.commit();
    return { id: inserted.insertId, conversationId, senderId: userId, clientMsgId, content, messageType, createdAt };
  } catch (error) {
    await connection.rollback();
    throw error;
  } finally {
    connection.release();
  }
}

const chat = io.of('/chat');

chat.use((socket, next) => {
  try {
    socket.data.userId = jwt.verify(socket.handshake.auth.token, JWT_SECRET, { algorithms: ['HS256'] }).sub;
    next();
  } catch {
    next(new Error('unauthorized'));
  }
});

const commands = {
  async join_conversation(socket, { conversationId }) {
    await requireMember(pool, conversationId, socket.data.userId);
    await socket.join(room(conversationId));
    return { conversationId };
  },
  async leave_conversation(socket, { conversationId }) {
    await socket.leave(room(conversationId));
    return {};
  },
  async send_message(socket, request) {
    const message = await storeMessage(socket.data.userId, request);
    chat.to(room(message.conversationId)).emit('new_message', { conversationId: message.conversationId, message });
    return message;
  },
  async typing_start(socket, { conversationId }) {
    return typing(socket, conversationId, true);
  },
  async typing_stop(socket, { conversationId }) {
    return typing(socket, conversationId, false);
  },
  async mark_read(socket, { conversationId, messageId }) {
    const { userId } = socket.data;
    await pool.execute(MARK_READ, [messageId, conversationId, userId]);
    socket.to(room(conversationId)).emit('messages_read', { conversationId, messageId, readBy: userId });
    return {};
  },
};

function typing(socket, conversationId, isTyping) {
  const { userId } = socket.data;
  if (socket.rooms.has(room(conversationId))) {
    socket.to(room(conversationId)).emit('user_typing', { conversationId, userId, isTyping });
  }
  return {};
}

chat.on('connection', (socket) => {
  for (const [name, command] of Object.entries(commands)) {
    socket.on(name, async (data, answer) => {
      try {
        const result = await command(socket, data);
        answer?.(result);
      } catch (error) {
        if (!(error instanceof Refusal)) {
          console.error(`${name}:`, error);
        }
        answer?.({ error: { code: error.code ?? 'internal', message: error.message } });
      }
    });
  }
});

server.listen(Number(PORT), '127.0.0.1', 4096);
process.on('SIGTERM', () => process.exit(0));
