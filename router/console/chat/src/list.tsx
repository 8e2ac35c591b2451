/** A user's conversations, the latest first. */
import { useEffect, useRef, useState } from "preact/hooks";
import { memo } from "preact/compat";
import type { ChatClient, ListEntry, MessagePreview, Status } from "@backscroll/client";
import { useConnection, usePresence } from "@backscroll/client/react";
import { Avatar } from "./avatar.js";
import { Pin } from "./icons.js";
import { count, nameOf, partnerOf, shortTime, titleOf } from "./text.js";

interface Props {
  client: ChatClient;
  me: string;
  conversations: readonly ListEntry[];
  /** Why the list cannot be loaded, while that is tried again. */
  problem: string | undefined;
  selected: string | null;
  open: (id: string) => void;
}

export function ConversationList({ client, me, conversations, problem, selected, open }: Props) {
  const presence = usePresence(client);
  const { state } = useConnection(client);
  const [wanted, setWanted] = useState("");
  const list = useRef<HTMLUListElement>(null);
  const found = conversations.filter((entry) => titleOf(entry, me).toLowerCase().includes(wanted.trim().toLowerCase()));
  const [waited, setWaited] = useState(false);
  useEffect(() => {
    const timer = setTimeout(() => setWaited(true), 600);
    return () => clearTimeout(timer);
  }, []);

  const move = (event: KeyboardEvent) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step === undefined) return;
    event.preventDefault();
    const rows = [...list.current!.querySelectorAll("a")];
    const at = rows.indexOf(document.activeElement as HTMLAnchorElement);
    rows[Math.min(Math.max(at + step, 0), rows.length - 1)]?.focus();
  };
  return (
    <>
      <div class="find">
        <input
          type="search"
          placeholder="Find a conversation"
          aria-label="Find a conversation"
          value={wanted}
          onInput={(event) => setWanted(event.currentTarget.value)}
          onKeyDown={move}
        />
      </div>
      <ul class="conversations" ref={list} onKeyDown={move}>
        {found.map((entry) => (
          <Row
            key={entry.id}
            entry={entry}
            me={me}
            selected={entry.id === selected}
            status={presence.get(partnerOf(entry, me) ?? "")?.status}
            open={open}
          />
        ))}
        {conversations.length === 0 &&
          (state !== "connected" || !waited) &&
          [1, 2, 3, 4, 5, 6].map((row) => (
            <li key={row} class="skeleton row" aria-hidden="true">
              <i />
              <b />
            </li>
          ))}
      </ul>
      {problem !== undefined && conversations.length === 0 && (
        <p class="none" role="alert">
          The conversations cannot be loaded just now: {problem}
        </p>
      )}
      {found.length === 0 &&
        problem === undefined &&
        (conversations.length > 0 ? (
          <p class="none">No conversation has this name.</p>
        ) : (
          waited && state === "connected" && <p class="none">No conversations yet.</p>
        ))}
    </>
  );
}

interface RowProps {
  entry: ListEntry;
  me: string;
  selected: boolean;
  status: Status | undefined;
  open: (id: string) => void;
}

const Row = memo(function Row({ entry, me, selected, status, open }: RowProps) {
  const { lastMessage, unreadCount, kind } = entry;
  const title = titleOf(entry, me);
  const choose = (event: MouseEvent) => {
    if (event.metaKey || event.ctrlKey || event.shiftKey) return;
    event.preventDefault();
    open(entry.id);
  };
  return (
    <li>
      <a
        href={`#c=${entry.id}`}
        class={`row ${unreadCount > 0 ? "unread" : ""}`}
        aria-current={selected ? "page" : undefined}
        onClick={choose}
      >
        <Avatar
          id={partnerOf(entry, me) ?? entry.id}
          status={status}
          {...(kind === "channel" && { sign: "#" })}
          {...(kind === "group" && { sign: title[0]!.toUpperCase() })}
        />
        <span class="top">
          <span class="title">{title}</span>
          {entry.pinned && <Pin />}
          {lastMessage && <time dateTime={lastMessage.createdAt}>{shortTime(lastMessage.createdAt)}</time>}
        </span>
        <span class="bottom">
          <span class="preview">
            {lastMessage ? <Preview message={lastMessage} me={me} direct={kind === "direct"} /> : "No messages yet"}
          </span>
          {unreadCount > 0 && (
            <span class={`badge ${entry.muted ? "muted" : ""}`} aria-label={`${count(unreadCount)} unread`}>
              {unreadCount > 999 ? "999+" : unreadCount}
            </span>
          )}
        </span>
      </a>
    </li>
  );
});

const KINDS: Record<string, string> = { image: "Photo", voice: "Voice message", file: "File" };

function Preview({ message, me, direct }: { message: MessagePreview; me: string; direct: boolean }) {
  const { senderId, content, messageType, deleted } = message;
  const sender = senderId === me ? "You: " : direct ? "" : `${nameOf(senderId)}: `;
  return (
    <>
      {sender}
      {deleted ? "Deleted message" : content || KINDS[messageType]}
    </>
  );
}
