/** The package as its users have it: built, and found by every way to resolve modules. */
import { execFileSync } from "node:child_process";
import { copyFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, expect, test } from "vitest";

const root = fileURLToPath(new URL("..", import.meta.url));
const modules = path.join(root, "node_modules");
let home = "";
let built = "";

const compile = (compiler: string, ...options: string[]) => {
  try {
    execFileSync(process.execPath, [path.join(modules, compiler, "bin/tsc"), ...options], { cwd: home, encoding: "utf8" });
  } catch (failed) {
    throw new Error((failed as { stdout: string }).stdout);
  }
};

beforeAll(() => {
  home = mkdtempSync(path.join(os.tmpdir(), "backscroll-package-"));
  built = path.join(home, "node_modules/@backscroll/client");
  mkdirSync(built, { recursive: true });
  copyFileSync(path.join(root, "package.json"), path.join(built, "package.json"));
  for (const name of ["@types", "csstype", "react"]) symlinkSync(path.join(modules, name), path.join(home, "node_modules", name));
  compile("typescript", "-p", path.join(root, "tsconfig.build.json"), "--outDir", path.join(built, "dist"));
  const uses = `import { ChatClient, type ChatMessage } from "@backscroll/client";
    import { useBackscroll, useChat } from "@backscroll/client/react";
    export const client: ChatClient = new ChatClient({ url: "http://chat.example", token: "t" });
    export const first = (id: string): ChatMessage | undefined => useChat(useBackscroll({ url: "", token: "" }), id).messages[0];
    // @ts-expect-error types are found, so what is wrong is seen
    client.send(7);`;
  writeFileSync(path.join(home, "main.ts"), uses);
  writeFileSync(path.join(home, "package.json"), JSON.stringify({ type: "module" }));
}, 60_000);
afterAll(() => rmSync(home, { recursive: true, force: true }));

test.each([
  ["typescript5", "node10", "esnext"],
  ["typescript5", "node16", "node16"],
  ["typescript", "bundler", "esnext"],
])("%s finds the types by %s", (compiler, resolution, module) => {
  const options = ["--noEmit", "--skipLibCheck", "--strict", "--target", "es2022", "--lib", "es2022,dom", "--types", "react", "--module", module, "--moduleResolution", resolution];
  compile(compiler, ...options, "main.ts");
});

test("a component that was written for another useChat compiles unchanged", () => {
  const files = {
    "components/ChatComponent.tsx": readFileSync(path.join(root, "test/front-ends/ChatComponent.tsx"), "utf8"),
    "hooks/useChat.ts": `export { useChat } from "@backscroll/client/react";`,
    "contexts/AuthContext.ts": `export declare function useAuth(): { user?: { id: string } };`,
    "globals.d.ts": `declare const otherUserId: string;`,
  };
  for (const [name, text] of Object.entries(files)) {
    mkdirSync(path.dirname(path.join(home, name)), { recursive: true });
    writeFileSync(path.join(home, name), text);
  }
  const options = ["--noEmit", "--skipLibCheck", "--strict", "--target", "es2022", "--lib", "es2022,dom", "--types", "react", "--module", "esnext"];
  compile("typescript", ...options, "--moduleResolution", "bundler", "--jsx", "react-jsx", "--esModuleInterop", "globals.d.ts", "components/ChatComponent.tsx");
});

test("the React entry is for clients, as Next.js asks", () => {
  expect(readFileSync(path.join(built, "dist/react.js"), "utf8")).toMatch(/^"use client";/);
});
