/**
 * Builds the page: `dist/`, which the server has in its binary and which is committed, so that building the server needs no Node.
 *
 * Files have the hash of their content in their name, so that browsers may keep them for ever. `files.rs` is the list of them for
 * the server. The same sources give the same bytes.
 */
import { createHash } from "node:crypto";
import { mkdir, readFile, rm, writeFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";
import { build } from "esbuild";

const here = new URL(".", import.meta.url);
const client = fileURLToPath(new URL("../../../realtime/client/src/", here));
const dist = new URL("dist/", here);
const TYPES = { js: "text/javascript; charset=utf-8", css: "text/css; charset=utf-8", svg: "image/svg+xml" };

const { outputFiles } = await build({
  absWorkingDir: fileURLToPath(here),
  entryPoints: { chat: "src/main.tsx", style: "src/style.css" },
  outdir: "dist",
  bundle: true,
  minify: true,
  write: false,
  target: "es2022",
  jsx: "automatic",
  jsxImportSource: "preact",
  legalComments: "none",
  alias: {
    "@backscroll/client": `${client}index.ts`,
    "@backscroll/client/react": `${client}react.ts`,
    react: "preact/compat",
  },
});

const files = outputFiles.map(({ path, contents }) => ({ name: path.split("/").at(-1), contents }));
files.push({ name: "icon.svg", contents: await readFile(new URL("src/icon.svg", here)) });

await rm(dist, { recursive: true, force: true });
await mkdir(dist, { recursive: true });
let page = await readFile(new URL("src/index.html", here), "utf8");
const list = [];
let compressed = 0;
for (const { name, contents } of files) {
  const [stem, ending] = name.split(".");
  const hash = createHash("sha256").update(contents).digest("hex").slice(0, 12);
  const named = `${stem}-${hash}.${ending}`;
  await writeFile(new URL(named, dist), contents);
  page = page.replaceAll(`chat/${name}`, `chat/${named}`);
  list.push(`    ("${named}", "${TYPES[ending]}", include_bytes!("${named}")),\n`);
  compressed += gzipSync(contents, { level: 9 }).length;
}
await writeFile(new URL("index.html", dist), page);
await writeFile(new URL("files.rs", dist), `// Written by build.mjs.\n&[\n${list.sort().join("")}]\n`);
console.log(`dist: ${(compressed / 1024).toFixed(1)} KiB compressed`);
