/** The chat page on the demo's data: how it looks, how fast it is there, and everything that can be done on it. */
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { gzipSync } from "node:zlib";
import { accessible, eventually, openRoom, row, shot, Stage } from "./stage.mjs";

const FIRST_PAINT_MS = 300;
const BUNDLE_BYTES = 70 * 1024;

let stage;
before(async () => (stage = await Stage.open()));
after(() => stage.close());

const left = (page) => page.locator(".pane").nth(0);
const right = (page) => page.locator(".pane").nth(1);
const texts = (half) => half.locator(".message .text");
const field = (half) => half.locator(".composer textarea");

async function say(half, text) {
  await field(half).fill(text);
  await field(half).press("Enter");
  await half.locator(".message.own.sent", { hasText: text }).waitFor();
}

/** Two people of the demo in one window, in their own conversation. */
async function twoPeople() {
  const page = await stage.page();
  await openRoom(left(page), "Ben");
  await page.goto(`${page.url()}&with=ben`);
  await page.reload();
  for (const half of [left(page), right(page)]) await half.locator(".message").first().waitFor();
  return page;
}

test("the page is small, painted at once, and loads nothing from elsewhere", async () => {
  const page = await stage.page({ at: "about:blank" });
  const loaded = [];
  page.on("response", (response) => loaded.push(response));
  const paints = [];
  for (let round = 0; round < 3; round++) {
    await page.goto("about:blank");
    await page.goto(stage.link);
    await row(left(page), "workshop").waitFor();
    paints.push(await page.evaluate(() => performance.getEntriesByName("first-contentful-paint")[0].startTime));
  }
  assert.ok(Math.min(...paints) < FIRST_PAINT_MS, `first paint after ${paints.map(Math.round).join(", ")} ms`);
  const files = new Map();
  for (const response of loaded) {
    assert.ok(response.url().startsWith(stage.origin), response.url());
    if (/\/console\/chat\/[a-z]+-[0-9a-f]+\.\w+$/.test(response.url())) files.set(response.url(), response);
  }
  let bytes = 0;
  for (const [url, response] of files) {
    assert.match(response.headers()["cache-control"], /immutable/, url);
    bytes += gzipSync(await response.body(), { level: 9 }).length;
  }
  assert.ok(files.size >= 2 && bytes <= BUNDLE_BYTES, `${files.size} files, ${bytes} bytes`);
  const answer = await fetch(`${stage.origin}/console/chat`);
  assert.match(answer.headers.get("content-security-policy"), /default-src 'none'; script-src 'self'/);
  assert.equal(answer.headers.get("cache-control"), "no-cache");
  assert.equal((await fetch(`${stage.origin}/`)).url, `${stage.origin}/console/chat`);
  assert.equal((await fetch(`${stage.origin}/console/chat/people`)).status, 401);
  await stage.done(page);
});

for (const [width, height] of [
  [1280, 800],
  [390, 844],
]) {
  for (const dark of [false, true]) {
    const name = `${width}-${dark ? "dark" : "light"}`;
    test(`everything is accessible and fits, ${name}`, async () => {
      const page = await stage.page({ width, height, dark });
      await row(left(page), "workshop").waitFor();
      await shot(page, `${name}-list`);
      await accessible(page, "the list");
      await openRoom(left(page), "workshop");
      await page.locator(".tier.database").waitFor();
      await shot(page, `${name}-room`);
      await accessible(page, "a conversation");
      const place = page.locator(".rail input");
      await place.focus();
      await place.evaluate((input) => {
        input.value = "3000";
        input.dispatchEvent(new Event("input", { bubbles: true }));
      });
      await page.locator(".tier.archive").waitFor();
      await page.locator(".message.archived[data-key='3000']").click();
      await page.locator(".toolbar").waitFor();
      await shot(page, `${name}-archive`);
      await accessible(page, "a page of the archive, and what can be done with a message");
      const wide = await page.evaluate(() => document.documentElement.scrollWidth);
      assert.ok(wide <= width, `${wide} pixels wide`);
      await stage.done(page);
    });
  }
}

test("a token can be pasted, and one that is none is refused with words", async () => {
  const page = await stage.page({ at: `${stage.origin}/console/chat` });
  await page.getByLabel("Token").fill("not a token");
  await page.getByRole("button", { name: "Continue" }).click();
  await page.getByRole("alert").filter({ hasText: "no token" }).waitFor();
  await accessible(page, "signing in");
  await shot(page, "sign-in");
  await page.getByLabel("Token").fill(new URL(stage.link).hash.slice("#token=".length));
  await page.getByRole("button", { name: "Continue" }).click();
  await row(left(page), "Ben").waitFor();
  assert.ok(!page.url().includes("token"), page.url());
  await page.reload();
  await row(left(page), "Ben").waitFor();
  await stage.done(page);
});

test("two people in one window see each other type, write, read, react, answer, change and delete", async () => {
  const page = await twoPeople();
  const [alice, ben] = [left(page), right(page)];
  await field(alice).pressSequentially("Did you");
  await ben.locator(".names .typing", { hasText: "typing" }).waitFor();
  await say(alice, "Did you find the key?");
  await texts(ben).filter({ hasText: "Did you find the key?" }).waitFor();
  const mine = alice.locator(".message.own", { hasText: "Did you find the key?" });
  await mine.locator(".ticks.read").waitFor();
  await alice.locator(".names p", { hasText: "online" }).waitFor();

  const theirs = ben.locator(".message", { hasText: "Did you find the key?" });
  await theirs.hover();
  await theirs.getByRole("button", { name: "React", exact: true }).click();
  await theirs.getByRole("button", { name: "React with 🎉" }).click();
  await mine.getByRole("button", { name: /🎉.*by Ben$/ }).waitFor();
  await mine.getByRole("button", { name: /🎉.*by Ben$/ }).click();
  await theirs.getByRole("button", { name: /🎉.*by Ben and Alice/ }).waitFor();

  await theirs.hover();
  await theirs.getByRole("button", { name: "Reply" }).click();
  await say(ben, "It was in my jacket");
  const answer = alice.locator(".message", { hasText: "It was in my jacket" });
  await answer.locator(".quote", { hasText: "Did you find the key?" }).click();
  await alice.locator(".message.flashed", { hasText: "Did you find the key?" }).first().waitFor();

  const said = ben.locator(".message.own", { hasText: "It was in my jacket" });
  await field(ben).press("ArrowUp");
  await eventually(async () => assert.equal(await field(ben).inputValue(), "It was in my jacket"));
  await field(ben).fill("It was in my other jacket");
  await field(ben).press("Enter");
  await alice.locator(".message", { hasText: "It was in my other jacket" }).filter({ hasText: "edited" }).waitFor();
  await shot(page, "side-by-side");
  await accessible(page, "two halves");
  const changed = ben.locator(".message.own", { hasText: "other jacket" });
  await changed.hover();
  await changed.getByRole("button", { name: "Delete", exact: true }).click();
  await changed.getByRole("button", { name: "Delete it" }).click();
  await alice.locator(".message.deleted", { hasText: "This message was deleted" }).waitFor();
  assert.equal(await said.count(), 0);
  await right(page).getByRole("button", { name: "Close Ben's half" }).click();
  await eventually(async () => assert.equal(await page.locator(".pane").count(), 1));
  await stage.done(page);
});

test("the keyboard is enough", async () => {
  const page = await stage.page();
  await row(left(page), "Greta").waitFor();
  await page.getByLabel("Find a conversation").focus();
  await page.keyboard.press("ArrowDown");
  await page.keyboard.press("ArrowDown");
  await page.keyboard.press("Enter");
  await page.locator(".message").first().waitFor();
  await page.getByRole("region", { name: "Alice's messages" }).focus();
  await page.keyboard.press("ArrowUp");
  await page.keyboard.press("ArrowUp");
  await page.keyboard.press("Tab");
  await page.keyboard.press("ArrowRight");
  await page.keyboard.press("Enter");
  await page.locator(".answering").waitFor();
  assert.equal(await page.evaluate(() => document.activeElement?.tagName), "TEXTAREA");
  await page.keyboard.press("Escape");
  await eventually(async () => assert.equal(await page.locator(".answering").count(), 0));
  await page.goBack();
  await page.getByText("Pick a conversation").waitFor();
  await stage.done(page);
});

test("a conversation is searched, and a hit is shown in its place", async () => {
  const page = await stage.page();
  await openRoom(left(page), "workshop");
  await say(left(page), "Crème brûlée for all");
  await page.getByRole("button", { name: "Search this conversation" }).click();
  const words = page.getByRole("searchbox", { name: "Search this conversation" });
  const hits = page.locator(".search li");
  await words.fill("BRULEE");
  await hits.first().waitFor();
  assert.deepEqual(await hits.locator("mark").allTextContents(), ["brûlée"]);
  await words.fill("from:ines the");
  await page.getByRole("button", { name: "Search on" }).waitFor();
  await accessible(page, "the search");
  const last = hits.last();
  const text = await last.locator("span").textContent();
  await last.locator("button").click();
  await left(page).locator(".message", { hasText: text.slice(2, 40).trim() }).first().waitFor();
  await words.fill("nothing has these words");
  await page.getByText("0 messages").waitFor();
  await page.keyboard.press("Escape");
  await eventually(async () => assert.equal(await page.locator(".search").count(), 0));
  await stage.done(page);
});

test("pictures, files and voice messages are uploaded, sent, seen and heard", async () => {
  const page = await twoPeople();
  const [alice, ben] = [left(page), right(page)];
  await give(alice, "paste", { name: "sunset.jpg", type: "image/jpeg", width: 4_000, height: 2_000 });
  await alice.locator(".tray li.ready").waitFor();
  await shot(page, "tray");
  await accessible(page, "a file that is to be sent");
  await say(alice, "Look at this");
  const picture = ben.locator(".message", { hasText: "Look at this" }).locator(".picture");
  await picture.locator("img").waitFor();
  const sides = () => picture.locator("img").evaluate((img) => [img.naturalWidth, img.naturalHeight]);
  await eventually(async () => assert.deepEqual(await sides(), [2_560, 1_280])); // made smaller before it left
  await picture.click();
  await page.getByRole("dialog", { name: /sunset/ }).waitFor();
  await page.keyboard.press("Escape");

  await give(ben, "drop", { name: "notes.txt", type: "text/plain", content: "remember the milk" });
  await ben.locator(".tray li.ready").waitFor();
  await field(ben).press("Enter");
  const file = alice.locator(".message .file", { hasText: "notes.txt" });
  const [download] = await Promise.all([page.waitForEvent("download"), file.click()]);
  const content = await download.createReadStream().then(async (stream) => Buffer.concat(await stream.toArray()).toString());
  assert.equal(content, "remember the milk");

  await alice.getByRole("button", { name: "Record a voice message" }).click();
  await alice.getByText("Recording").waitFor();
  await eventually(async () => assert.match(await alice.locator(".recorder time").innerText(), /0:01/));
  await alice.getByRole("button", { name: "Send the recording" }).click();
  const voice = ben.locator(".message .recording");
  await voice.waitFor();
  await voice.getByRole("button", { name: "Play the voice message" }).click();
  await voice.getByRole("button", { name: "Pause" }).waitFor();
  await shot(page, "files");
  await accessible(page, "files of messages");
  await stage.done(page);
});

test("an upload that was cut off goes on after a reload, and one can be given up", async () => {
  const page = await stage.page({ expected: [/ERR_FAILED|ERR_CONNECTION/] });
  await openRoom(left(page), "Greta");
  await page.route("**/media/objects/**", (route) => (route.request().method() === "PUT" ? route.abort() : route.continue()));
  await give(left(page), "paste", { name: "sunset.png", type: "image/png" });
  await give(left(page), "drop", { name: "notes.txt", type: "text/plain", content: "to be given up" });
  await eventually(async () => assert.equal(await page.locator(".tray li.uploading").count(), 2));
  await page.getByRole("button", { name: "Remove notes.txt" }).click();
  await page.unroute("**/media/objects/**");
  await page.reload();
  await page.locator(".tray li.ready", { hasText: "sunset" }).waitFor();
  assert.equal(await page.locator(".tray li").count(), 1);
  await field(left(page)).press("Enter");
  await page.locator(".message.own.sent .picture img").waitFor();
  await page.reload();
  await page.locator(".message.own .picture").waitFor();
  assert.equal(await page.locator(".tray li").count(), 0);
  await stage.done(page);
});

test("of a large file only the parts that are missing are sent after a reload", async () => {
  const page = await stage.page({ expected: [/ERR_FAILED|ERR_CONNECTION/] });
  await openRoom(left(page), "Greta");
  let puts = 0;
  await page.route("**/media/objects/**", (route) => (route.request().method() === "PUT" && puts++ > 0 ? route.abort() : route.continue()));
  await give(left(page), "drop", { name: "large.bin", type: "application/octet-stream", bytes: 17 << 20 });
  await page.locator(".tray li.uploading", { hasText: /[1-9]\d? %/ }).waitFor();
  await page.unroute("**/media/objects/**");
  const parts = [];
  page.on("request", (request) => request.method() === "PUT" && parts.push(request.url()));
  await page.reload();
  await page.locator(".tray li.ready", { hasText: "large.bin" }).waitFor();
  assert.equal(parts.length, 3); // of four
  await page.getByRole("button", { name: "Remove large.bin" }).click();
  await stage.done(page);
});

test("where the archive is away, the page says so, and goes on when it is back", async () => {
  const page = await stage.page({ expected: [/503/] });
  const away = {
    status: 503,
    contentType: "application/problem+json",
    body: JSON.stringify({
      type: "urn:problem-type:backscroll:archive_unavailable",
      code: "archive_unavailable",
      detail: "the archive cannot be reached",
    }),
  };
  await page.route("**/messages?*before=*", (route) => route.fulfill(away));
  await openRoom(left(page), "climbing");
  await page.locator(".timeline").evaluate((timeline) => timeline.scrollTo(0, 0));
  await page.getByText("Earlier messages cannot be loaded just now: the archive cannot be reached").waitFor();
  await shot(page, "archive-away");
  await accessible(page, "without the archive");
  const held = await page.locator(".message").count();
  await page.unroute("**/messages?*before=*");
  await eventually(async () => assert.ok((await page.locator(".message").count()) > held));
  await eventually(async () => assert.equal(await page.getByText("cannot be loaded").count(), 0));
  await stage.done(page);
});

test("ten thousand messages are scrolled through both tiers without a jump", async () => {
  const page = await stage.page({ width: 600, height: 500 });
  await openRoom(left(page), "random");
  const walked = await page.evaluate(async () => {
    const timeline = document.querySelector(".timeline");
    const frame = () => new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve)));
    const moment = () => new Promise((resolve) => setTimeout(resolve, 10));
    const firstKey = () => timeline.querySelector("li[data-key]").dataset.key;
    const rows = () => [...timeline.querySelectorAll("li[data-key]")];
    const topOf = (row) => row.getBoundingClientRect().top - timeline.getBoundingClientRect().top;
    const tiers = new Set();
    const jumps = [];
    let slowest = 0;
    for (let step = 0; step < 4_000; step++) {
      const looked = rows().find((row) => topOf(row) + row.offsetHeight > 8);
      const [before, first] = [topOf(looked), firstKey()];
      const moved = Math.min(timeline.scrollTop, 8_000);
      const asked = performance.now();
      timeline.scrollTop -= moved;
      await frame();
      // At the edge of what is loaded: what comes may not move what is looked at.
      while (firstKey() === first && first !== "1" && timeline.scrollTop < 1_000 && performance.now() - asked < 10_000) await moment();
      await frame();
      slowest = Math.max(slowest, performance.now() - asked);
      const now = looked.isConnected ? topOf(looked) : undefined;
      if (now === undefined || Math.abs(now - before - moved) > 1.5)
        jumps.push(`at ${looked.dataset.key}: ${moved} asked, ${now === undefined ? "gone" : now - before} moved`);
      tiers.add(document.querySelector(".tier")?.className.replace("tier ", ""));
      if (firstKey() === "1" && timeline.scrollTop === 0) break;
    }
    return { jumps, tiers: [...tiers].sort(), first: firstKey(), held: rows().length, slowest };
  });
  assert.deepEqual(walked.jumps, []);
  assert.deepEqual([walked.first, walked.tiers], ["1", ["archive", "database"]]);
  assert.ok(walked.held <= 400, `${walked.held} messages are held`);
  await shot(page, "the-beginning");
  await page.getByRole("button", { name: "To the newest message" }).click();
  await page.locator(".message[data-key='10002']").waitFor();
  await stage.done(page);
});

test("a message that is written while the server is away is sent when it is back", async () => {
  const page = await stage.page({ expected: [/WebSocket|ERR_|Failed to load/] });
  await openRoom(left(page), "Fumiko");
  await stage.stop();
  await page.getByText("Connecting…").waitFor();
  await field(left(page)).fill("Is anybody there?");
  await field(left(page)).press("Enter");
  await page.locator(".message.sending", { hasText: "Is anybody there?" }).waitFor();
  await shot(page, "offline");
  await accessible(page, "without a connection");
  await stage.start(new URL(stage.origin).host);
  await page.evaluate(() => dispatchEvent(new Event("online"))); // it need not wait for its next attempt
  await page.locator(".message.own.sent", { hasText: "Is anybody there?" }).waitFor();
  assert.equal(await page.locator(".message", { hasText: "Is anybody there?" }).count(), 1);
  await stage.done(page);
});

/** Gives the composer a file, as by pasting or dropping it: a text, so many zeros, or a picture. */
async function give(half, how, { name, type, content, bytes, width = 900, height = 600 }) {
  await half.locator(".composer").evaluate(
    async (form, [kind, fileName, fileType, text, zeros, wide, high]) => {
      const draw = () => {
        const canvas = new OffscreenCanvas(wide, high);
        const context = canvas.getContext("2d");
        const sky = context.createLinearGradient(0, 0, wide, high);
        sky.addColorStop(0, "#4353d0");
        sky.addColorStop(1, "#f0a050");
        context.fillStyle = sky;
        context.fillRect(0, 0, wide, high);
        return canvas.convertToBlob({ type: fileType });
      };
      const made = zeros === undefined ? text : new Uint8Array(zeros);
      const blob = made === undefined ? await draw() : new Blob([made], { type: fileType });
      const data = new DataTransfer();
      data.items.add(new File([blob], fileName, { type: fileType }));
      if (kind === "paste")
        form.querySelector("textarea").dispatchEvent(new ClipboardEvent("paste", { clipboardData: data, bubbles: true, cancelable: true }));
      else form.dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true }));
    },
    [how, name, type, content, bytes, width, height],
  );
}
