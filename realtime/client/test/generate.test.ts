import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, expect, test } from "vitest";

const at = (path: string) => fileURLToPath(new URL(`../${path}`, import.meta.url));
const folder = mkdtempSync(join(tmpdir(), "schemas-"));
afterAll(() => rmSync(folder, { recursive: true }));

function generate(...options: string[]): string {
  return execFileSync(process.execPath, [at("scripts/generate.mjs"), "--stdout", ...options], { encoding: "utf8", stdio: "pipe" });
}

function generateFrom(openapi: object, asyncapi: object = {}): string {
  for (const [name, schemas] of Object.entries({ openapi, asyncapi })) {
    writeFileSync(join(folder, `${name}.json`), JSON.stringify({ components: { schemas } }));
  }
  return generate("--schemas", folder).split("\n").slice(2).join("\n");
}

test("the committed types are what the committed schemas give", () => {
  expect(generate()).toBe(readFileSync(at("src/types.gen.ts"), "utf8"));
});

test("every construct that the documents use", () => {
  const schemas = {
    A: {
      type: "object",
      description: "An A.",
      required: ["one", "kind"],
      properties: {
        one: { $ref: "#/components/schemas/B" },
        kind: { const: "a" },
        maybe: { type: ["string", "null"], description: "Perhaps." },
        either: { oneOf: [{ $ref: "#/components/schemas/B" }, { type: "null" }] },
        lists: { type: "array", items: { type: ["integer", "null"] } },
        map: { type: "object", additionalProperties: { type: "array", items: { type: "boolean" } } },
        "odd-name": { type: "object", properties: { inner: { type: "number" } } },
        anything: {},
      },
    },
    B: { enum: ["x", "y"] },
    C: { allOf: [{ $ref: "#/components/schemas/A" }, { type: "object", properties: { more: { type: "string" } } }] },
    Closed: { type: "object", additionalProperties: false },
  };
  expect(generateFrom(schemas)).toBe(`
/** An A. */
export interface A {
  one: B;
  kind: "a";
  /** Perhaps. */
  maybe?: string | null;
  either?: B | null;
  lists?: (number | null)[];
  map?: { [key: string]: boolean[] };
  "odd-name"?: {
    inner?: number;
  };
  anything?: unknown;
}

export type B = "x" | "y";

export type C = A & {
  more?: string;
};

export type Closed = Record<string, never>;
`.trimStart());
});

test("two documents may share a schema, but not disagree on it", () => {
  const text = { T: { type: "string" } };
  expect(generateFrom(text, { ...text, U: { $ref: "#/components/schemas/T" } })).toBe("export type T = string;\n\nexport type U = T;\n");
  expect(() => generateFrom(text, { T: { type: "integer" } })).toThrow(/do not agree/);
});

test("what is not known is an error", () => {
  expect(() => generateFrom({ T: { not: { type: "string" } } })).toThrow(/does not know/);
});
