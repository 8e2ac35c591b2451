/**
 * The messages of a conversation, as far as they are loaded, and scrolling through all of them.
 *
 * Invariant: what one looks at stays where it is. Before the messages change, it remembers the first one that can be seen, and puts
 * it back to the same place afterwards; at the end it stays at the end. What has no size yet, as a picture, has its room reserved.
 */
import { Component, createRef } from "preact";
import type { ChatClient, ChatMessage } from "@backscroll/client";
import type { Chat } from "@backscroll/client/react";
import { MessageRow, type MessageActions } from "./message.js";
import type { Seen } from "./room.js";
import { dayOf, nameOf, sameDay } from "./text.js";
import { tierOf, type Stretch } from "./tiers.js";

/** Where to go; asking anew goes there anew. */
export interface Target {
  readonly seq: number | "end";
  readonly asked: number;
}

interface Props {
  client: ChatClient;
  chat: Chat;
  me: string;
  /** Senders are named: there are more than two. */
  named: boolean;
  tiers: readonly Stretch[];
  newFrom: number | undefined;
  target: Target | undefined;
  actions: MessageActions;
  seen: (seen: Seen) => void;
}

interface State {
  /** The message with its actions shown. */
  active: string | undefined;
  flashed: string | undefined;
  /** Why the page before or after could not be loaded. */
  problem: string | undefined;
}

interface Anchor {
  key: string;
  top: number;
}

/** How near to the end still is the end. */
const AT_END = 48;
/** About as high is the line of a day. */
const DAY_LINE = 28;
/** How far from an edge of what is loaded the next page is asked for. */
const AHEAD = 1_600;
/** How long after a page could not be loaded it is asked for again. */
const AGAIN_MS = 3_000;
/** Messages of one sender within this time stand together. */
const TOGETHER_MS = 5 * 60_000;

export const keyOf = (message: ChatMessage): string => ("seq" in message ? String(message.seq) : message.clientMsgId);

export class Timeline extends Component<Props, State> {
  override state: State = { active: undefined, flashed: undefined, problem: undefined };
  private readonly scroller = createRef<HTMLDivElement>();
  private readonly list = createRef<HTMLOListElement>();
  private readonly sizes = new ResizeObserver(() => this.resized());
  private atEnd = true;
  private arrived: number | undefined;
  private reported = "";
  private frame = 0;
  private again: ReturnType<typeof setTimeout> | undefined;

  override componentDidMount(): void {
    this.sizes.observe(this.scroller.current!);
    this.sizes.observe(this.list.current!);
    this.toEnd();
  }

  override componentWillUnmount(): void {
    this.sizes.disconnect();
    clearTimeout(this.again);
    cancelAnimationFrame(this.frame);
  }

  override shouldComponentUpdate(next: Props, state: State): boolean {
    const { chat, tiers, target, newFrom, me } = this.props;
    return (
      state !== this.state ||
      next.chat.messages !== chat.messages ||
      next.chat.status !== chat.status ||
      next.chat.hasMoreBefore !== chat.hasMoreBefore ||
      next.chat.hasMoreAfter !== chat.hasMoreAfter ||
      next.tiers !== tiers ||
      next.target !== target ||
      next.newFrom !== newFrom ||
      next.me !== me ||
      next.actions !== this.props.actions
    );
  }

  override getSnapshotBeforeUpdate(): Anchor | undefined {
    return this.atEnd && !this.props.chat.hasMoreAfter ? undefined : this.anchor();
  }

  override componentDidUpdate(before: Props, _: State, anchor: Anchor | undefined): void {
    const { target, chat } = this.props;
    const first = before.chat.messages.length === 0;
    if (target && target.asked !== this.arrived && this.goTo(target)) {
      this.arrived = target.asked;
    } else if (first || (this.atEnd && !before.chat.hasMoreAfter)) {
      this.toEnd();
    } else if (anchor) {
      this.restore(anchor);
    }
    if (before.chat.messages !== chat.messages || first) this.scrolled();
  }

  /** The first message that can be seen, and where. */
  private anchor(): Anchor | undefined {
    const scroller = this.scroller.current;
    const rows = this.rows();
    // The very first one changes its looks once there is one before it.
    const row = scroller && rows[Math.max(1, rows.indexOf(this.firstSeen(scroller)!))];
    return row ? { key: row.dataset["key"]!, top: row.offsetTop - scroller.scrollTop } : undefined;
  }

  private rows(): HTMLElement[] {
    return [...this.list.current!.querySelectorAll<HTMLElement>(":scope > li[data-key]")];
  }

  private firstSeen(scroller: HTMLElement): HTMLElement | undefined {
    const rows = this.rows();
    let [low, high] = [0, rows.length - 1];
    while (low < high) {
      const middle = (low + high) >> 1;
      const row = rows[middle]!;
      if (row.offsetTop + row.offsetHeight <= scroller.scrollTop + 8) low = middle + 1;
      else high = middle;
    }
    return rows[low];
  }

  private row(key: string): HTMLElement | null {
    return this.list.current!.querySelector(`:scope > li[data-key="${CSS.escape(key)}"]`);
  }

  private restore({ key, top }: Anchor): void {
    const scroller = this.scroller.current!;
    const row = this.row(key);
    if (!row) return;
    const moved = row.offsetTop - scroller.scrollTop - top;
    if (Math.abs(moved) >= 1) scroller.scrollTop += moved;
  }

  private toEnd(): void {
    const scroller = this.scroller.current!;
    this.atEnd = true;
    scroller.scrollTop = scroller.scrollHeight;
  }

  /** False: it is not loaded yet. */
  private goTo({ seq }: Target): boolean {
    if (seq === "end") {
      if (this.props.chat.hasMoreAfter) return false;
      this.toEnd();
      return true;
    }
    const scroller = this.scroller.current!;
    const row = this.row(String(seq));
    if (!row) return false;
    scroller.scrollTop = row.offsetTop - Math.max(0, (scroller.clientHeight - row.offsetHeight) / 2);
    this.atEnd = isAtEnd(scroller);
    this.setState({ flashed: String(seq) });
    return true;
  }

  private resized(): void {
    if (this.scroller.current && this.atEnd && !this.props.chat.hasMoreAfter) this.toEnd();
  }

  private readonly onScroll = (): void => {
    const scroller = this.scroller.current;
    if (!scroller) return; // it was scrolled a moment before it went
    this.atEnd = isAtEnd(scroller);
    cancelAnimationFrame(this.frame);
    this.frame = requestAnimationFrame(() => this.scrolled());
  };

  private scrolled(): void {
    const scroller = this.scroller.current;
    const { chat } = this.props;
    if (!scroller || chat.status !== "ready") return;
    this.report(scroller);
    const below = scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight;
    if (this.again !== undefined) return;
    if (chat.hasMoreBefore && scroller.scrollTop < AHEAD) this.load(chat.loadBefore());
    else if (chat.hasMoreAfter && below < AHEAD) this.load(chat.loadAfter());
  }

  /** After a failure it is tried again in a while, as long as somebody looks there. */
  private load(loading: Promise<boolean>): void {
    const failed = (error: Error) => {
      this.setState({ problem: error.message });
      clearTimeout(this.again);
      this.again = setTimeout(() => {
        this.again = undefined;
        this.scrolled();
      }, AGAIN_MS);
    };
    loading.then(() => this.state.problem !== undefined && this.setState({ problem: undefined }), failed);
  }

  private report(scroller: HTMLElement): void {
    const key = this.firstSeen(scroller)?.dataset["key"];
    const message = this.props.chat.messages.find((one) => keyOf(one) === key);
    if (!message || !("seq" in message)) return;
    const dayShown = this.dayShown(scroller);
    const now = `${message.seq} ${this.atEnd} ${dayShown}`;
    if (now === this.reported) return;
    this.reported = now;
    this.props.seen({ seq: message.seq, at: message.createdAt, atEnd: this.atEnd, dayShown });
  }

  /** A day's own line stands where the day of the first message would be said. */
  private dayShown(scroller: HTMLElement): boolean {
    const days = [...this.list.current!.querySelectorAll<HTMLElement>(":scope > li.day")];
    return days.some((day) => day.offsetTop > scroller.scrollTop - DAY_LINE && day.offsetTop < scroller.scrollTop + 3 * DAY_LINE);
  }

  private readonly activate = (event: Event): void => {
    const target = event.target as HTMLElement;
    if (!target.isConnected) return; // the button that was pressed made room for others
    const row = target.closest<HTMLElement>("li[data-key]");
    const key = row?.dataset["key"];
    if (key !== this.state.active && (key !== undefined || event.type !== "pointerover")) this.setState({ active: key });
  };

  private readonly deactivate = (): void => {
    if (!this.list.current!.contains(document.activeElement)) this.setState({ active: undefined });
  };

  /** Up and down go from message to message. */
  private readonly onKeyDown = (event: KeyboardEvent): void => {
    const step = { ArrowUp: -1, ArrowDown: 1 }[event.key];
    const target = event.target as HTMLElement;
    if (step === undefined || target.closest("input, textarea, [role=group]")) return;
    const rows = this.rows();
    const at = rows.findIndex((row) => row.contains(document.activeElement));
    const next = at < 0 ? rows.at(-1) : rows[at + step];
    if (!next) return;
    event.preventDefault();
    next.focus({ preventScroll: true });
    next.scrollIntoView({ block: "nearest" });
  };

  override render() {
    const { chat, tiers } = this.props;
    return (
      <div
        class="timeline"
        ref={this.scroller}
        onScroll={this.onScroll}
        onKeyDown={this.onKeyDown}
        tabIndex={0}
        role="region"
        aria-label={`${nameOf(this.props.me)}'s messages`}
      >
        <div class="before" role="status">
          {chat.hasMoreBefore &&
            (this.state.problem === undefined ? (
              <i class="spinner" />
            ) : (
              <span>Earlier messages cannot be loaded just now: {this.state.problem}</span>
            ))}
        </div>
        {chat.status === "failed" && (
          <p class="notice" role="alert">
            This conversation cannot be opened: {chat.error?.message}
          </p>
        )}
        {chat.status === "left" && (
          <p class="notice" role="alert">
            You are no member of this conversation any more.
          </p>
        )}
        {chat.status === "ready" && chat.messages.length === 0 && <p class="notice">No messages yet. Say hello.</p>}
        {chat.status === "loading" && <Waiting />}
        <ol
          ref={this.list}
          onPointerOver={this.activate}
          onPointerLeave={this.deactivate}
          onClick={this.activate}
          onFocusCapture={this.activate}
        >
          {this.items(tiers)}
        </ol>
      </div>
    );
  }

  private items(tiers: readonly Stretch[]) {
    const { client, chat, me, named, newFrom, actions } = this.props;
    const { messages } = chat;
    const bySeq = new Map(messages.flatMap((message) => ("seq" in message ? [[message.id, message] as const] : [])));
    let tier: Stretch | undefined;
    return messages.flatMap((message, at) => {
      const [before, after] = [messages[at - 1], messages[at + 1]];
      const key = keyOf(message);
      const seq = "seq" in message ? message.seq : undefined;
      if (seq !== undefined && !(tier && seq >= tier.from && seq <= tier.to)) tier = tierOf(tiers, seq);
      const newDay = !before || !sameDay(before.createdAt, message.createdAt);
      const isNew = seq !== undefined && seq === newFrom && message.senderId !== me;
      const row = (
        <MessageRow
          key={key}
          id={key}
          client={client}
          message={message}
          me={me}
          named={named}
          first={newDay || isNew || !together(before, message)}
          last={!after || !together(message, after) || !sameDay(message.createdAt, after.createdAt)}
          archived={seq !== undefined && tier?.archive === true}
          active={this.state.active === key}
          flashed={this.state.flashed === key}
          answered={message.replyTo ? bySeq.get(message.replyTo) : undefined}
          actions={actions}
        />
      );
      const day = newDay && (
        <li key={`day ${key}`} class="day">
          <span>{dayOf(message.createdAt)}</span>
        </li>
      );
      const mark = isNew && (
        <li key="new" class="new">
          <span>New</span>
        </li>
      );
      return [day, mark, row].filter(Boolean);
    });
  }
}

function isAtEnd(scroller: HTMLElement): boolean {
  return scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight <= AT_END;
}

function together(a: ChatMessage | undefined, b: ChatMessage): boolean {
  return a !== undefined && a.senderId === b.senderId && Date.parse(b.createdAt) - Date.parse(a.createdAt) < TOGETHER_MS;
}

function Waiting() {
  return (
    <div class="waiting" aria-hidden="true">
      {[52, 34, 61, 28, 45, 39, 57].map((width, at) => (
        <i key={width} class={at % 3 === 2 ? "skeleton own" : "skeleton"} style={{ width: `${width}%` }} />
      ))}
    </div>
  );
}
