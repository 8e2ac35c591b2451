/**
 * What the page's tests stand on: a demo of their own with its old messages archived, a Chromium, and pages in it.
 *
 * Everything that a page logs as an error fails the test that had it, a violation of the page's policy included.
 */
import assert from "node:assert/strict";
import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import path from "node:path";
import { chromium } from "playwright-core";

const BINARY = process.env.BACKSCROLL_BINARY;
assert.ok(BINARY, "BACKSCROLL_BINARY is the server's binary");
const OUTPUT = new URL("../test-output/", import.meta.url).pathname;
const AXE = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
/** The last line that the demo prints. */
const PRINTED = /Say something there:/;

export class Stage {
  /** A demo whose old messages are archived, and a browser. */
  static async open() {
    rmSync(OUTPUT, { recursive: true, force: true });
    mkdirSync(OUTPUT, { recursive: true });
    const stage = new Stage();
    stage.folder = mkdtempSync(path.join(tmpdir(), "backscroll-page-"));
    await stage.start("127.0.0.1:0");
    execFileSync(BINARY, ["archive", "run"], {
      cwd: stage.folder,
      env: { ...process.env, BACKSCROLL_DATA_DIR: "backscroll-data/demo" },
      stdio: ["ignore", "ignore", "inherit"],
    });
    stage.browser = await chromium.launch({
      executablePath: "/usr/bin/chromium",
      args: [
        ...["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"],
        ...["--disable-component-update", "--disable-sync", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"],
      ],
    });
    return stage;
  }

  /** Starts the demo. */
  async start(listen) {
    const environment = {
      ...process.env,
      BACKSCROLL_ARCHIVE__SCHEDULE: "",
      BACKSCROLL_OBJECT_STORE__PART_SIZE: "5 MiB",
      BACKSCROLL_TELEMETRY__LOG: "warn",
    };
    this.server = spawn(BINARY, ["serve", "--demo", "--listen", listen], {
      cwd: this.folder,
      env: environment,
      stdio: ["ignore", "pipe", "inherit"],
    });
    let printed = "";
    for await (const chunk of this.server.stdout) {
      printed += chunk;
      if (PRINTED.test(printed)) break;
    }
    this.link = /^http\S+\/console\/chat#token=\S+$/m.exec(printed)?.[0];
    assert.ok(this.link, `the demo prints the page's address:\n${printed}`);
    assert.match(printed, /^Backscroll is listening on /);
    this.origin = new URL(this.link).origin;
  }

  async stop() {
    this.server.kill("SIGTERM");
    await once(this.server, "exit");
  }

  async close() {
    await this.browser?.close();
    if (this.server?.exitCode === null) await this.stop();
    rmSync(this.folder, { recursive: true, force: true });
  }

  /** A page with nothing from before. */
  async page({ width = 1280, height = 800, dark = false, at = this.link, expected = [] } = {}) {
    const context = await this.browser.newContext({
      viewport: { width, height },
      colorScheme: dark ? "dark" : "light",
      acceptDownloads: true,
    });
    const page = await context.newPage();
    page.errors = [];
    const note = (text) => expected.some((pattern) => pattern.test(text)) || page.errors.push(text);
    page.on("pageerror", (error) => note(error.message));
    page.on("console", (message) => message.type() === "error" && note(message.text()));
    await page.goto(at);
    return page;
  }

  /** The page is over: what it logged counts. */
  async done(page) {
    assert.deepEqual(page.errors, []);
    await page.context().close();
  }
}

/** A conversation's row of the list. */
export const row = (half, name) => half.locator("a.row", { has: half.page().locator(".title", { hasText: new RegExp(`^${name}$`) }) });

/** Opens a conversation and waits for its messages. */
export async function openRoom(half, name) {
  await row(half, name).click();
  await half.locator(".message").first().waitFor();
}

export async function shot(page, name) {
  await page.screenshot({ path: path.join(OUTPUT, `${name}.png`), animations: "disabled" });
}

/** Nothing that axe finds fault with. */
export async function accessible(page, what) {
  await page.evaluate(`window.axe === undefined && (() => { ${AXE} })()`);
  const violations = await page.evaluate(async () => {
    await Promise.allSettled(
      document
        .getAnimations()
        .filter((one) => one.effect?.getComputedTiming().iterations !== Infinity)
        .map((one) => one.finished),
    );
    const { violations } = await window.axe.run(document);
    return violations.map(({ id, help, nodes }) => `${id}: ${help}: ${nodes.map((node) => node.html.slice(0, 160)).join(" | ")}`);
  });
  assert.deepEqual(violations, [], `${what}`);
}

/** Once `check` holds; it says why it does not. */
export async function eventually(check, patienceMs = 10_000) {
  const giveUpAt = Date.now() + patienceMs;
  for (;;) {
    try {
      return await check();
    } catch (error) {
      if (Date.now() > giveUpAt) throw error;
      await new Promise((resolve) => setTimeout(resolve, 25));
    }
  }
}
