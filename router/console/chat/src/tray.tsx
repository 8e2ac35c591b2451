/** Files that the next message takes along, and how far they are. */
import { useEffect, useState } from "preact/hooks";
import type { UploadItem } from "@backscroll/client";
import { Clip, Close } from "./icons.js";
import { size } from "./text.js";

interface Controls {
  retry: (id: string) => void;
  cancel: (id: string) => void;
}

export function Tray({ items, ...controls }: { items: readonly UploadItem[] } & Controls) {
  return (
    <ul class="tray" aria-label="Files to send">
      {items.map((item) => (
        <TrayItem key={item.id} item={item} {...controls} />
      ))}
    </ul>
  );
}

const PHASES: Record<UploadItem["phase"], string> = {
  waiting: "Waiting",
  uploading: "Uploading",
  checking: "Checking",
  ready: "Ready",
  failed: "Failed",
};

function TrayItem({ item, retry, cancel }: { item: UploadItem } & Controls) {
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
