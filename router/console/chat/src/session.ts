/**
 * Who is signed in on this page, and the client of each of them.
 *
 * Tokens are kept for this tab only, and leave the address bar as soon as they were read. In the demo one token gets those of the
 * demo's other people as well; elsewhere each is pasted.
 */
import { ChatClient, indexedDbUploads } from "@backscroll/client";

/** The server's address, before `/console/chat`. */
export const SERVER = location.href.replace(/\/console\/chat\/?([?#].*)?$/, "");

const KEPT_AS = "backscroll.chat.people";

export interface Person {
  readonly userId: string;
  readonly token: string;
}

const clients = new Map<string, ChatClient>();

/** Those who are signed in, the first in front; from the address, or from before a reload. */
export function signedIn(): readonly Person[] {
  const given = place().get("token");
  if (given !== null) {
    const person = personOf(given);
    goTo({ token: null });
    if (person) return keep([person]);
  }
  try {
    const kept: unknown = JSON.parse(sessionStorage.getItem(KEPT_AS) ?? "[]");
    return Array.isArray(kept) ? (kept as Person[]).filter(({ token }) => personOf(token)) : [];
  } catch {
    return [];
  }
}

export function keep(people: readonly Person[]): readonly Person[] {
  sessionStorage.setItem(KEPT_AS, JSON.stringify(people));
  return people;
}

export function signOut(): void {
  sessionStorage.removeItem(KEPT_AS);
  location.hash = "";
  location.reload();
}

/** The user of a token that is not over; the server checks the rest. */
export function personOf(token: string): Person | undefined {
  try {
    const payload = token.trim().split(".")[1]!.replaceAll("-", "+").replaceAll("_", "/");
    const bytes = Uint8Array.from(atob(payload), (char) => char.charCodeAt(0));
    const { sub, exp } = JSON.parse(new TextDecoder().decode(bytes)) as { sub?: unknown; exp?: unknown };
    if (typeof sub !== "string" || (typeof exp === "number" && exp * 1000 < Date.now())) return undefined;
    return { userId: sub, token: token.trim() };
  } catch {
    return undefined;
  }
}

/** The demo's other people; nobody where this is no demo. */
export async function demoPeople(me: Person): Promise<readonly Person[]> {
  const response = await fetch(`${SERVER}/console/chat/people`, { headers: { Authorization: `Bearer ${me.token}` } });
  if (!response.ok) return [];
  return ((await response.json()) as { people: Person[] }).people;
}

/** The one client of a person on this page. */
export function clientOf(person: Person): ChatClient {
  const known = clients.get(person.userId);
  if (known) return known;
  const client = new ChatClient({
    url: SERVER,
    token: person.token,
    storage: sessionStorage,
    storageKey: `backscroll.chat.${person.userId}`,
    uploadStorage: indexedDbUploads(),
    bounds: { pageSize: 100, messagesKept: 400 },
  });
  clients.set(person.userId, client);
  client.connect().catch(() => undefined); // `client.connection` says why
  return client;
}

/** What the address says is shown: `c`, the conversation, and `with`, whom the second half of the window belongs to. */
export function place(): URLSearchParams {
  return new URLSearchParams(location.hash.slice(1));
}

/** Changes what the address says. `remember`: the back button comes back to what was before. */
export function goTo(change: Record<string, string | null>, remember = false): void {
  const next = place();
  for (const [name, value] of Object.entries(change)) {
    if (value === null) next.delete(name);
    else next.set(name, value);
  }
  const address = `${location.pathname}${location.search}${next.size > 0 ? `#${next.toString()}` : ""}`;
  if (remember) history.pushState(null, "", address);
  else history.replaceState(null, "", address);
}
