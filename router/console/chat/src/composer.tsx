/** Where one writes, answers, changes, attaches and records. */
import type { RefObject } from "preact";
import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import type { ChatClient, MessageType, StoredMessage, UploadItem } from "@backscroll/client";
import { useUpload, type Chat } from "@backscroll/client/react";
import { Clip, Close, Mic, Pencil, Reply, Send } from "./icons.js";
import { duration, nameOf, size } from "./text.js";
import { Recorder } from "./voice.js";

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
    try {
      const { id: file, ready } = files.upload(blob, { kind: "voice", fileName: `voice.${blob.type.includes("mp4") ? "m4a" : "webm"}` });
      await ready;
      const item = client.uploads.items.get().find((one) => one.id === file);
      if (item) deliver("", [item], "voice");
    } catch (thrown) {
      setProblem((thrown as Error).message);
    }
  };
  const tray = files.uploads.filter(({ kind, phase }) => kind !== "voice" || phase === "failed");
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
        const pictures = tray.length > 0 && tray.every(({ kind }) => kind === "image");
        deliver(content, tray, tray.length === 0 ? "text" : pictures ? "image" : "file");
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
      {answering && (
        <div class="answering">
          {editing ? <Pencil /> : <Reply />}
          <span class="names">
            <strong>
              {editing
                ? "Change your message"
                : `Reply to ${answering.message.senderId === me ? "yourself" : nameOf(answering.message.senderId)}`}
            </strong>
            <span>{answering.message.content || "Attachment"}</span>
          </span>
          <button type="button" class="round small" aria-label="Cancel" onClick={leaveAnswer}>
            <Close />
          </button>
        </div>
      )}
      {tray.length > 0 && (
        <ul class="tray" aria-label="Files to send">
          {tray.map((item) => (
            <TrayItem key={item.id} item={item} retry={files.retry} cancel={files.cancel} />
          ))}
        </ul>
      )}
      {problem && (
        <p class="problem" role="alert">
          {problem}
        </p>
      )}
      {voice.recording ? (
        <div class="line recorder">
          <button type="button" class="round" aria-label="Discard the recording" onClick={voice.discard}>
            <Close />
          </button>
          <p role="status">
            <i aria-hidden="true" />
            Recording <time>{duration(voice.recordedMs)}</time>
          </p>
          <button type="button" class="round primary" aria-label="Send the recording" onClick={voice.finish}>
            <Send />
          </button>
        </div>
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

/** Files that are dragged over this conversation. */
function useDrop(form: RefObject<HTMLFormElement | null>, setDropping: (dropping: boolean) => void, add: (files: File[]) => void): void {
  const latest = useRef(add);
  latest.current = add;
  useEffect(() => {
    const room = form.current?.closest<HTMLElement>(".room");
    if (!room) return;
    const carries = (event: DragEvent) => event.dataTransfer?.types.includes("Files") ?? false;
    const over = (event: DragEvent) => {
      if (!carries(event)) return;
      event.preventDefault();
      setDropping(true);
    };
    const end = (event: DragEvent) => {
      if (!room.contains(event.relatedTarget as Node | null)) setDropping(false);
    };
    const drop = (event: DragEvent) => {
      if (!carries(event)) return;
      event.preventDefault();
      setDropping(false);
      latest.current([...(event.dataTransfer?.files ?? [])]);
    };
    const events = { dragover: over, dragleave: end, drop } as const;
    const entries = Object.entries(events) as ["dragover" | "dragleave" | "drop", (event: DragEvent) => void][];
    for (const [name, listener] of entries) room.addEventListener(name, listener);
    return () => {
      for (const [name, listener] of entries) room.removeEventListener(name, listener);
    };
  }, [form, setDropping]);
}

const PHASES: Record<UploadItem["phase"], string> = {
  waiting: "Waiting",
  uploading: "Uploading",
  checking: "Checking",
  ready: "Ready",
  failed: "Failed",
};

function TrayItem({ item, retry, cancel }: { item: UploadItem; retry: (id: string) => void; cancel: (id: string) => void }) {
  const [preview, setPreview] = useState<string>();
  useEffect(() => {
    if (item.kind !== "image") return;
    const url = URL.createObjectURL(item.blob);
    setPreview(url);
    return () => URL.revokeObjectURL(url);
  }, [item.blob, item.kind]);
  const part = item.bytes > 0 ? item.sentBytes / item.bytes : 0;
  return (
    <li class={item.phase}>
      <span class="sign">{preview ? <img src={preview} alt="" /> : <Clip />}</span>
      <span class="names">
        <strong>{item.fileName}</strong>
        <span>
          {item.phase === "failed"
            ? item.error?.message
            : item.phase === "uploading"
              ? `${Math.round(part * 100)} % of ${size(item.bytes)}`
              : `${PHASES[item.phase]}, ${size(item.bytes)}`}
        </span>
        {item.phase !== "failed" && <progress max={1} value={part} aria-label={`${item.fileName}: ${PHASES[item.phase]}`} />}
      </span>
      {item.phase === "failed" && (
        <button type="button" class="plain" onClick={() => retry(item.id)}>
          Try again
        </button>
      )}
      <button type="button" class="round small" aria-label={`Remove ${item.fileName}`} onClick={() => cancel(item.id)}>
        <Close />
      </button>
    </li>
  );
}

/** A recording that is being made. */
function useVoice(made: (blob: Blob) => void, failed: (why: string) => void) {
  const [recorder, setRecorder] = useState<Recorder>();
  const [recordedMs, setRecordedMs] = useState(0);
  const latest = useRef(made);
  latest.current = made;
  useEffect(() => {
    if (!recorder) return;
    const timer = setInterval(() => {
      setRecordedMs(recorder.elapsedMs);
      if (recorder.tooLong) finish();
    }, 200);
    return () => clearInterval(timer);
  }, [recorder]);
  useEffect(() => () => recorder?.discard(), [recorder]);
  const start = () => {
    failed("");
    setRecordedMs(0);
    Recorder.start().then(setRecorder, (error: Error) => failed(`The microphone cannot be used: ${error.message}`));
  };
  const finish = () => {
    setRecorder(undefined);
    void recorder?.finish().then((blob) => latest.current(blob));
  };
  const discard = () => {
    recorder?.discard();
    setRecorder(undefined);
  };
  return { recording: recorder !== undefined, recordedMs, start, finish, discard };
}
