/** Real servers behind networks, proxies and issuers that misbehave; clients in Node. */
import { generateKeyPairSync, sign } from "node:crypto";
import { writeFileSync } from "node:fs";
import http from "node:http";
import net, { type AddressInfo } from "node:net";
import path from "node:path";
import { io } from "socket.io-client";
import { afterAll, describe, expect, test } from "vitest";
import { WebSocket } from "ws";
import { ChatClient, type ChatClientOptions } from "../../src/index.js";
import { endAll, network, server, sleep, until } from "./machine.js";

const clients: ChatClient[] = [];
afterAll(async () => {
  await Promise.all(clients.map((client) => client.close()));
  await endAll();
});

function clientOf(options: ChatClientOptions): ChatClient {
  const client = new ChatClient({ WebSocket, ...options });
  clients.push(client);
  return client;
}

const stateOf = (client: ChatClient) => client.connection.get().state;

describe.concurrent("a client comes back", () => {
  test("with all its tabs after sleep, while the server still counts their old connections", async () => {
    const one = await server();
    const line = await network(one.port);
    const group = await one.group("alice", ["bob"]);
    const tabs = Array.from({ length: 15 }, () => clientOf({ url: line.origin, token: one.token("alice") }));
    await Promise.all(tabs.map((tab) => tab.connect()));
    const views = tabs.map((tab) => tab.open(group));
    await Promise.all(views.map((view) => view.ready));
    line.cut();
    await one.api("bob", "POST", `/conversations/${group}/messages`, { content: "are you there" });
    await until("every tab has the message", () => views.every((view) => view.state.get().messages.length === 1));
    await until("every tab is connected", () => tabs.every((tab) => tab.connection.get().transport === "websocket"));
  });

  test("after the key that signs tokens was changed", async () => {
    const key = (digit: number) => ({ AUTH__SECRET: String(digit).repeat(40) });
    const first = await server(key(1));
    let token = first.token("alice");
    const options = { url: first.origin, token: async () => token };
    const both = [clientOf(options), clientOf({ ...options, WebSocket: null })];
    await Promise.all(both.map((client) => client.connect()));
    await first.stop("SIGTERM");
    const second = await server(key(2), first);
    await sleep(1_000); // some attempts with the old one
    token = second.token("alice");
    await until("both are connected", () => both.every((client) => stateOf(client) === "connected"), 60_000);
  });

  test("no more, once its issuer has withdrawn the key of its token", async () => {
    const issue = (kid: string) => {
      const { publicKey, privateKey } = generateKeyPairSync("ed25519");
      const part = (value: object) => Buffer.from(JSON.stringify(value)).toString("base64url");
      const token = (sub: string) => {
        const head = `${part({ alg: "EdDSA", typ: "JWT", kid })}.${part({ sub, exp: Math.floor(Date.now() / 1000) + 86_400 })}`;
        return `${head}.${sign(null, Buffer.from(head), privateKey).toString("base64url")}`;
      };
      return { jwk: { ...publicKey.export({ format: "jwk" }), kid, alg: "EdDSA", use: "sig" }, token };
    };
    const [old, fresh] = [issue("old"), issue("fresh")];
    const { folder } = await server(); // for its folder
    const file = path.join(folder, "jwks.json");
    const publish = (...keys: { jwk: object }[]) => writeFileSync(file, JSON.stringify({ keys: keys.map(({ jwk }) => jwk) }));
    publish(old, fresh);
    const one = await server({ AUTH__ALGORITHM: "EdDSA", AUTH__JWKS_FILE: file, AUTH__JWKS_REFRESH: "10s", REALTIME__HEARTBEAT: "1s" });
    const thief = clientOf({ url: one.origin, token: old.token("alice") });
    const socket = io(`${one.origin}/chat`, { auth: { token: old.token("alice") }, transports: ["websocket"] });
    await thief.connect();
    await until("Socket.IO is connected", () => socket.connected);
    publish(fresh);
    await until("both are out", () => stateOf(thief) === "closed" && !socket.connected, 30_000);
    expect(thief.connection.get().error?.code).toBe("token_invalid");
    thief.setToken(fresh.token("alice"));
    await until("a good token brings it back", () => stateOf(thief) === "connected");
    socket.close();
  });

  test("to what a page of somebody else stood in the place of", async () => {
    const one = await server();
    const group = await one.group("alice", ["bob"]);
    await one.api("bob", "POST", `/conversations/${group}/messages`, { content: "hello" });
    const statuses = [502, 503, 429, 404, 403, 408, 500, 520, 522, 530, 200, 302];
    const each = statuses.map(async (status) => {
      let bad = true;
      const front = http.createServer((request, answer) => {
        if (bad && request.url!.includes("/messages")) {
          bad = false;
          answer.writeHead(status, { "content-type": "text/html", ...(status === 302 && { location: "/login" }) });
          return answer.end("<html>a page of somebody else</html>");
        }
        const up = http.request({ port: one.port, path: request.url, method: request.method, headers: request.headers }, (response) => {
          answer.writeHead(response.statusCode!, response.headers);
          response.pipe(answer);
        });
        return request.pipe(up);
      });
      await new Promise<void>((done) => front.listen(0, "127.0.0.1", done));
      const client = clientOf({ url: `http://127.0.0.1:${(front.address() as AddressInfo).port}`, token: one.token("alice"), WebSocket: null });
      await client.connect();
      const view = client.open(group);
      await until(`${status}: the conversation is shown`, () => view.state.get().messages.some(({ content }) => content === "hello"));
      bad = true;
      await client.send(group, `in spite of ${status}`).stored;
      front.closeAllConnections();
      front.close();
    });
    await Promise.all(each);
    const { messages } = await one.api<{ messages: { content: string }[] }>("bob", "GET", `/conversations/${group}/messages?limit=100`);
    expect(messages).toHaveLength(1 + statuses.length);
  });

  test("through middleboxes that send `Connection` in two lines", async () => {
    const one = await server();
    const ask = (at: string, connection: string[]) =>
      new Promise<string>((done) => {
        const lines = [`GET ${at} HTTP/1.1`, "Host: x", ...connection, "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="];
        const socket = net.connect(one.port, "127.0.0.1", () => socket.write(`${lines.join("\r\n")}\r\n\r\n`));
        socket.once("data", (data) => {
          socket.destroy();
          done(String(data).split("\r\n")[0]!);
        });
      });
    for (const at of ["/ws/chat", "/socket.io/?EIO=4&transport=websocket"]) {
      for (const lines of [["Connection: keep-alive, Upgrade"], ["Connection: keep-alive", "Connection: Upgrade"]]) {
        expect(await ask(at, lines), `${at} ${lines.join()}`).toContain("101");
      }
    }
  });

  test("through Socket.IO with 130 messages that were written offline", async () => {
    const one = await server();
    const group = await one.group("alice", ["bob"]);
    const socket = io(`${one.origin}/chat`, { auth: { token: one.token("alice") }, transports: ["websocket"], autoConnect: false });
    const answers: { error?: unknown }[] = [];
    for (let n = 0; n < 130; n++) {
      const message = { conversationId: group, content: `${n}`, clientMsgId: `offline-${n}` };
      socket.emit("send_message", message, (answer: { error?: unknown }) => answers.push(answer));
    }
    socket.connect();
    await until("all are answered", () => answers.length === 130);
    expect(answers.filter(({ error }) => error !== undefined)).toEqual([]);
    socket.close();
  });

  test("a refusal of the Socket.IO door speaks of the field", async () => {
    const one = await server();
    const socket = io(`${one.origin}/chat`, { auth: {}, transports: ["websocket"], reconnection: false });
    const refusal = await new Promise<Error & { data?: unknown }>((done) => void socket.on("connect_error", done));
    expect(refusal.message).toBe("auth: missing field `token`; send {token, resume?}");
    expect(refusal.data).toMatchObject({ code: "unauthenticated" });
    socket.close();
  });
});
