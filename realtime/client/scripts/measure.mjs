/**
 * What the client costs: the bytes of its bundle, the time from `connect()` to the first messages, the memory of 10,000 messages in view.
 *
 *   npm run --silent measure -- URL TOKEN CONVERSATION [FOLDER…]
 *
 * of these sources, or of those in each FOLDER (`src` of another version), in turns, so that a machine that is busy now and then is
 * busy for all. The conversation should have 10,000 messages or more.
 */
import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { gzipSync } from "node:zlib";
import { buildSync } from "esbuild";
import { WebSocket } from "ws";

const TURNS = 7;
const CONNECTS = 60;
const MESSAGES = 10_000;
const [first, ...rest] = process.argv.slice(2);

if (first === "once") await once(...rest);
else compare(first, ...rest);

function compare(url, token, conversation, ...folders) {
  const folder = mkdtempSync(path.join(os.tmpdir(), "backscroll-measure-"));
  const sources = folders.length > 0 ? folders : [fileURLToPath(new URL("../src", import.meta.url))];
  const versions = sources.map((source, n) => ({ source, bundle: path.join(folder, `${n}.mjs`), figures: [] }));
  for (const { source, bundle } of versions) {
    buildSync({ entryPoints: [path.resolve(source, "index.ts")], bundle: true, minify: true, format: "esm", target: "es2022", outfile: bundle });
  }
  for (let turn = 0; turn < TURNS; turn++) {
    for (const { bundle, figures } of versions) {
      const said = execFileSync(process.execPath, ["--expose-gc", fileURLToPath(import.meta.url), "once", bundle, url, token, conversation]);
      figures.push(JSON.parse(said));
    }
  }
  const middle = (numbers) => numbers.sort((a, b) => a - b)[Math.floor(numbers.length / 2)];
  for (const { source, bundle, figures } of versions) {
    const code = readFileSync(bundle);
    const ms = middle(figures.map((one) => one.ms)).toFixed(1);
    const bytes = middle(figures.map((one) => one.bytes));
    console.log(`${source}: ${code.length} bytes, ${gzipSync(code, { level: 9 }).length} with gzip; first messages after ${ms} ms; ${bytes} bytes for ${figures[0].messages} messages`);
  }
  rmSync(folder, { recursive: true });
}

/** One process: the middle of many connects, then all messages in view. */
async function once(bundle, url, token, conversation) {
  const { ChatClient } = await import(pathToFileURL(bundle));
  const bounds = { messagesKept: MESSAGES, pageSize: 200 };
  const open = () => {
    const client = new ChatClient({ url, token: async () => token, WebSocket, bounds });
    void client.connect();
    return [client, client.open(conversation)];
  };
  const times = [];
  for (let n = 0; n < CONNECTS; n++) {
    const begun = performance.now();
    const [client, view] = open();
    await view.ready;
    times.push(performance.now() - begun);
    await client.close();
  }
  globalThis.gc();
  const before = process.memoryUsage().heapUsed;
  const [, view] = open();
  await view.ready;
  while (view.state.get().hasMoreBefore && view.state.get().messages.length < MESSAGES) await view.loadBefore();
  globalThis.gc();
  const bytes = process.memoryUsage().heapUsed - before;
  const ms = times.sort((a, b) => a - b)[CONNECTS / 2];
  console.log(JSON.stringify({ ms, bytes, messages: view.state.get().messages.length }));
  process.exit();
}
