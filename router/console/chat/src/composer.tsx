/** Where one writes, answers, changes, attaches and records. */
import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import type { ChatClient, MessageType, StoredMessage, UploadItem } from "@backscroll/client";
import { useUpload, type Chat } from "@backscroll/client/react";
import { useDrop } from "./drop.js";
import { Clip, Close, Mic, Pencil, Reply, Send } from "./icons.js";
import { duration, nameOf } from "./text.js";
import { Tray } from "./tray.js";
import { useVoice } from "./voice.js";

/** What the next message does to another one. */
export interface Answering {
  readonly kind: "reply" | "edit";
  readonly message: StoredMessage;
}

interface Props {
  client: ChatClient;
  id: string;
  me: string;
  chat: Chat;
  answering: Answering | undefined;
  done: () => void;
  edit: (message: StoredMessage) => void;
  sent: () => void;
}

/** The server's bound on attachments of a message. */
const FILES_MAX = 10;

export function Composer({ client, id, me, chat, answering, done, edit, sent }: Props) {
  const [text, setText] = useState("");
  const [problem, setProblem] = useState("");
  const [dropping, setDropping] = useState(false);
  const files = useUpload(client, id);
  const form = useRef<HTMLFormElement>(null);
  const field = useRef<HTMLTextAreaElement>(null);
  const picker = useRef<HTMLInputElement>(null);
  /** Recordings that are sent as soon as they are uploaded. */
  const sendsItself = useRef(new Set<string>());
  const voice = useVoice((blob) => void sendVoice(blob), setProblem);
  const editing = answering?.kind === "edit" ? answering.message : undefined;
  const gone = chat.status === "left" || chat.status === "failed";

  useEffect(() => {
    // Where there is a keyboard one writes at once; the other half keeps its focus.
    const pane = form.current?.closest(".pane");
    if (matchMedia("(hover: hover)").matches && pane?.contains(document.activeElement)) field.current?.focus();
  }, []);
  useEffect(() => {
    if (!answering) return;
    if (answering.kind === "edit") setText(answering.message.content);
    field.current?.focus();
  }, [answering]);
  useLayoutEffect(() => {
    const area = field.current!;
    area.style.height = "auto";
    area.style.height = `${area.scrollHeight}px`;
  }, [text]);
  useDrop(form, setDropping, (list) => add(list));

  const add = (list: Iterable<File>) => {
    setProblem("");
    try {
      for (const file of [...list].slice(0, FILES_MAX - files.uploads.length)) files.upload(file);
    } catch (thrown) {
      setProblem((thrown as Error).message);
    }
  };
  const deliver = (content: string, attached: readonly UploadItem[], messageType: MessageType) => {
    const replyTo = answering?.kind === "reply" ? answering.message.id : undefined;
    const attachments = attached.flatMap(({ media }) => (media ? [{ mediaId: media.mediaId }] : []));
    chat.sendMessage(content, { messageType, ...(attachments.length > 0 && { attachments }), ...(replyTo && { replyTo }) });
    for (const { id: file } of attached) files.used(file);
    done();
    sent();
  };
  const sendVoice = async (blob: Blob) => {
    const fileName = `voice.${blob.type.includes("mp4") ? "m4a" : "webm"}`;
    let file = "";
    try {
      const started = files.upload(blob, { kind: "voice", fileName });
      file = started.id;
      sendsItself.current.add(file);
      await started.ready;
      const item = client.uploads.items.get().find(({ id: one }) => one === file);
      if (item) deliver("", [item], "voice");
    } catch (thrown) {
      setProblem((thrown as Error).message);
    } finally {
      sendsItself.current.delete(file);
    }
  };
  const tray = files.uploads.filter((item) => !sendsItself.current.has(item.id));
  const waiting = tray.some(({ phase }) => phase !== "ready");
  const empty = text.trim() === "" && tray.length === 0;

  const submit = () => {
    const content = text.trim();
    if (empty || waiting) return;
    setProblem("");
    try {
      if (editing) {
        if (content !== editing.content) void chat.editMessage(editing.id, content).catch((error: Error) => setProblem(error.message));
        done();
      } else {
        deliver(content, tray, typeOf(tray));
      }
      setText("");
    } catch (thrown) {
      setProblem((thrown as Error).message);
    }
  };
  const leaveAnswer = () => {
    if (editing) setText("");
    done();
  };
  const onKeyDown = (event: KeyboardEvent) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      submit();
    } else if (event.key === "Escape" && answering) {
      leaveAnswer();
    } else if (event.key === "ArrowUp" && text === "") {
      const last = chat.messages.findLast(
        (message): message is StoredMessage => message.state === "sent" && message.senderId === me && !message.deletedAt,
      );
      if (last) {
        event.preventDefault();
        edit(last);
      }
    }
  };
  const onPaste = (event: ClipboardEvent) => {
    const pasted = [...(event.clipboardData?.files ?? [])];
    if (pasted.length === 0) return;
    event.preventDefault();
    add(pasted);
  };
  return (
    <form
      class="composer"
      ref={form}
      onSubmit={(event) => {
        event.preventDefault();
        submit();
      }}
    >
      {dropping && (
        <div class="drop" aria-hidden="true">
          Drop files to attach them
        </div>
      )}
      {answering && <Answer answering={answering} me={me} leave={leaveAnswer} />}
      {tray.length > 0 && <Tray items={tray} retry={files.retry} cancel={files.cancel} />}
      {problem && (
        <p class="problem" role="alert">
          {problem}
        </p>
      )}
      {voice.recording ? (
        <Recording {...voice} />
      ) : (
        <div class="line">
          <input
            ref={picker}
            type="file"
            multiple
            hidden
            onChange={(event) => (add(event.currentTarget.files ?? []), (event.currentTarget.value = ""))}
          />
          <button
            type="button"
            class="round"
            aria-label="Attach files"
            title="Attach files"
            disabled={gone || editing !== undefined}
            onClick={() => picker.current?.click()}
          >
            <Clip />
          </button>
          <textarea
            ref={field}
            rows={1}
            maxLength={5_000}
            placeholder="Message"
            aria-label="Message"
            value={text}
            disabled={gone}
            onInput={(event) => {
              setText(event.currentTarget.value);
              if (!editing && event.currentTarget.value !== "") chat.typing();
            }}
            onKeyDown={onKeyDown}
            onPaste={onPaste}
          />
          {empty && !editing ? (
            <button
              type="button"
              class="round"
              aria-label="Record a voice message"
              title="Record a voice message"
              disabled={gone}
              onClick={voice.start}
            >
              <Mic />
            </button>
          ) : (
            <button type="submit" class="round primary" aria-label={editing ? "Save" : "Send"} disabled={empty || waiting}>
              <Send />
            </button>
          )}
        </div>
      )}
    </form>
  );
}

/** What a message with these files is. */
function typeOf(files: readonly UploadItem[]): MessageType {
  const [first] = files;
  if (!first) return "text";
  return files.every(({ kind }) => kind === first.kind) ? first.kind : "file";
}

/** What is replied to or changed, above the text. */
function Answer({ answering: { kind, message }, me, leave }: { answering: Answering; me: string; leave: () => void }) {
  const to = message.senderId === me ? "yourself" : nameOf(message.senderId);
  return (
    <div class="answering">
      {kind === "edit" ? <Pencil /> : <Reply />}
      <span class="names">
        <strong>{kind === "edit" ? "Change your message" : `Reply to ${to}`}</strong>
        <span>{message.content || "Attachment"}</span>
      </span>
      <button type="button" class="round small" aria-label="Cancel" onClick={leave}>
        <Close />
      </button>
    </div>
  );
}

/** In place of the text while a voice message is recorded. */
function Recording({ recordedMs, discard, finish }: { recordedMs: number; discard: () => void; finish: () => void }) {
  return (
    <div class="line recorder">
      <button type="button" class="round" aria-label="Discard the recording" onClick={discard}>
        <Close />
      </button>
      <p role="status">
        <i aria-hidden="true" />
        Recording <time>{duration(recordedMs)}</time>
      </p>
      <button type="button" class="round primary" aria-label="Send the recording" onClick={finish}>
        <Send />
      </button>
    </div>
  );
}
