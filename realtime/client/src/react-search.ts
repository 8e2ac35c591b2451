/**
 * React: `useSearch`.
 *
 * Invariant: what is shown belongs to the request given last; the answers to an earlier one are dropped.
 */
import { useCallback, useEffect, useRef, useState } from "react";
import type { ChatClient } from "./client.js";
import { ChatError } from "./errors.js";
import type { SearchedTo, SearchHit, SearchRequest } from "./types.gen.js";

/** The result of {@link useSearch}. */
export interface Search {
  /** What was found so far, in the order of the answers. */
  readonly hits: readonly SearchHit[];
  /** An answer is on its way. */
  readonly searching: boolean;
  /** There is more to look at: call `more`. */
  readonly hasMore: boolean;
  /** Some messages could not be read just now, and were passed over. */
  readonly partial: boolean;
  /** How far the search has come. */
  readonly searchedTo: SearchedTo | undefined;
  readonly error: ChatError | undefined;
  /** Goes on until there are more hits, or nothing more to look at. */
  more(): void;
}

interface Found extends Omit<Search, "more" | "hasMore"> {
  readonly cursor: string | undefined;
}

const NOTHING: Found = { hits: [], searching: false, partial: false, searchedTo: undefined, error: undefined, cursor: undefined };

/**
 * Messages that contain words. Nothing is searched without a request; another one begins anew. It goes on by itself until there are hits
 * to show.
 */
export function useSearch(client: ChatClient, request: SearchRequest | undefined): Search {
  const [found, setFound] = useState(NOTHING);
  const latest = useRef(0);
  const wanted = request === undefined ? undefined : JSON.stringify(request);

  const walk = useCallback(
    async (text: string, before: Found) => {
      const turn = ++latest.current;
      const isLatest = () => latest.current === turn;
      let now: Found = { ...before, searching: true, error: undefined };
      setFound(now);
      try {
        do {
          const cursor = now.cursor;
          const page = await client.search({ ...(JSON.parse(text) as SearchRequest), ...(cursor !== undefined && { cursor }) });
          if (!isLatest()) return;
          now = {
            ...now,
            hits: [...now.hits, ...page.hits],
            partial: now.partial || (page.unsearched ?? []).length > 0,
            searchedTo: page.searchedTo ?? now.searchedTo,
            cursor: page.cursor ?? undefined,
          };
          setFound(now);
        } while (now.cursor !== undefined && now.hits.length === before.hits.length);
        setFound({ ...now, searching: false });
      } catch (thrown) {
        if (isLatest()) setFound({ ...now, searching: false, error: ChatError.from(thrown) });
      }
    },
    [client],
  );
  useEffect(() => {
    if (wanted === undefined) setFound(NOTHING);
    else void walk(wanted, NOTHING);
    return () => void latest.current++;
  }, [wanted, walk]);

  const { cursor, ...shown } = found;
  const hasMore = cursor !== undefined;
  const more = useCallback(() => {
    if (wanted !== undefined && hasMore && !found.searching) void walk(wanted, found);
  }, [wanted, hasMore, found, walk]);
  return { ...shown, hasMore, more };
}
