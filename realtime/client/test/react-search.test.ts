// @vitest-environment happy-dom
import { act, createElement } from "react";
import { createRoot, type Root } from "react-dom/client";
import { afterEach, expect, test } from "vitest";
import { useSearch, type Search } from "../src/react.js";
import type { ChatClient, Message, SearchPage, SearchRequest } from "../src/index.js";

(globalThis as { IS_REACT_ACT_ENVIRONMENT?: boolean }).IS_REACT_ACT_ENVIRONMENT = true;

let root: Root | undefined;
afterEach(() => act(() => root?.unmount()));

/** A client whose answers come when the test gives them. */
class Answers {
  readonly asked: SearchRequest[] = [];
  private readonly waiting: ((page: Partial<SearchPage> | Error) => void)[] = [];

  readonly client = {
    search: (request: SearchRequest) =>
      new Promise<SearchPage>((resolve, reject) => {
        this.asked.push(request);
        this.waiting.push((given) => (given instanceof Error ? reject(given) : resolve(page(given))));
      }),
  } as unknown as ChatClient;

  async give(...answers: (Partial<SearchPage> | Error)[]): Promise<void> {
    for (const answer of answers) await act(async () => this.waiting.shift()!(answer));
  }
}

function page(given: Partial<SearchPage>): SearchPage {
  return { hits: [], complete: given.cursor === undefined, scanned: { messages: 1, bytes: 1, ruledOut: 0 }, encryptedSkipped: 0, ...given };
}

const hit = (id: string) => ({ message: { id } as Message, ranges: [] });

/** Shows the search for what `ask` is given. */
async function shown(client: ChatClient): Promise<{ ask: (request?: SearchRequest) => Promise<void>; now: () => Search }> {
  let search: Search | undefined;
  const Shown = ({ request }: { request: SearchRequest | undefined }) => {
    search = useSearch(client, request);
    return null;
  };
  root = createRoot(document.createElement("div"));
  const ask = (request?: SearchRequest) => act(async () => root!.render(createElement(Shown, { request })));
  await ask();
  return { ask, now: () => search! };
}

const ids = (search: Search) => search.hits.map(({ message }) => message.id);

test("goes on by itself until there are hits, and further when asked", async () => {
  const answers = new Answers();
  const { ask, now } = await shown(answers.client);
  expect(answers.asked).toEqual([]);
  await ask({ q: "needle" });
  expect(now().searching).toBe(true);
  await answers.give({ cursor: "1" }, { cursor: "2", hits: [hit("a"), hit("b")] });
  expect(answers.asked).toEqual([{ q: "needle" }, { q: "needle", cursor: "1" }]);
  expect(now()).toMatchObject({ searching: false, hasMore: true, partial: false });
  await act(async () => now().more());
  await answers.give({ cursor: "3", unsearched: [{ conversationId: "c", fromSeq: 1 }] }, { hits: [hit("c")] });
  expect(ids(now())).toEqual(["a", "b", "c"]);
  expect(now()).toMatchObject({ searching: false, hasMore: false, partial: true });
});

test("shows nothing of an earlier request, and says what failed", async () => {
  const answers = new Answers();
  const { ask, now } = await shown(answers.client);
  await ask({ q: "first" });
  await ask({ q: "second" });
  await answers.give({ hits: [hit("first")] });
  expect(now()).toMatchObject({ hits: [], searching: true });
  await answers.give(new Error("no answer"));
  expect(now()).toMatchObject({ hits: [], searching: false, hasMore: false });
  expect(now().error?.message).toContain("no answer");
  await ask({ q: "third" });
  await answers.give({ hits: [hit("third")] });
  expect(ids(now())).toEqual(["third"]);
  expect(now().error).toBeUndefined();
  await ask();
  expect(now()).toMatchObject({ hits: [], searching: false });
});
