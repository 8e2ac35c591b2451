/**
 * Servers, networks and browsers as they are: the `backscroll` binary (`CLIENT_TEST_BINARY`), TCP proxies that fail, pages, Chromium.
 *
 * Each test has its own, on free ports; {@link endAll} ends what a test began.
 */
import { execFileSync, spawn } from "node:child_process";
import { mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import http from "node:http";
import net, { type AddressInfo } from "node:net";
import os from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { buildSync } from "esbuild";
import { chromium, type Browser } from "playwright-core";

const BINARY = process.env.CLIENT_TEST_BINARY ?? "backscroll";
const SOURCES = fileURLToPath(new URL("../../src/", import.meta.url));
const PATIENCE_MS = 20_000;
/** Chromium finds no network of its own here, and is to look for none. */
const QUIET = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"];

const ends: (() => unknown)[] = [];

/** Calls this at the end, too. */
export const atEnd = (end: () => unknown) => ends.push(end);

/** Ends everything that was begun since the last call, the last first. */
export async function endAll(): Promise<void> {
  for (const end of ends.splice(0).reverse()) await end();
}

export const sleep = (ms: number) => new Promise<void>((done) => setTimeout(done, ms));

/** Waits until `look` says so. */
export async function until(what: string, look: () => boolean | Promise<boolean>, patienceMs = PATIENCE_MS): Promise<void> {
  const begun = Date.now();
  while (!(await look())) {
    if (Date.now() - begun > patienceMs) throw new Error(`not within ${patienceMs} ms: ${what}`);
    await sleep(50);
  }
}

function folder(): string {
  const made = mkdtempSync(path.join(os.tmpdir(), "backscroll-client-"));
  ends.push(() => rmSync(made, { recursive: true, force: true }));
  return made;
}

const listening = (server: net.Server): Promise<number> =>
  new Promise((done) => server.listen(0, "127.0.0.1", () => done((server.address() as AddressInfo).port)));

export async function freePort(): Promise<number> {
  const server = net.createServer();
  const port = await listening(server);
  await new Promise((done) => server.close(done));
  return port;
}

export interface RunningServer {
  readonly origin: string;
  readonly port: number;
  readonly folder: string;
  stop(signal?: NodeJS.Signals): Promise<void>;
  token(user: string): string;
  api<T>(user: string, method: string, path: string, body?: object): Promise<T>;
  group(user: string, members: string[]): Promise<string>;
}

/** Asks a server that takes connections with a PROXY header only whether it is ready. */
async function isReadyBehindProxy(port: number): Promise<boolean> {
  const socket = net.connect(port, "127.0.0.1").setEncoding("utf8");
  socket.write("PROXY TCP4 127.0.0.1 127.0.0.1 1 1\r\nGET /readyz HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
  let answer = "";
  socket.on("data", (text) => (answer += text));
  await new Promise((done) => socket.on("error", done).on("close", done));
  return answer.startsWith("HTTP/1.1 200");
}

/** A server with these settings, such as `{ AUTH__SECRET: … }`; the same again with the port and folder of an earlier one. */
export async function server(settings: Record<string, string> = {}, again?: RunningServer): Promise<RunningServer> {
  const port = again?.port ?? (await freePort());
  const home = again?.folder ?? folder();
  const inherited = Object.entries(process.env).filter(([name]) => !name.startsWith("BACKSCROLL_"));
  const own = Object.entries(settings).map(([name, value]) => [`BACKSCROLL_${name}`, value]);
  const env: NodeJS.ProcessEnv = {
    ...Object.fromEntries(inherited),
    BACKSCROLL_DATA_DIR: path.join(home, "data"),
    BACKSCROLL_SERVER__LISTEN: `127.0.0.1:${port}`,
    ...Object.fromEntries(own),
  };
  const log = openSync(path.join(home, "log"), "a");
  const child = spawn(BINARY, ["serve"], { env, cwd: home, stdio: ["ignore", log, log] });
  const gone = new Promise<void>((done) => child.on("exit", () => done()));
  const stop = async (signal: NodeJS.Signals = "SIGKILL") => {
    child.kill(signal);
    await gone;
  };
  ends.push(() => stop());
  const origin = `http://127.0.0.1:${port}`;
  const ready = async () => {
    if (child.exitCode !== null) throw new Error(`the server ended: ${readFileSync(path.join(home, "log"), "utf8")}`);
    if (settings.SERVER__PROXY_PROTOCOL === "true") return isReadyBehindProxy(port);
    return fetch(`${origin}/readyz`).then(({ ok }) => ok, () => false);
  };
  await until("the server is ready", ready);
  const tokens = new Map<string, string>();
  const token = (user: string): string => {
    const known = tokens.get(user) ?? execFileSync(BINARY, ["token", "--user", user, "--ttl", "1h"], { env, cwd: home }).toString().trim();
    tokens.set(user, known);
    return known;
  };
  const api = async <T>(user: string, method: string, at: string, body?: object): Promise<T> => {
    const headers = { authorization: `Bearer ${token(user)}`, "content-type": "application/json" };
    const answer = await fetch(`${origin}/chat${at}`, { method, headers, ...(body && { body: JSON.stringify(body) }) });
    if (!answer.ok) throw new Error(`${method} ${at}: ${answer.status} ${await answer.text()}`);
    return (await answer.json()) as T;
  };
  const group = async (user: string, members: string[]) => {
    const made = await api<{ id: string }>(user, "POST", "/conversations", { kind: "group", members, title: "g" });
    return made.id;
  };
  return { origin, port, folder: home, stop, token, api, group };
}

interface Pair {
  readonly client: net.Socket;
  readonly server: net.Socket;
  dead: boolean;
}

const LOGIN_PAGE = "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 19\r\nconnection: close\r\n\r\n<html>log in</html>";

/** A TCP proxy that fails without a word. */
export async function network(target: number) {
  const pairs = new Set<Pair>();
  let delayMs = 0;
  let state: "open" | "away" | "captive" = "open";
  const accepting = net.createServer((client) => {
    client.on("error", () => undefined);
    if (state === "away") return client.resetAndDestroy();
    if (state === "captive") return void client.once("data", () => client.end(LOGIN_PAGE));
    const pair: Pair = { client, server: net.connect(target, "127.0.0.1"), dead: false };
    pairs.add(pair);
    const pipe = (from: net.Socket, to: net.Socket) =>
      from.on("data", (data) => {
        const pass = () => !pair.dead && to.writable && to.write(data);
        if (delayMs > 0) setTimeout(pass, delayMs);
        else pass();
      });
    pipe(client, pair.server);
    pipe(pair.server, client);
    for (const socket of [client, pair.server]) {
      socket.on("error", () => undefined);
      socket.on("close", () => {
        if (pair.dead) return;
        client.destroy();
        pair.server.destroy();
        pairs.delete(pair);
      });
    }
  });
  const port = await listening(accepting);
  const kill = () => {
    for (const pair of pairs) pair.dead = true;
  };
  ends.push(() => {
    for (const { client, server: far } of pairs) for (const socket of [client, far]) socket.destroy();
    accepting.close();
  });
  return {
    port,
    origin: `http://127.0.0.1:${port}`,
    /** What is open is dead on both sides, and neither is told; new connections work. */
    drop: kill,
    /** The same, but the client is told. */
    cut() {
      kill();
      for (const { client } of pairs) client.resetAndDestroy();
    },
    /** The client is told, and the server, too. */
    reset() {
      for (const { client } of pairs) client.resetAndDestroy();
    },
    delay(ms: number) {
      delayMs = ms;
    },
    /** What becomes of new connections: they work, are refused, or are answered by a login page. */
    become(next: "open" | "away" | "captive") {
      state = next;
    },
  };
}

/** Pages at an address of their own, which run `script` (TypeScript, with the client's sources as `@backscroll/client`). */
export async function pages(script: string, headers: Record<string, string> = {}): Promise<number> {
  const home = folder();
  const source = path.join(home, "page.ts");
  writeFileSync(source, script);
  const alias = { "@backscroll/client/react": path.join(SOURCES, "react.ts"), "@backscroll/client": path.join(SOURCES, "index.ts") };
  const built = buildSync({
    entryPoints: [source],
    bundle: true,
    format: "iife",
    write: false,
    alias,
    nodePaths: [fileURLToPath(new URL("../../node_modules/", import.meta.url))],
    define: { "process.env.NODE_ENV": '"development"' },
  });
  const code = built.outputFiles[0]!.contents;
  const web = http.createServer(({ url }, answer) => {
    const isScript = url === "/page.js";
    answer.writeHead(200, { "content-type": isScript ? "text/javascript" : "text/html", ...(!isScript && headers) });
    answer.end(isScript ? code : "<!doctype html><meta charset=utf-8><body></body><script src=/page.js></script>");
  });
  const port = await listening(web);
  ends.push(() => web.closeAllConnections());
  ends.push(() => web.close());
  return port;
}

let running: Promise<Browser> | undefined;

/** Chromium, one for all tests of a file. */
export function browser(): Promise<Browser> {
  const executablePath = process.env.CHROMIUM ?? "/usr/bin/chromium";
  running ??= chromium.launch({ executablePath, args: [...QUIET, "--host-resolver-rules=MAP chat.test 127.0.0.1"] });
  return running;
}

export async function endBrowser(): Promise<void> {
  await (await running)?.close();
  running = undefined;
}
