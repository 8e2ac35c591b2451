import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";

const at = (path: string) => fileURLToPath(new URL(`../${path}`, import.meta.url));

test("the committed types are what the committed schemas give", () => {
  const generated = execFileSync(process.execPath, [at("scripts/generate.mjs"), "--stdout"], { encoding: "utf8" });
  expect(generated).toBe(readFileSync(at("src/types.gen.ts"), "utf8"));
});
