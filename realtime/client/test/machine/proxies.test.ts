/** The snippets of `config/proxies`, run by the proxies of Debian: WebSocket, long polling, a path before `/chat`, and a server that moves. */
import { spawn } from "node:child_process";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { io } from "socket.io-client";
import { afterAll, describe, expect, test } from "vitest";
import { WebSocket } from "ws";
import { ChatClient, type ChatError } from "../../src/index.js";
import { atEnd, endAll, freePort, server, until } from "./machine.js";

afterAll(endAll);

const snippet = (name: string) => readFileSync(fileURLToPath(new URL(`../../../../config/proxies/${name}`, import.meta.url)), "utf8");

interface Proxy {
  readonly file: string;
  readonly command: string;
  /** Where Debian has it. */
  readonly args: (file: string) => string[];
  readonly whole?: (snippet: string, folder: string) => string;
}

const PROXIES: Record<string, Proxy> = {
  nginx: {
    file: "nginx.conf",
    command: "/usr/sbin/nginx",
    args: (file) => ["-c", file, "-e", "stderr", "-g", "daemon off;"],
    whole: (text, folder) => {
      const places = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map((name) => `${name}_temp_path ${folder}/${name};`).join(" ");
      return `pid ${folder}/nginx.pid; events {} http { access_log off; ${places}\n${text}\n}`;
    },
  },
  haproxy: { file: "haproxy.cfg", command: "/usr/sbin/haproxy", args: (file) => ["-db", "-f", file] },
  caddy: {
    file: "Caddyfile",
    command: "/usr/bin/caddy",
    args: (file) => ["run", "--adapter", "caddyfile", "--config", file],
    whole: (text) => `{\n admin off\n auto_https off\n}\n${text}`,
  },
};

describe.concurrent("before two servers, of which one goes, stands", () => {
  test.each(Object.entries(PROXIES))("%s", standsBefore);
});

async function standsBefore(name: string, { file, command, args, whole = (text) => text }: Proxy): Promise<void> {
  let one = await server();
  const [port, otherPort] = [await freePort(), await freePort()];
  const home = path.join(one.folder, "proxy");
  mkdirSync(home);
  const own = path.join(home, file);
  const text = whole(snippet(file), home)
    .replaceAll("chat-1:8080", `127.0.0.1:${one.port}`)
    .replaceAll("chat-2:8080", `127.0.0.1:${otherPort}`)
    .replace(/(listen |bind |^):?80\b/m, (_, word: string) => `${word}${name === "nginx" ? `127.0.0.1:${port}` : `:${port}`}`);
  writeFileSync(own, text);
  let said = "";
  const child = spawn(command, args(own), { cwd: home, env: { ...process.env, HOME: home }, stdio: ["ignore", "ignore", "pipe"] });
  child.stderr.on("data", (data: Buffer) => (said += String(data)));
  const gone = new Promise((done) => child.on("exit", done));
  atEnd(async () => {
    child.kill("SIGTERM");
    await gone;
  });
  const url = `http://127.0.0.1:${port}/backscroll`;
  const answers = () => fetch(`${url}/readyz`).then(({ ok }) => ok, () => false);
  await until(`${name} answers`, answers).catch((late: Error) => expect.fail(`${late.message}; it said: ${said}`));

  const docs = await fetch(`${url}/docs`);
  expect(docs.url).toBe(`${url}/docs/`);
  expect((await fetch(new URL("../openapi.json", docs.url))).status).toBe(200);

  const group = await one.group("alice", ["bob"]);
  const errors: ChatError[] = [];
  const clients = [undefined, null].map((none) => new ChatClient({ url, token: async () => one.token("alice"), WebSocket: none === null ? null : WebSocket }));
  for (const client of clients) client.on("error", (error) => errors.push(error));
  await Promise.all(clients.map((client) => client.connect()));
  expect(clients[0]!.connection.get().transport).toBe("websocket");
  const views = clients.map((client) => client.open(group));
  await Promise.all(views.map((view) => view.ready));

  const { origin } = new URL(url);
  const polling = io(`${origin}/chat`, { path: "/backscroll/socket.io/", auth: { token: one.token("alice") }, transports: ["polling"], withCredentials: true });
  await until("long polling is connected", () => polling.connected);
  await polling.emitWithAck("join_conversation", { conversationId: group });
  const heard: string[] = [];
  polling.on("new_message", ({ message }: { message: { content: string } }) => heard.push(message.content));
  await clients[0]!.send(group, "to all").stored;
  await until("long polling hears it", () => heard.includes("to all"));
  polling.close();

  // The server goes, and comes back at the other address: nobody sees an error, and what was written meanwhile is stored.
  await one.stop("SIGTERM");
  const meanwhile = clients.map((client, n) => client.send(group, `meanwhile ${n}`).stored);
  one = await server({ SERVER__LISTEN: `127.0.0.1:${otherPort}` }, { ...one, port: otherPort, origin: `http://127.0.0.1:${otherPort}` });
  await Promise.all(meanwhile);
  await until("both show all", () => views.every((view) => view.state.get().messages.filter(({ state }) => state === "sent").length === 3));
  expect(errors).toEqual([]);
  await Promise.all(clients.map((client) => client.close()));
}
