/**
 * The whole length of a conversation beside the part of it that is loaded: where one is, what was read from which tier, and a way to
 * go anywhere at once.
 */
import { useEffect, useState } from "preact/hooks";
import { count, dayOf } from "./text.js";
import type { Stretch } from "./tiers.js";

interface Props {
  headSeq: number;
  /** The first message that can be seen, and when it was sent. */
  seq: number;
  at: string;
  tiers: readonly Stretch[];
  jump: (seq: number) => Promise<void>;
}

export function Rail({ headSeq, seq, at, tiers, jump }: Props) {
  const [dragged, setDragged] = useState<number>();
  useEffect(() => {
    if (dragged === undefined) return;
    // Keys move it in small steps: go there when they rest.
    const timer = setTimeout(() => void jump(dragged).then(() => setDragged(undefined)), 250);
    return () => clearTimeout(timer);
  }, [dragged, jump]);
  const shown = dragged ?? (seq || headSeq);
  return (
    <div class={`rail ${dragged === undefined ? "" : "dragged"}`} style={{ "--at": String(shown / headSeq) }}>
      <div class="track" aria-hidden="true">
        {merged(tiers).map(({ from, to, archive }) => (
          <i
            key={`${from}${archive}`}
            class={archive ? "archive" : "database"}
            style={{ top: `${(from / headSeq) * 100}%`, height: `max(2px, ${((to - from + 1) / headSeq) * 100}%)` }}
          />
        ))}
      </div>
      <input
        type="range"
        min={1}
        max={headSeq}
        step={1}
        value={shown}
        aria-label="Where in the conversation"
        aria-valuetext={`message ${count(shown)} of ${count(headSeq)}${dragged === undefined && at ? `, ${dayOf(at)}` : ""}`}
        onInput={(event) => setDragged(Number(event.currentTarget.value))}
      />
      <output aria-hidden="true">
        {count(shown)} of {count(headSeq)}
      </output>
    </div>
  );
}

/** Overlapping and neighbouring stretches of a tier as one. */
function merged(tiers: readonly Stretch[]): Stretch[] {
  const sorted = [...tiers].sort((a, b) => a.from - b.from);
  const result: Stretch[] = [];
  for (const stretch of sorted) {
    const last = result.at(-1);
    if (last && last.archive === stretch.archive && stretch.from <= last.to + 1) {
      result[result.length - 1] = { ...last, to: Math.max(last.to, stretch.to) };
    } else result.push(stretch);
  }
  return result;
}
