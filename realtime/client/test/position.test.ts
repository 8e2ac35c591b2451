import { expect, test } from "vitest";
import { Position } from "../src/position.js";

function opened(joinedAt: number, pageAt: number): Position {
  const position = new Position();
  position.joined(joinedAt);
  position.pageAdded(pageAt);
  return position;
}

test("events after the page follow on", () => {
  const position = opened(10, 10);
  position.heard(11);
  position.heard(15); // a membership took 12 to 14
  expect(position.synced).toBe(15);
  expect(position.behind).toBe(false);
});

test("a page that is older than the joining is caught up with", () => {
  const position = opened(10, 8);
  position.heard(11);
  expect(position.synced).toBe(8);
  expect(position.behind).toBe(true);
  position.changesApplied(8, 10);
  expect(position.synced).toBe(11);
});

test("an event that came before the page counts only if the page has it", () => {
  const position = new Position();
  position.joined(10);
  position.missed(12);
  position.pageAdded(11);
  expect(position.behind).toBe(true);
  position.changesApplied(11, 12);
  expect(position.behind).toBe(false);
  expect(position.synced).toBe(12);
});

test("a page read before an event and added after it takes the position back", () => {
  const position = opened(10, 10);
  position.heard(20);
  position.pageAdded(15);
  expect(position.synced).toBe(15);
  expect(position.behind).toBe(true);
  position.changesApplied(15, 20);
  expect(position.behind).toBe(false);
});

test("changes asked for before the position went back do not bring it forward", () => {
  const position = opened(10, 10);
  position.heard(20);
  position.pageAdded(15); // while changes from 20 are asked for
  position.changesApplied(20, 25);
  expect(position.synced).toBe(15);
});

test("resumed: what follows is complete", () => {
  const position = opened(10, 10);
  position.lost();
  expect(position.following).toBe(false);
  position.resumed(10);
  position.heard(12);
  expect(position.synced).toBe(12);
});

test("refused: events before the refusal do not count, those after wait for what lies between", () => {
  const position = opened(10, 10);
  position.lost();
  position.resumed(10);
  position.heard(31);
  position.resync(30);
  expect(position.synced).toBe(10);
  expect(position.behind).toBe(true);
  position.heard(32);
  expect(position.synced).toBe(10);
  position.changesApplied(10, 30);
  expect(position.synced).toBe(32);
});

test("a later resync keeps what came in order before it", () => {
  const position = opened(10, 10);
  position.heard(12);
  position.resync(20);
  expect(position.synced).toBe(12);
  expect(position.behind).toBe(true);
});

test("the first announcement of joining counts", () => {
  const position = opened(10, 10);
  position.heard(11);
  position.joined(14); // the other announcement of the same, or a late one
  expect(position.behind).toBe(false);
});
