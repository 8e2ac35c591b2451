/** One conversation: its head, its messages, and where one writes. */
import { useCallback, useEffect, useMemo, useRef, useState } from "preact/hooks";
import type { ChatClient, ChatMessage, ListEntry } from "@backscroll/client";
import { useChat, usePresence, type Chat } from "@backscroll/client/react";
import { Avatar } from "./avatar.js";
import { Composer, type Answering } from "./composer.js";
import { Back, Close, Find } from "./icons.js";
import type { MessageActions } from "./message.js";
import { Rail } from "./rail.js";
import { SearchPanel } from "./search.js";
import { count, dayOf, lastSeen, nameOf, namesOf, partnerOf, seqOf, titleOf } from "./text.js";
import { Timeline, type Target } from "./timeline.js";
import { tierOf, useTiers, type Stretch } from "./tiers.js";

interface Props {
  client: ChatClient;
  id: string;
  entry: ListEntry | undefined;
  me: string;
  back: () => void;
  leave?: () => void;
}

export function Room({ client, id, entry, me, back, leave }: Props) {
  const chat = useChat(client, id);
  const tiers = useTiers(client, id);
  const [seen, setSeen] = useState<Seen>({ seq: 0, at: "", atEnd: true, dayShown: false });
  const [target, setTarget] = useState<Target>();
  const [answering, setAnswering] = useState<Answering>();
  const [searching, setSearching] = useState(false);
  const newFrom = useFirstUnread(entry, chat);
  const latest = useRef(chat);
  latest.current = chat;

  const jump = useCallback(async (seq: number) => {
    const { messages, jumpTo } = latest.current;
    const shown = messages.some((message) => "seq" in message && message.seq === seq);
    if (!shown) await jumpTo(seq).catch(() => undefined); // the window stays where it is
    setTarget({ seq, asked: performance.now() });
  }, []);
  const toEnd = useCallback(async () => {
    if (latest.current.hasMoreAfter) await latest.current.jumpToLatest().catch(() => undefined);
    setTarget({ seq: "end", asked: performance.now() });
  }, []);
  useRead(chat, seen);

  const actions = useMemo<MessageActions>(
    () => ({
      reply: (message) => setAnswering({ kind: "reply", message }),
      edit: (message) => setAnswering({ kind: "edit", message }),
      remove: (message) => latest.current.deleteMessage(message.id),
      react: (message, emoji) => {
        const remove = message.reactions[emoji]?.includes(me) ?? false;
        return latest.current.react(message.id, emoji, { remove });
      },
      retry: (clientMsgId) => latest.current.retryMessage(clientMsgId),
      discard: (clientMsgId) => latest.current.discardMessage(clientMsgId),
      show: (messageId) => void jump(seqOf(messageId)),
    }),
    [me, jump],
  );
  const behind = entry ? Math.max(0, entry.headSeq - Math.max(entry.readSeq, 0)) : 0;
  return (
    <div class="room">
      <Head client={client} entry={entry} me={me} chat={chat} back={back} tier={tierOf(tiers, seen.seq)} search={() => setSearching(!searching)} {...(leave && { leave })} />
      <div class="stage">
        {searching && <SearchPanel client={client} id={id} show={(seq) => void jump(seq)} leave={() => setSearching(false)} />}
        <Timeline
          client={client}
          chat={chat}
          me={me}
          named={entry?.kind !== "direct"}
          tiers={tiers}
          newFrom={newFrom}
          target={target}
          actions={actions}
          seen={setSeen}
        />
        {chat.headSeq > 200 && <Rail headSeq={chat.headSeq} seq={seen.seq} at={seen.at} tiers={tiers} jump={jump} />}
        <p class={`date-pill ${!seen.atEnd && seen.at && !seen.dayShown ? "shown" : ""}`} aria-hidden="true">
          {seen.at && dayOf(seen.at)}
        </p>
        <button
          type="button"
          class={`round to-end ${seen.atEnd && !chat.hasMoreAfter ? "" : "shown"}`}
          onClick={toEnd}
          aria-label="To the newest message"
          tabIndex={seen.atEnd && !chat.hasMoreAfter ? -1 : 0}
        >
          <Back />
          {behind > 0 && !seen.atEnd && <span class="badge">{behind}</span>}
        </button>
      </div>
      <Announce messages={chat.messages} me={me} />
      <Composer
        client={client}
        id={id}
        me={me}
        chat={chat}
        answering={answering}
        done={() => setAnswering(undefined)}
        edit={actions.edit}
        sent={toEnd}
      />
    </div>
  );
}

export interface Seen {
  /** The first message that can be seen, and when it was sent. */
  seq: number;
  at: string;
  /** The newest message can be seen. */
  atEnd: boolean;
  /** The line of a day can be seen near the top. */
  dayShown: boolean;
}

/** What was new when the conversation was opened; it stays marked while it is open. */
function useFirstUnread(entry: ListEntry | undefined, chat: Chat): number | undefined {
  const found = useRef<number | null | undefined>(undefined);
  if (found.current === undefined && entry && chat.status === "ready") {
    found.current = entry.unreadCount > 0 ? entry.readSeq + 1 : null;
  }
  return found.current ?? undefined;
}

/** Read is what was on the screen while the page was in front. */
function useRead(chat: Chat, seen: Seen): void {
  const { status, headSeq, markRead, hasMoreAfter } = chat;
  useEffect(() => {
    const mark = () => {
      if (status === "ready" && seen.atEnd && !hasMoreAfter && document.visibilityState === "visible") markRead();
    };
    mark();
    document.addEventListener("visibilitychange", mark);
    return () => document.removeEventListener("visibilitychange", mark);
  }, [status, headSeq, seen.atEnd, hasMoreAfter, markRead]);
}

interface HeadProps extends Omit<Props, "id"> {
  chat: Chat;
  tier: Stretch | undefined;
  search: () => void;
}

function Head({ client, entry, me, chat, back, leave, tier, search }: HeadProps) {
  const presence = usePresence(client);
  const partner = entry && partnerOf(entry, me);
  const there = partner === undefined ? undefined : presence.get(partner);
  const typing = chat.typingUsers;
  const online = entry?.members.filter((user) => user !== me && (presence.get(user)?.status ?? "offline") !== "offline").length ?? 0;
  const calm =
    partner === undefined
      ? `${count(entry?.memberCount ?? 0)} members${online > 0 ? `, ${online} online` : ""}`
      : there && there.status !== "offline"
        ? there.status
        : lastSeen(there?.lastSeen);
  const words =
    typing.length === 0
      ? calm
      : partner === undefined
        ? `${namesOf(typing.slice(0, 3))} ${typing.length > 1 ? "are" : "is"} typing`
        : "typing";
  return (
    <header class="bar">
      <button type="button" class="round back" onClick={back} aria-label="Back to the conversations">
        <Back />
      </button>
      {entry && (
        <Avatar
          id={partner ?? entry.id}
          status={there?.status}
          {...(entry.kind === "channel" && { sign: "#" })}
          {...(entry.kind === "group" && { sign: titleOf(entry, me)[0]!.toUpperCase() })}
        />
      )}
      <div class="names">
        <h2>{entry ? titleOf(entry, me) : " "}</h2>
        <p class={typing.length > 0 ? "typing" : ""}>
          {entry ? words : " "}
          {typing.length > 0 && (
            <span class="dots" aria-hidden="true">
              <i />
              <i />
              <i />
            </span>
          )}
        </p>
      </div>
      {tier && <Tier tier={tier} />}
      <button type="button" class="round" onClick={search} aria-label="Search this conversation" title="Search this conversation">
        <Find />
      </button>
      {leave && (
        <button type="button" class="round leave" onClick={leave} aria-label={`Close ${nameOf(me)}'s half`} title="Close this half">
          <Close />
        </button>
      )}
    </header>
  );
}

function Tier({ tier }: { tier: Stretch }) {
  const took = tier.tookMs < 10 ? tier.tookMs.toFixed(1) : Math.round(tier.tookMs).toString();
  const name = tier.archive ? "archive" : "database";
  return (
    <p
      class={`tier ${name}`}
      title={`Messages ${count(tier.from)} to ${count(tier.to)} were read from the ${name}; their page came in ${took} ms`}
    >
      <i aria-hidden="true" />
      {name}
      <span> {took} ms</span>
    </p>
  );
}

/** New messages of others, for screen readers. */
function Announce({ messages, me }: { messages: readonly ChatMessage[]; me: string }) {
  const last = messages.at(-1);
  const [opened] = useState(() => new Date().toISOString());
  const isNew = last && last.senderId !== me && last.createdAt > opened;
  return (
    <p class="hidden" role="status" aria-live="polite">
      {isNew ? `${nameOf(last.senderId)}: ${last.content}` : ""}
    </p>
  );
}
