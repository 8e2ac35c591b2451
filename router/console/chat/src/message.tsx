/** One message, and what can be done with it. */
import { useEffect, useRef, useState } from "preact/hooks";
import { memo } from "preact/compat";
import type { ChatClient, ChatMessage, StoredMessage } from "@backscroll/client";
import { Attachment, attachmentOf } from "./attachment.js";
import { Avatar } from "./avatar.js";
import { Bin, Pencil, Reply, Smile, Ticks } from "./icons.js";
import { fullTime, hueOf, isOnlyEmoji, nameOf, namesOf, partsOf, timeOf } from "./text.js";

export interface MessageActions {
  reply(message: StoredMessage): void;
  edit(message: StoredMessage): void;
  remove(message: StoredMessage): Promise<unknown>;
  react(message: StoredMessage, emoji: string): Promise<unknown>;
  retry(clientMsgId: string): void;
  discard(clientMsgId: string): void;
  /** Shows the message with this id. */
  show(messageId: string): void;
}

interface Props {
  id: string;
  client: ChatClient;
  message: ChatMessage;
  me: string;
  named: boolean;
  /** The first and the last of those that stand together. */
  first: boolean;
  last: boolean;
  archived: boolean;
  active: boolean;
  flashed: boolean;
  /** What it replies to, if that is loaded. */
  answered: StoredMessage | undefined;
  actions: MessageActions;
}

const EMOJI = ["👍", "❤️", "😂", "😮", "😢", "🎉", "🙏", "✅"];

export const MessageRow = memo(function MessageRow(props: Props) {
  const { id, client, message, me, named, first, last, archived, active, flashed, answered, actions } = props;
  const own = message.senderId === me;
  const stored = message.state === "sent" ? message : undefined;
  const deleted = stored?.deletedAt != null;
  const files = deleted ? [] : message.attachments.flatMap((attachment) => attachmentOf(attachment) ?? []);
  const bare = !deleted && files.length === 0 && !message.replyTo && isOnlyEmoji(message.content);
  const mentioned = !own && (stored?.mentions ?? []).some((user) => user === me || user === "@all");
  const onlyFiles = files.length > 0 && message.content === "";
  const classes = [
    "message",
    own && "own",
    first && "first",
    last && "last",
    archived && "archived",
    active && "active",
    flashed && "flashed",
    bare && "bare",
    deleted && "deleted",
    mentioned && "mentioned",
    message.state,
  ];
  const name = own ? "You" : nameOf(message.senderId);
  const meta = (
    <span class="meta">
      {stored?.replyCount ? <span>{stored.replyCount === 1 ? "1 reply" : `${stored.replyCount} replies`}</span> : null}
      {stored?.pinnedAt && !deleted && <span>pinned</span>}
      {stored?.editedAt && !deleted && <span>edited</span>}
      <time dateTime={message.createdAt} title={fullTime(message.createdAt)}>
        {timeOf(message.createdAt)}
      </time>
      {own && !deleted && <Ticks state={stored ? stored.status : message.state === "failed" ? "failed" : "sending"} />}
    </span>
  );
  return (
    <li class={classes.filter(Boolean).join(" ")} data-key={id} tabIndex={-1}>
      {!own && named && (last ? <Avatar id={message.senderId} /> : <span class="avatar-room" />)}
      <div class="body">
        <div class="bubble">
          {named && first && !own ? (
            <strong class="sender" style={{ "--hue": String(hueOf(message.senderId)) }}>
              {name}
            </strong>
          ) : (
            <span class="hidden">{name}: </span>
          )}
          {message.replyTo && !deleted && <Quote id={message.replyTo} message={answered} me={me} show={actions.show} />}
          {files.map((file) => (
            <Attachment key={file.mediaId} client={client} file={file} />
          ))}
          {deleted ? (
            <span class="text">This message was deleted</span>
          ) : (
            !onlyFiles && (
              <span class="text">
                <Text text={message.content} />
              </span>
            )
          )}
          {meta}
        </div>
        {stored && !deleted && <Reactions message={stored} me={me} actions={actions} />}
        {message.state === "failed" && (
          <p class="failed-actions">
            Not sent: {message.error?.message}
            <button type="button" onClick={() => actions.retry(message.clientMsgId)}>
              Try again
            </button>
            <button type="button" onClick={() => actions.discard(message.clientMsgId)}>
              Discard
            </button>
          </p>
        )}
        {active && stored && !deleted && <Toolbar message={stored} own={own} actions={actions} />}
      </div>
    </li>
  );
});

function Text({ text }: { text: string }) {
  const parts = [...partsOf(text)];
  return (
    <>
      {parts.map(({ text: part, link }, at) =>
        link ? (
          <a key={at} href={part} target="_blank" rel="noopener noreferrer">
            {part}
          </a>
        ) : (
          part
        ),
      )}
    </>
  );
}

function Quote({ id, message, me, show }: { id: string; message: StoredMessage | undefined; me: string; show: (id: string) => void }) {
  const sender = message && (message.senderId === me ? "You" : nameOf(message.senderId));
  return (
    <button type="button" class="quote" style={{ "--hue": String(hueOf(message?.senderId ?? id)) }} onClick={() => show(id)}>
      <strong>{sender ?? "An earlier message"}</strong>
      <span>{message ? (message.deletedAt ? "Deleted" : message.content || "Attachment") : "Show it"}</span>
    </button>
  );
}

function Reactions({ message, me, actions }: { message: StoredMessage; me: string; actions: MessageActions }) {
  const reactions = Object.entries(message.reactions).filter(([, users]) => users.length > 0);
  if (reactions.length === 0) return null;
  return (
    <div class="reactions">
      {reactions.map(([emoji, users]) => (
        <button
          key={emoji}
          type="button"
          aria-pressed={users.includes(me)}
          title={namesOf(users)}
          onClick={() => void actions.react(message, emoji).catch(() => undefined)}
        >
          {emoji}
          <span>{users.length}</span>
          <span class="hidden"> by {namesOf(users)}</span>
        </button>
      ))}
    </div>
  );
}

function Toolbar({ message, own, actions }: { message: StoredMessage; own: boolean; actions: MessageActions }) {
  const [choosing, setChoosing] = useState(false);
  const [sure, setSure] = useState(false);
  const [problem, setProblem] = useState("");
  const group = useRef<HTMLDivElement>(null);
  useEffect(() => {
    if (choosing) group.current?.querySelector<HTMLElement>(".emoji button")?.focus();
  }, [choosing]);
  const attempt = (work: Promise<unknown>) => void work.catch((error: Error) => setProblem(error.message));
  const react = (emoji: string) => {
    setChoosing(false);
    attempt(actions.react(message, emoji));
  };
  const move = (event: KeyboardEvent) => {
    if (event.key === "Escape") setChoosing(false);
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (step === undefined) return;
    event.preventDefault();
    const buttons = [...group.current!.querySelectorAll("button")];
    buttons[(buttons.indexOf(document.activeElement as HTMLButtonElement) + step + buttons.length) % buttons.length]?.focus();
  };
  return (
    <div class="toolbar" role="group" aria-label="Message" ref={group} onKeyDown={move}>
      {choosing ? (
        <div class="emoji">
          {EMOJI.map((emoji) => (
            <button key={emoji} type="button" aria-label={`React with ${emoji}`} onClick={() => react(emoji)}>
              {emoji}
            </button>
          ))}
        </div>
      ) : (
        <>
          <button type="button" aria-label="React" title="React" onClick={() => setChoosing(true)}>
            <Smile />
          </button>
          <button type="button" aria-label="Reply" title="Reply" onClick={() => actions.reply(message)}>
            <Reply />
          </button>
          {own && (
            <button type="button" aria-label="Edit" title="Edit" onClick={() => actions.edit(message)}>
              <Pencil />
            </button>
          )}
          {own && !sure && (
            <button type="button" aria-label="Delete" title="Delete" onClick={() => setSure(true)}>
              <Bin />
            </button>
          )}
          {own && sure && (
            <button type="button" class="sure" autofocus onClick={() => attempt(actions.remove(message))}>
              Delete it
            </button>
          )}
        </>
      )}
      {problem && <p role="alert">{problem}</p>}
    </div>
  );
}
