/** Names, times and numbers as people write them. */
import type { ListEntry } from "@backscroll/client";

const TIME = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });
const WEEKDAY = new Intl.DateTimeFormat(undefined, { weekday: "long" });
const SHORT_WEEKDAY = new Intl.DateTimeFormat(undefined, { weekday: "short" });
const DAY = new Intl.DateTimeFormat(undefined, { weekday: "long", day: "numeric", month: "long" });
const DAY_OF_YEAR = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "long", year: "numeric" });
const SHORT_DAY = new Intl.DateTimeFormat(undefined, { day: "2-digit", month: "2-digit", year: "2-digit" });
const FULL = new Intl.DateTimeFormat(undefined, { dateStyle: "full", timeStyle: "medium" });
const COUNT = new Intl.NumberFormat();
const DAY_MS = 86_400_000;

export const count = (value: number): string => COUNT.format(value);
export const timeOf = (at: string): string => TIME.format(new Date(at));
export const fullTime = (at: string): string => `${FULL.format(new Date(at))} (${at})`;

function daysAgo(at: Date): number {
  const midnight = new Date().setHours(0, 0, 0, 0);
  return Math.round((midnight - new Date(at).setHours(0, 0, 0, 0)) / DAY_MS);
}

export const sameDay = (a: string, b: string): boolean => new Date(a).toDateString() === new Date(b).toDateString();

export function dayOf(at: string): string {
  const date = new Date(at);
  const ago = daysAgo(date);
  if (ago === 0) return "Today";
  if (ago === 1) return "Yesterday";
  if (ago > 1 && ago < 7) return WEEKDAY.format(date);
  return date.getFullYear() === new Date().getFullYear() ? DAY.format(date) : DAY_OF_YEAR.format(date);
}

/** For lists: the time of today, the weekday of this week, or the date. */
export function shortTime(at: string): string {
  const date = new Date(at);
  const ago = daysAgo(date);
  if (ago <= 0) return TIME.format(date);
  return ago < 7 ? SHORT_WEEKDAY.format(date) : SHORT_DAY.format(date);
}

export function lastSeen(at: string | null | undefined): string {
  if (!at) return "offline";
  const minutes = Math.floor((Date.now() - Date.parse(at)) / 60_000);
  if (minutes < 1) return "last seen just now";
  if (minutes < 60) return `last seen ${minutes} min ago`;
  return `last seen ${shortTime(at)}`;
}

export function duration(ms: number): string {
  const seconds = Math.round(ms / 1000);
  return `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")}`;
}

export function size(bytes: number): string {
  const units = ["B", "KB", "MB", "GB"];
  let value = bytes;
  let unit = 0;
  for (; value >= 1000 && unit < units.length - 1; unit++) value /= 1000;
  return `${value < 10 && unit > 0 ? value.toFixed(1) : Math.round(value)} ${units[unit]}`;
}

/** Ids that are plain words are shown as names. */
export function nameOf(userId: string): string {
  return /^[a-z]+$/.test(userId) ? userId[0]!.toUpperCase() + userId.slice(1) : userId;
}

export function namesOf(userIds: readonly string[]): string {
  const names = userIds.map(nameOf);
  if (names.length < 2) return names[0] ?? "";
  return `${names.slice(0, -1).join(", ")} and ${names.at(-1)}`;
}

/** Who else is in a direct conversation. */
export function partnerOf(entry: ListEntry, me: string): string | undefined {
  return entry.kind === "direct" ? entry.members.find((user) => user !== me) : undefined;
}

export function titleOf(entry: ListEntry, me: string): string {
  const partner = partnerOf(entry, me);
  if (partner !== undefined) return nameOf(partner);
  return entry.title ?? namesOf(entry.members.filter((user) => user !== me).slice(0, 3));
}

/** The same hue for the same id, everywhere. */
export function hueOf(id: string): number {
  let hash = 2_166_136_261;
  for (const char of id) hash = Math.imul(hash ^ char.codePointAt(0)!, 16_777_619);
  return (hash >>> 0) % 360;
}

/** The seq of a message's id. */
export function seqOf(messageId: string): number {
  return Number(messageId.slice(messageId.lastIndexOf("-") + 1));
}

const LINK = /\bhttps?:\/\/[^\s<>"']+[^\s<>"'.,:;!?)\]}]/g;

/** A text, and the addresses in it. */
export function* partsOf(text: string): Generator<{ text: string; link: boolean }> {
  let end = 0;
  for (const found of text.matchAll(LINK)) {
    if (found.index > end) yield { text: text.slice(end, found.index), link: false };
    yield { text: found[0], link: true };
    end = found.index + found[0].length;
  }
  if (end < text.length) yield { text: text.slice(end), link: false };
}

/** One to three emoji and nothing else. */
export function isOnlyEmoji(text: string): boolean {
  return /^(?:\p{Extended_Pictographic}(?:\u200d\p{Extended_Pictographic}|[\ufe0f\u{1f3fb}-\u{1f3ff}])*\s?){1,3}$/u.test(text);
}
