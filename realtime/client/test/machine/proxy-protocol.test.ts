/** The PROXY protocol as the proxies of Debian speak it: the limits that count addresses count those of the clients. */
import { spawn } from "node:child_process";
import net from "node:net";
import path from "node:path";
import { writeFileSync } from "node:fs";
import { afterAll, describe, expect, test } from "vitest";
import { WebSocket } from "ws";
import { atEnd, endAll, freePort, server, until, type RunningServer } from "./machine.js";

afterAll(endAll);

interface Proxy {
  readonly command: string;
  readonly args: (file: string) => string[];
  /** A configuration that passes on what comes to `port`; without a header to `plainPort`. */
  readonly config: (port: number, plainPort: number, target: number, folder: string) => string;
}

const haproxy = (how: string): Proxy => ({
  command: "/usr/sbin/haproxy",
  args: (file) => ["-db", "-f", file],
  config: (port, plainPort, target) => `
defaults
  mode tcp
  timeout connect 5s
  timeout client 60s
  timeout server 60s
listen told
  bind 127.0.0.1:${port}
  server chat 127.0.0.1:${target} ${how} check inter 500ms
listen untold
  bind 127.0.0.1:${plainPort}
  server chat 127.0.0.1:${target}
`,
});

const PROXIES: Record<string, Proxy> = {
  "haproxy, version 1": haproxy("send-proxy"),
  "haproxy, version 2, with checks": haproxy("send-proxy-v2 check-send-proxy"),
  nginx: {
    command: "/usr/sbin/nginx",
    args: (file) => ["-c", file, "-e", "stderr", "-g", "daemon off;"],
    config: (port, plainPort, target, folder) => `
load_module /usr/lib/nginx/modules/ngx_stream_module.so;
pid ${folder}/nginx.pid;
events {}
stream {
  server { listen 127.0.0.1:${port}; proxy_pass 127.0.0.1:${target}; proxy_protocol on; }
  server { listen 127.0.0.1:${plainPort}; proxy_pass 127.0.0.1:${target}; }
}
`,
  },
};

/** How the server answers a WebSocket from this address: 101, another status, or 0 where it only closes. */
function connects(one: RunningServer, port: number, localAddress: string): Promise<number> {
  const socket = new WebSocket(`ws://127.0.0.1:${port}/ws/chat`, ["bearer", one.token("alice")], { localAddress });
  atEnd(() => socket.terminate());
  return new Promise((done) => {
    socket.on("open", () => done(101));
    socket.on("unexpected-response", (_, { statusCode }) => done(statusCode ?? 0));
    socket.on("error", () => done(0));
  });
}

/** What comes back of these bytes until the connection ends. */
function answer(port: number, bytes: string | Buffer): Promise<string> {
  const socket = net.connect(port, "127.0.0.1").setEncoding("utf8");
  socket.write(bytes);
  let text = "";
  socket.on("data", (more) => (text += more));
  return new Promise((done) => {
    socket.on("error", () => done(text));
    socket.on("close", () => done(text));
  });
}

const GET = "GET /healthz HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";

describe.concurrent("clients have their own addresses behind", () => {
  test.each(Object.entries(PROXIES))("%s", async (name, { command, args, config }) => {
    const one = await server({ SERVER__PROXY_PROTOCOL: "true", REALTIME__SESSIONS_PER_IP: "2" });
    const [port, plainPort] = [await freePort(), await freePort()];
    const file = path.join(one.folder, "proxy.conf");
    writeFileSync(file, config(port, plainPort, one.port, one.folder));
    let said = "";
    const child = spawn(command, args(file), { cwd: one.folder, stdio: ["ignore", "ignore", "pipe"] });
    child.stderr.on("data", (data: Buffer) => (said += String(data)));
    const gone = new Promise((done) => child.on("exit", done));
    atEnd(async () => {
      child.kill("SIGTERM");
      await gone;
    });
    const answers = async () => (await answer(port, GET)).startsWith("HTTP/1.1 200");
    await until(`${name} answers`, answers).catch((late: Error) => expect.fail(`${late.message}; it said: ${said}`));

    const statuses = [];
    for (const address of ["127.0.0.2", "127.0.0.2", "127.0.0.3", "127.0.0.2", "127.0.0.3"]) statuses.push(await connects(one, port, address));
    expect(statuses.map((status) => status === 101)).toEqual([true, true, true, false, true]);
    expect(statuses[3]).toBeGreaterThanOrEqual(400);

    // Who comes without a header, or with a wrong one, gets no answer.
    expect(await answer(plainPort, GET)).toBe("");
    const version2 = Buffer.from("0d0a0d0a000d0a515549540a", "hex");
    const wrong = ["PROXY TCP4 nobody 127.0.0.1 1 1\r\n", "PROXY TCP4 127.0.0.1 127.0.0.1 1 70000\r\n", "GET / HTTP/1.1\r\n"];
    for (const header of wrong) expect(await answer(one.port, header + GET), header).toBe("");
    expect(await answer(one.port, Buffer.concat([version2, Buffer.from("9111000c", "hex"), Buffer.from(GET)]))).toBe("");
    expect(await answers()).toBe(true);
  });
});
