/**
 * Where the messages on the screen came from: pages name how many of their messages the archive gave, which are the oldest of
 * them. What came live is in the database.
 */
import { useEffect, useState } from "preact/hooks";
import type { ChatClient, LoadedPage } from "@backscroll/client";

/** Neighbouring messages of one page and one tier. */
export interface Stretch {
  readonly from: number;
  readonly to: number;
  readonly archive: boolean;
  readonly tookMs: number;
}

/** Most that are remembered; the earliest are forgotten. */
const MOST = 2_000;

export function stretchesOf({ page, tookMs }: Pick<LoadedPage, "page" | "tookMs">): Stretch[] {
  const { messages, tiers } = page;
  const split = Math.min(tiers.archive, messages.length);
  const parts = [
    { part: messages.slice(0, split), archive: true },
    { part: messages.slice(split), archive: false },
  ];
  return parts.flatMap(({ part, archive }) => {
    const [first, last] = [part[0], part.at(-1)];
    return first && last ? [{ from: first.seq, to: last.seq, archive, tookMs }] : [];
  });
}

/** What is known of a conversation, the latest page last. */
export function useTiers(client: ChatClient, conversationId: string): readonly Stretch[] {
  const [known, setKnown] = useState<readonly Stretch[]>([]);
  useEffect(() => {
    setKnown([]);
    return client.on("page", (loaded) => {
      if (loaded.conversationId !== conversationId) return;
      setKnown((before) => [...before, ...stretchesOf(loaded)].slice(-MOST));
    });
  }, [client, conversationId]);
  return known;
}

export function tierOf(stretches: readonly Stretch[], seq: number): Stretch | undefined {
  return stretches.findLast(({ from, to }) => seq >= from && seq <= to);
}
