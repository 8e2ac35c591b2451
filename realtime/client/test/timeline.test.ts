import { describe, expect, test } from "vitest";
import { Timeline } from "../src/timeline.js";
import type { HistoryPage, Message } from "../src/types.gen.js";

const HEAD = 100;

function message(seq: number, rev = seq, content = `${seq}@${rev}`): Message {
  return {
    id: `c-${seq}`,
    conversationId: "c",
    seq,
    rev,
    senderId: "bob",
    content,
    messageType: "text",
    attachments: [],
    metadata: {},
    reactions: {},
    createdAt: "2026-01-01T00:00:00.000Z",
    status: "sent",
  };
}

function page(from: number, to: number, head = HEAD): HistoryPage {
  const messages = Array.from({ length: to - from + 1 }, (_, i) => message(from + i));
  return { messages, headSeq: head, rev: head, hasMoreBefore: from > 1, hasMoreAfter: to < head, tiers: { hot: 0, archive: 0 } };
}

const seqs = (timeline: Timeline) => timeline.messages.map(({ seq }) => seq);
const range = (from: number, to: number) => Array.from({ length: to - from + 1 }, (_, i) => from + i);

function atHead(kept = 50): Timeline {
  const timeline = new Timeline(kept);
  timeline.startAtHead(page(91, HEAD));
  return timeline;
}

describe("the window", () => {
  test("of two versions the greater rev counts, whatever the order", () => {
    const timeline = atHead();
    timeline.put(message(95, 200));
    timeline.put(message(95, 150));
    expect(timeline.messages[4]?.content).toBe("95@200");
  });

  test("an older message is not taken in: it would leave a hole", () => {
    const timeline = atHead();
    timeline.put(message(3, 200));
    expect(seqs(timeline)).toEqual(range(91, 100));
  });

  test("grows at its end, and drops its oldest at its bound", () => {
    const timeline = atHead(10);
    timeline.put(message(101));
    expect(seqs(timeline)).toEqual(range(92, 101));
    expect(timeline.hasMoreBefore).toBe(true);
  });

  test("names its holes", () => {
    const timeline = atHead();
    timeline.put(message(104));
    timeline.put(message(102));
    expect(timeline.holes()).toEqual([
      { fromSeq: 101, toSeq: 101 },
      { fromSeq: 103, toSeq: 103 },
    ]);
    expect(seqs(timeline)).toEqual([...range(91, 100), 102, 104]);
  });

  test("scrolled back beyond its bound it lets the newest go and no longer grows", () => {
    const timeline = atHead(10);
    timeline.addBefore(page(86, 90));
    expect(seqs(timeline)).toEqual(range(86, 95));
    timeline.put(message(101));
    expect(timeline.attached).toBe(false);
    expect(timeline.headSeq).toBe(101);
    expect(seqs(timeline)).toEqual(range(86, 95));
    timeline.addAfter(page(96, 101, 101));
    expect(timeline.attached).toBe(true);
    expect(seqs(timeline)).toEqual(range(92, 101));
  });

  test("begun anew at the head it keeps what came after the page was read", () => {
    const timeline = atHead();
    timeline.put(message(101));
    timeline.startAtHead(page(96, 100));
    expect(seqs(timeline)).toEqual(range(96, 101));
  });

  test("an empty conversation takes its first message", () => {
    const timeline = new Timeline(50);
    timeline.startAtHead(page(1, 0, 0));
    expect(timeline.hasMoreBefore).toBe(false);
    timeline.put(message(1));
    expect(seqs(timeline)).toEqual([1]);
  });

  test("a reply tells what the message that it answers shows, and so does a page", () => {
    const timeline = atHead();
    const at = "2026-01-02T00:00:00.000Z";
    const reply = (seq: number, replyCount: number): Message => ({
      ...message(seq),
      replyTo: "c-95",
      thread: { replyCount, lastReplyAt: at },
    });
    const shown = () => [timeline.messages[4]?.replyCount, timeline.messages[4]?.lastReplyAt];
    timeline.put(reply(101, 1));
    timeline.put(reply(102, 2));
    expect(shown()).toEqual([2, at]);
    // A page from before, and then the change after it again.
    timeline.addInside(page(91, 100));
    expect(shown()).toEqual([0, undefined]);
    timeline.put(reply(102, 2));
    expect(shown()).toEqual([2, at]);
    expect(timeline.messages[4]?.content).toBe("95@95");
    timeline.put({ ...reply(102, 1), rev: 103, deletedAt: at });
    expect(shown()).toEqual([1, at]);
  });

  test("a list that was handed out does not change", () => {
    const timeline = atHead();
    const before = timeline.messages;
    timeline.put(message(101));
    expect(before).toHaveLength(10);
    expect(timeline.messages).not.toBe(before);
    const same = timeline.messages;
    timeline.put(message(101));
    expect(timeline.messages).toBe(same);
  });
});
