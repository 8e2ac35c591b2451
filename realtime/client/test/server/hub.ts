/**
 * The protocol over the store: WebSocket sessions and REST, with faults to order.
 *
 * It does what PROTOCOL.md says, also while it misbehaves: what it loses it finds out and tells, as a server does.
 */
import type { CommandName } from "../../src/protocol.js";
import type { NewMessage, Resume, SyncRequest } from "../../src/types.gen.js";
import { Refusal, Store } from "./store.js";

/** A connection as the hub sees it. */
export interface Link {
  send(text: string): void;
  close(code: number, reason: string): void;
}

/** What goes wrong; each is asked anew every time. */
export interface Faults {
  /** Lose this push; it is found out before the next, and sent late or told by `resync`. */
  losePush(): "no" | "late" | "resync" | "silently";
  duplicatePush(): boolean;
  /** Deliver a push later, in milliseconds; also those after it. */
  delayPush(): number;
  /** Delay an answer by this, in milliseconds; `lost`: never. */
  delayAnswer(command: string): number | "lost";
  /** Answer a command with this instead of doing it. */
  refuse(command: string): Refusal | undefined;
  /** Resume nothing, whatever is asked. */
  forget(): boolean;
}

export const NO_FAULTS: Faults = {
  losePush: () => "no",
  duplicatePush: () => false,
  delayPush: () => 0,
  delayAnswer: () => 0,
  refuse: () => undefined,
  forget: () => false,
};

export function tokenOf(user: string, expiresAt = Date.now() + 3_600_000, serial = 0): string {
  const claims = Buffer.from(JSON.stringify({ sub: user, exp: expiresAt / 1000, serial })).toString("base64url");
  return `e30.${claims}.signature`;
}

interface Claims {
  sub: string;
  exp: number;
}

export class Session {
  user = "";
  expiresAt = 0;
  readonly joined = new Set<string>();
  readonly watched = new Set<string>();
  readonly heard: { event: string; data: unknown }[] = [];
  private readonly lost = new Map<string, { event: string; data: unknown }[]>();
  open = true;
  private pushesAt = 0;

  constructor(
    readonly hub: Hub,
    readonly link: Link,
  ) {}

  emit(event: string, data: unknown): void {
    if (this.open) this.link.send(JSON.stringify({ event, data }));
  }

  /** A push of a conversation, which may get lost. */
  push(id: string, event: string, data: unknown): void {
    if (!this.joined.has(id)) return;
    const fate = this.hub.faults.losePush();
    if (fate === "silently") return;
    const lost = this.lost.get(id) ?? [];
    if (fate !== "no") {
      this.lost.set(id, [...lost, { event, data }]);
      setTimeout(() => this.findLost(id, fate), this.hub.findLostAfterMs);
      return;
    }
    this.findLost(id, "late");
    this.emitLater(event, data);
    if (this.hub.faults.duplicatePush()) this.emitLater(event, data);
  }

  /** In order among themselves, but answers may overtake them. */
  private emitLater(event: string, data: unknown): void {
    const now = Date.now();
    this.pushesAt = Math.max(this.pushesAt, now + this.hub.faults.delayPush());
    if (this.pushesAt === now) this.emit(event, data);
    else setTimeout(() => this.emit(event, data), this.pushesAt - now);
  }

  close(code: number, reason = ""): void {
    if (!this.open) return;
    this.gone();
    this.link.close(code, reason);
  }

  gone(): void {
    this.open = false;
    this.hub.sessions.delete(this);
  }

  receive(text: string): void {
    const { event, data, ack } = JSON.parse(text) as { event: string; data: never; ack?: number };
    if (!this.open) return;
    this.heard.push({ event, data });
    if (event === "authenticate") return this.hub.authenticate(this, data);
    let answer: object;
    try {
      const refusal = this.hub.faults.refuse(event);
      if (refusal) throw refusal;
      answer = { ack, data: this.hub.command(this, event as CommandName, data) };
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      answer = { ack, error: { code: error.code, message: error.code, retryAfterMs: error.retryAfterMs } };
    }
    if (ack === undefined) return;
    const delay = this.hub.faults.delayAnswer(event);
    if (delay === "lost") return;
    if (delay === 0) this.link.send(JSON.stringify(answer));
    else setTimeout(() => this.open && this.link.send(JSON.stringify(answer)), delay);
  }

  private findLost(id: string, how: "late" | "resync"): void {
    const lost = this.lost.get(id);
    this.lost.delete(id);
    if (!lost || !this.open || !this.joined.has(id)) return;
    if (how === "late") for (const { event, data } of lost) this.emitLater(event, data);
    else this.emit("resync", { conversations: [this.hub.store.head(this.user, id)], list: false });
  }
}

export interface RestRequest {
  method: string;
  path: string;
  query: URLSearchParams;
  body: unknown;
  token: string;
}

export class Hub {
  readonly store = new Store();
  readonly sessions = new Set<Session>();
  readonly requests: RestRequest[] = [];
  faults: Faults = NO_FAULTS;
  heartbeatIntervalMs = 25_000;
  commandsPerSecond = 1_000;
  /** How long it takes to notice that a push was lost, unless another follows. */
  findLostAfterMs = 50;
  /** The server's clock. */
  now = () => Date.now();
  /** Most events replayed for a conversation. */
  replayMost = 30;
  refused = new Map<string, number>();
  logins = 0;

  constructor() {
    this.store.onMessage = (id, { kind, message }) => this.pushAll(id, kind, { conversationId: id, message });
    this.store.onMark = (id, event, readBy, seq) => this.pushAll(id, event, { conversationId: id, seq, messageIds: [], readBy });
    this.store.onList = (user, conversation, cursor) => {
      for (const session of this.of(user)) session.emit("conversation_updated", { conversation, cursor });
    };
    this.store.onLeft = (id, user) => {
      for (const session of this.of(user)) if (session.joined.delete(id)) session.emit("left_conversation", { conversationId: id });
    };
  }

  of(user: string): Session[] {
    return [...this.sessions].filter((session) => session.user === user);
  }

  /** Everybody's connection goes. */
  closeAll(code: number): void {
    for (const session of [...this.sessions]) session.close(code);
  }

  accept(link: Link): Session {
    return new Session(this, link);
  }

  authenticate(session: Session, { token, resume }: { token: string; resume?: Resume }): void {
    this.logins += 1;
    const code = this.refused.get(token) ?? this.refused.get("*");
    if (code !== undefined) return session.close(code);
    const claims = claimsOf(token);
    if (claims.exp * 1000 < this.now()) return session.close(4501);
    session.user = claims.sub;
    session.expiresAt = claims.exp * 1000;
    this.sessions.add(session);
    const replay: [string, unknown][] = [];
    const refused: unknown[] = [];
    const forget = this.faults.forget();
    const list = resume?.cursor !== undefined && forget;
    if (resume?.cursor && !list) {
      for (const { entry, cursor } of this.store.listSince(session.user, resume.cursor)) {
        replay.push(["conversation_updated", { conversation: entry, cursor }]);
      }
    }
    for (const [id, rev] of Object.entries(resume?.conversations ?? {})) {
      if (!this.store.rooms.get(id)?.members.has(session.user)) {
        replay.push(["left_conversation", { conversationId: id }]);
        continue;
      }
      session.joined.add(id);
      const missed = this.store.since(session.user, id, rev);
      if (forget || missed.length > this.replayMost) refused.push(this.store.head(session.user, id));
      else for (const message of missed) replay.push(["new_message", { conversationId: id, message }]);
    }
    const recovered = refused.length === 0 && !list;
    session.emit("hello", {
      sessionId: String(this.logins),
      userId: session.user,
      heartbeatIntervalMs: this.heartbeatIntervalMs,
      expiresAt: new Date(session.expiresAt).toISOString(),
      expiresInMs: session.expiresAt - this.now(),
      recovered,
      limits: { frameBytes: 65_536, joinedConversations: 100, presenceUsers: 200, commandsPerSecond: this.commandsPerSecond },
    });
    for (const [event, data] of replay) session.emit(event, data);
    if (!recovered) session.emit("resync", { conversations: refused, list });
  }

  command(session: Session, name: CommandName, data: never): unknown {
    const { user } = session;
    const given = data as { conversationId: string; messageId: string; content: string; emoji: string; remove?: boolean; seq?: number };
    switch (name) {
      case "join_conversation": {
        const head = this.store.head(user, given.conversationId);
        session.joined.add(given.conversationId);
        session.emit("joined_conversation", head);
        return head;
      }
      case "leave_conversation":
        session.joined.delete(given.conversationId);
        return {};
      case "send_message": {
        const { conversationId, ...message } = data as NewMessage & { conversationId: string };
        return this.store.send(user, conversationId, message).message;
      }
      case "edit_message":
        return this.store.edit(user, given.messageId, given.content);
      case "delete_message":
        return this.store.delete(user, given.messageId);
      case "react":
        return this.store.react(user, given.messageId, given.emoji, given.remove ?? false);
      case "typing_start":
      case "typing_stop": {
        const typing = { conversationId: given.conversationId, userId: user, isTyping: name === "typing_start" };
        for (const other of this.sessions) if (other !== session && other.joined.has(given.conversationId)) other.emit("user_typing", typing);
        return {};
      }
      case "mark_read":
        return this.store.mark(user, given.conversationId, "messages_read", given.seq);
      case "mark_delivered":
        return this.store.mark(user, given.conversationId, "messages_delivered", given.seq);
      case "sync":
        return this.store.sync(user, data as SyncRequest);
      case "presence_subscribe": {
        const { userIds } = data as { userIds: string[] };
        session.watched.clear();
        for (const one of userIds) session.watched.add(one);
        return { users: userIds.map((userId) => ({ userId, status: this.of(userId).length > 0 ? "online" : "offline" })) };
      }
      case "unread_count":
        return this.unread(user);
      case "refresh_token": {
        const { token } = data as { token: string };
        session.expiresAt = claimsOf(token).exp * 1000;
        return { expiresAt: new Date(session.expiresAt).toISOString(), expiresInMs: session.expiresAt - this.now() };
      }
      case "presence_update":
      case "ping":
        return {};
    }
  }

  /** Answers a REST request: status and body. */
  rest(request: RestRequest): { status: number; body: unknown } {
    this.requests.push(request);
    try {
      const refusal = this.faults.refuse(`${request.method} ${request.path}`);
      if (refusal) throw refusal;
      return this.route(request);
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      const { code, retryAfterMs } = error;
      const status = code === "not_a_member" ? 403 : code === "token_expired" ? 401 : retryAfterMs === undefined ? 400 : 503;
      return { status, body: { type: `urn:problem-type:backscroll:${code}`, title: code, status, code, detail: code, requestId: "r", retryAfterMs } };
    }
  }

  private route({ method, path, query, body, token }: RestRequest): { status: number; body: unknown } {
    const { sub: user, exp } = claimsOf(token);
    if (exp * 1000 < this.now() || this.refused.has(token) || (this.refused.get("*") ?? 0) >= 4500) throw new Refusal("token_expired");
    const [, , kind, id = "", part = "", extra = ""] = path.split("/").map(decodeURIComponent);
    const given = (body ?? {}) as NewMessage & { seq?: number };
    const ok = (answer: unknown) => ({ status: 200, body: answer });
    if (kind === "sync") return ok(this.store.sync(user, body as SyncRequest));
    if (kind === "unread-count") return ok(this.unread(user));
    if (kind === "messages") {
      if (part === "reactions") return ok(this.store.react(user, id, extra, method === "DELETE"));
      return ok(method === "DELETE" ? this.store.delete(user, id) : this.store.edit(user, id, given.content));
    }
    if (part === "read") return ok(this.store.mark(user, id, "messages_read", given.seq));
    if (part === "delivered") return ok(this.store.mark(user, id, "messages_delivered", given.seq));
    if (part === "messages" && method === "POST") {
      const { message, created } = this.store.send(user, id, given);
      return { status: created ? 201 : 200, body: message };
    }
    if (part === "messages") {
      const number = (name: string) => (query.has(name) ? { [name]: Number(query.get(name)) } : {});
      const place = { ...number("before"), ...number("after"), ...number("around") };
      return ok(this.store.page(user, id, place, Number(query.get("limit"))));
    }
    return ok(this.store.conversation(user, id));
  }

  private unread(user: string) {
    const unread = this.store.list(user).map((entry) => entry.unreadCount);
    return { total: unread.reduce((a, b) => a + b, 0), conversations: unread.filter((count) => count > 0).length, mentions: 0 };
  }

  private pushAll(id: string, event: string, data: unknown): void {
    for (const session of [...this.sessions]) session.push(id, event, data);
  }
}

function claimsOf(token: string): Claims {
  return JSON.parse(Buffer.from(token.split(".")[1]!, "base64url").toString()) as Claims;
}
