/** Files of messages: pictures, recordings, and others. Their bytes come with the user's token, and are shown from memory. */
import { useEffect, useRef, useState } from "preact/hooks";
import type { ChatClient } from "@backscroll/client";
import { File as FileIcon, Pause, Play } from "./icons.js";
import { duration, size } from "./text.js";

/** As readers get it. */
export interface AttachedFile {
  readonly mediaId: string;
  readonly kind: "image" | "voice" | "file";
  readonly fileName: string;
  readonly contentType: string;
  readonly bytes: number;
  readonly width?: number;
  readonly height?: number;
  readonly durationMs?: number;
  /** The smaller forms of a picture that there are. */
  readonly variants?: readonly unknown[];
}

export function attachmentOf(attachment: { readonly [key: string]: unknown }): AttachedFile | undefined {
  const { mediaId, fileName, contentType } = attachment;
  if (typeof mediaId !== "string" || typeof fileName !== "string" || typeof contentType !== "string") return undefined;
  const kind = attachment["kind"] ?? (contentType.startsWith("image/") ? "image" : contentType.startsWith("audio/") ? "voice" : "file");
  return { ...attachment, kind } as unknown as AttachedFile;
}

export function Attachment({ client, file }: { client: ChatClient; file: AttachedFile }) {
  if (file.kind === "image") return <Picture client={client} file={file} />;
  if (file.kind === "voice") return <Recording client={client} file={file} />;
  return <Other client={client} file={file} />;
}

/** The file's bytes as an address, once it is near the screen. */
function useBytes(
  client: ChatClient,
  mediaId: string,
  wanted: boolean,
  variant?: "large",
): { url?: string; failed: boolean; again: () => void } {
  const [url, setUrl] = useState<string>();
  const [failed, setFailed] = useState(false);
  useEffect(() => {
    if (!wanted || failed) return;
    let made: string | undefined;
    let gone = false;
    client.uploads
      .read(mediaId, variant ? { variant } : {})
      .then((blob) => {
        if (!gone) setUrl((made = URL.createObjectURL(blob)));
      })
      .catch(() => !gone && setFailed(true));
    return () => {
      gone = true;
      if (made) URL.revokeObjectURL(made);
      setUrl(undefined);
    };
  }, [client, mediaId, wanted, variant, failed]);
  return { failed, again: () => setFailed(false), ...(url !== undefined && { url }) };
}

/** Pictures are at most so large here, in pixels of the page. */
const WIDEST = 360;
const HIGHEST = 320;

function Picture({ client, file }: { client: ChatClient; file: AttachedFile }) {
  const [near, setNear] = useState(false);
  const [large, setLarge] = useState(false);
  const box = useRef<HTMLButtonElement>(null);
  const dialog = useRef<HTMLDialogElement>(null);
  const smaller = file.variants?.length ? "large" : undefined;
  const { url, failed, again } = useBytes(client, file.mediaId, near, smaller);
  const original = useBytes(client, file.mediaId, large && smaller !== undefined).url ?? url;
  useEffect(() => {
    const observer = new IntersectionObserver(([entry]) => entry?.isIntersecting && setNear(true), { rootMargin: "800px" });
    observer.observe(box.current!);
    return () => observer.disconnect();
  }, []);
  useEffect(() => {
    if (large) dialog.current?.showModal();
  }, [large]);
  const { width = 4, height = 3 } = file;
  const shown = Math.min(width, WIDEST, (HIGHEST * width) / height);
  return (
    <>
      <button
        type="button"
        class="picture"
        ref={box}
        style={{ width: `${Math.max(shown, 96)}px`, aspectRatio: `${width} / ${height}` }}
        onClick={failed ? again : () => setLarge(true)}
        aria-label={failed ? `${file.fileName} could not be loaded; try again` : `Show ${file.fileName}`}
      >
        {url ? <img src={url} alt={file.fileName} /> : failed && <span>Not loaded. Try again</span>}
      </button>
      {large && (
        <dialog
          ref={dialog}
          class="large"
          aria-label={file.fileName}
          onClose={() => setLarge(false)}
          onClick={() => dialog.current?.close()}
        >
          {original && <img src={original} alt={file.fileName} />}
          <button type="button" class="primary" autofocus>
            Close
          </button>
        </dialog>
      )}
    </>
  );
}

function Recording({ client, file }: { client: ChatClient; file: AttachedFile }) {
  const [wanted, setWanted] = useState(false);
  const [playing, setPlaying] = useState(false);
  const [at, setAt] = useState(0);
  const audio = useRef<HTMLAudioElement>(null);
  const { url, failed, again } = useBytes(client, file.mediaId, wanted);
  const seconds = (file.durationMs ?? 0) / 1000;
  useEffect(() => {
    if (url) void audio.current?.play().catch(() => setPlaying(false));
  }, [url]);
  const toggle = () => {
    if (failed) again();
    if (!url) setWanted(true);
    else if (playing) audio.current?.pause();
    else void audio.current?.play();
  };
  return (
    <div class="recording">
      <button type="button" class="round primary" onClick={toggle} aria-label={playing ? "Pause" : "Play the voice message"}>
        {playing ? <Pause /> : <Play />}
      </button>
      <input
        type="range"
        min={0}
        max={Math.max(seconds, 0.1)}
        step={0.1}
        value={at}
        aria-label="Position"
        style={{ "--part": String(seconds > 0 ? at / seconds : 0) }}
        onInput={(event) => audio.current && (audio.current.currentTime = Number(event.currentTarget.value))}
      />
      <span class="time">{failed ? "not loaded" : duration(at > 0 ? at * 1000 : seconds * 1000)}</span>
      {url && (
        <audio
          ref={audio}
          src={url}
          onPlay={() => setPlaying(true)}
          onPause={() => setPlaying(false)}
          onEnded={() => setAt(0)}
          onTimeUpdate={(event) => setAt(Math.min(event.currentTarget.currentTime, seconds))}
        />
      )}
    </div>
  );
}

function Other({ client, file }: { client: ChatClient; file: AttachedFile }) {
  const [state, setState] = useState<"" | "loading" | "failed">("");
  const save = async () => {
    setState("loading");
    try {
      const url = URL.createObjectURL(await client.uploads.read(file.mediaId));
      const link = Object.assign(document.createElement("a"), { href: url, download: file.fileName });
      link.click();
      setTimeout(() => URL.revokeObjectURL(url), 60_000);
      setState("");
    } catch {
      setState("failed");
    }
  };
  return (
    <button type="button" class="file" onClick={() => void save()}>
      <span class="sign">
        <FileIcon />
      </span>
      <span class="names">
        <strong>{file.fileName}</strong>
        <span>{state === "loading" ? "Loading…" : state === "failed" ? "Could not be loaded. Try again" : size(file.bytes)}</span>
      </span>
    </button>
  );
}
