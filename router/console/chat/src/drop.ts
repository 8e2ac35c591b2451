/** Files that are dragged over a conversation. */
import type { RefObject } from "preact";
import { useEffect, useRef } from "preact/hooks";

/** Gives the files that are dropped on the conversation that `form` belongs to, and says while some are held over it. */
export function useDrop(
  form: RefObject<HTMLFormElement | null>,
  setDropping: (dropping: boolean) => void,
  add: (files: File[]) => void,
): void {
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
