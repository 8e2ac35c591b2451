/** One user's half, or all, of the window: their conversations, and the one that is open. */
import { useEffect, useMemo, useState } from "preact/hooks";
import type { ChatClient } from "@backscroll/client";
import { useConnection, useConversations } from "@backscroll/client/react";
import { Avatar } from "./avatar.js";
import { Close, Columns, Leave, Logo } from "./icons.js";
import { ConversationList } from "./list.js";
import { Room } from "./room.js";
import { signOut, type Person } from "./session.js";
import { nameOf, partnerOf } from "./text.js";

interface Props {
  client: ChatClient;
  me: string;
  people: readonly Person[];
  conversation: string | null;
  open: (id: string | null) => void;
  become: (userId: string) => void;
  addBeside?: () => void;
  leave?: () => void;
}

/** Most users whose presence is asked for; the server's bound. */
const WATCHED = 200;

export function Pane({ client, me, people, conversation, open, become, addBeside, leave }: Props) {
  const { conversations, unread, error } = useConversations(client);
  const entry = conversations.find(({ id }) => id === conversation);
  const watched = useMemo(() => {
    const users = [...(entry?.members ?? []), ...conversations.flatMap((one) => partnerOf(one, me) ?? [])];
    return [...new Set(users)]
      .filter((user) => user !== me)
      .slice(0, WATCHED)
      .sort();
  }, [conversations, entry, me]);
  const watchedNow = watched.join(" ");
  useEffect(() => client.presence.watch(watched), [client, watchedNow]);
  useEffect(() => {
    if (!leave) document.title = unread.total > 0 ? `(${unread.total > 999 ? "999+" : unread.total}) Backscroll` : "Backscroll";
  }, [unread.total, leave]);
  return (
    <section class={`pane ${conversation ? "in-room" : "in-list"}`} aria-label={`${nameOf(me)}'s chat`}>
      <h1 class="hidden">{nameOf(me)}'s chat</h1>
      <Status client={client} />
      <nav class="side" aria-label={`${nameOf(me)}'s conversations`}>
        <header class="bar">
          <Avatar id={me} />
          <Who me={me} people={people} become={become} />
          {addBeside && (
            <button
              type="button"
              class="round"
              onClick={addBeside}
              aria-label="Side by side with another user"
              title="Side by side with another user"
            >
              <Columns />
            </button>
          )}
          {leave ? (
            <button type="button" class="round" onClick={leave} aria-label={`Close ${nameOf(me)}'s half`} title="Close this half">
              <Close />
            </button>
          ) : (
            <button type="button" class="round" onClick={signOut} aria-label="Sign out" title="Sign out">
              <Leave />
            </button>
          )}
        </header>
        <ConversationList
          client={client}
          me={me}
          conversations={conversations}
          problem={error?.message}
          selected={conversation}
          open={open}
        />
      </nav>
      {conversation ? (
        <Room
          key={conversation}
          client={client}
          id={conversation}
          entry={entry}
          me={me}
          back={() => open(null)}
          {...(leave && { leave })}
        />
      ) : (
        <div class="nothing-open">
          <Logo size={56} />
          <h2>Pick a conversation</h2>
          <p>Scroll back as far as you like: recent messages come from the database, old ones from the archive. A small mark says which.</p>
        </div>
      )}
    </section>
  );
}

function Who({ me, people, become }: Pick<Props, "me" | "people" | "become">) {
  if (people.length < 2) return <p class="who">{nameOf(me)}</p>;
  return (
    <select class="who" aria-label="User" value={me} onChange={(event) => become(event.currentTarget.value)}>
      {people.map(({ userId }) => (
        <option key={userId} value={userId}>
          {nameOf(userId)}
        </option>
      ))}
    </select>
  );
}

/** Over the top edge while there is no connection; a moment of it is not worth a word. */
function Status({ client }: { client: ChatClient }) {
  const { state, error } = useConnection(client);
  const [late, setLate] = useState(false);
  const fine = state === "connected";
  useEffect(() => {
    setLate(false);
    const timer = setTimeout(() => setLate(true), 1_500);
    return () => clearTimeout(timer);
  }, [fine]);
  const over = state === "closed" && error !== undefined;
  const words = over ? `Not connected: ${error.message}` : navigator.onLine ? "Connecting…" : "You are offline. Messages are sent later.";
  return (
    <div class={`status ${!fine && (late || over) ? "shown" : ""}`} role="status">
      {!fine && (late || over) ? words : ""}
    </div>
  );
}
