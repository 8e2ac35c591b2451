/** Looking for messages of one conversation. */
import { useEffect, useRef, useState } from "preact/hooks";
import type { ChatClient, SearchHit } from "@backscroll/client";
import { useSearch } from "@backscroll/client/react";
import { Close } from "./icons.js";
import { count, dayOf, nameOf, shortTime } from "./text.js";

interface Props {
  client: ChatClient;
  id: string;
  /** Shows a message in the conversation. */
  show: (seq: number) => void;
  leave: () => void;
}

/** How long after the last key the search begins. */
const REST_MS = 250;
/** Characters of a message that are shown before the first word found, and in all. */
const BEFORE = 40;
const SHOWN = 240;

export function SearchPanel({ client, id, show, leave }: Props) {
  const [typed, setTyped] = useState("");
  const [wanted, setWanted] = useState("");
  const field = useRef<HTMLInputElement>(null);
  useEffect(() => field.current?.focus(), []);
  useEffect(() => {
    const timer = setTimeout(() => setWanted(typed.trim()), REST_MS);
    return () => clearTimeout(timer);
  }, [typed]);
  const { hits, searching, hasMore, partial, searchedTo, error, more } = useSearch(
    client,
    wanted === "" ? undefined : { q: wanted, conversationId: id, limit: 30 },
  );
  const state = searching
    ? `Searching${searchedTo ? `, back to ${dayOf(searchedTo.createdAt)}` : ""} …`
    : error
      ? `The search failed: ${error.message}`
      : wanted === ""
        ? 'Words, "a phrase", from:user, before:2026-01-31, after:, has:link'
        : `${count(hits.length)}${hasMore ? "+" : ""} ${hits.length === 1 ? "message" : "messages"}${partial ? "; some could not be read just now" : ""}`;
  return (
    <section class="search" aria-label="Search this conversation" onKeyDown={(event) => event.key === "Escape" && leave()}>
      <div class="find">
        <input
          ref={field}
          type="search"
          placeholder="Search this conversation"
          aria-label="Search this conversation"
          value={typed}
          onInput={(event) => setTyped(event.currentTarget.value)}
        />
        <button type="button" class="round" onClick={leave} aria-label="Close the search">
          <Close />
        </button>
      </div>
      <p class="state" role="status">
        {state}
      </p>
      <ol>
        {hits.map((hit) => (
          <li key={hit.message.id}>
            <button type="button" onClick={() => show(hit.message.seq)}>
              <b>{nameOf(hit.message.senderId)}</b>
              <time dateTime={hit.message.createdAt} title={dayOf(hit.message.createdAt)}>
                {shortTime(hit.message.createdAt)}
              </time>
              <span>
                <Text hit={hit} />
              </span>
            </button>
          </li>
        ))}
      </ol>
      {hasMore && !searching && (
        <button type="button" class="plain" onClick={more}>
          Search on
        </button>
      )}
    </section>
  );
}

/** The text around the first word found, with all words marked. */
function Text({ hit: { message, ranges } }: { hit: SearchHit }) {
  const text = message.content;
  const from = Math.max(0, (ranges[0]?.[0] ?? 0) - BEFORE);
  const to = Math.min(text.length, from + SHOWN);
  const parts = [];
  let at = from;
  for (const [start, end] of ranges as [number, number][]) {
    if (end > to) break;
    parts.push(text.slice(at, start), <mark key={start}>{text.slice(start, end)}</mark>);
    at = end;
  }
  return (
    <>
      {from > 0 && "… "}
      {parts}
      {text.slice(at, to) || (parts.length === 0 && "(a file)")}
      {to < text.length && " …"}
    </>
  );
}
