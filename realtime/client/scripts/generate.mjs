// Writes src/types.gen.ts from the API's own documents, schema/openapi.json and, when it is there, schema/asyncapi.json.
//
//   node scripts/generate.mjs                                   from the committed copies
//   node scripts/generate.mjs --fetch http://127.0.0.1:8080     takes new copies from a running server first
//   node scripts/generate.mjs --stdout [--schemas DIRECTORY]    prints instead of writing, for tests
//
// The copies hold the schemas and, of the real-time protocol, which of them each command and event carries and when a client may come back: the addresses,
// their examples and their problems are not used here. A construct that this script does not know is an error, never a
// silent `unknown`.

import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const DOCUMENTS = ["openapi", "asyncapi"];
const INDENT = "  ";
const IDENTIFIER = /^[A-Za-z_$][\w$]*$/;

const pathOf = (relative) => fileURLToPath(new URL(`../${relative}`, import.meta.url));
const options = process.argv.slice(2);
const valueOf = (option) => (options.includes(option) ? options[options.indexOf(option) + 1] : undefined);
const copyOf = (document) => join(valueOf("--schemas") ?? pathOf("schema"), `${document}.json`);

const trimmed = (entries, keep) => Object.fromEntries(Object.entries(entries).map(([name, entry]) => [name, keep(entry)]));

async function fetchCopies(base) {
  for (const document of DOCUMENTS) {
    const response = await fetch(new URL(`/${document}.json`, base));
    if (response.status === 404 && document !== "openapi") continue;
    if (!response.ok) throw new Error(`${document}.json: the server answered ${response.status}`);
    const { openapi, asyncapi, info, operations, components, "x-comes-back": comesBack } = await response.json();
    const { schemas, messages } = components;
    const kept = {
      openapi,
      asyncapi,
      info: { title: info.title, version: info.version },
      "x-comes-back": comesBack,
      operations: operations && trimmed(operations, ({ action, summary }) => ({ action, summary })),
      components: { messages: messages && trimmed(messages, ({ payload }) => ({ payload })), schemas },
    };
    writeFileSync(copyOf(document), `${JSON.stringify(kept, null, 1)}\n`);
  }
}

/** All schemas by name; two documents may both have one, but only the same one. */
function readSchemas() {
  const schemas = new Map();
  for (const document of DOCUMENTS) {
    if (!existsSync(copyOf(document))) continue;
    const { components } = JSON.parse(readFileSync(copyOf(document), "utf8"));
    for (const [name, schema] of Object.entries(components.schemas)) {
      const known = schemas.get(name);
      if (known !== undefined && typeOf(known, "") !== typeOf(schema, "")) {
        throw new Error(`${name}: the documents do not agree on it`);
      }
      schemas.set(name, known ?? schema);
    }
  }
  return schemas;
}

const literal = (value) => JSON.stringify(value);
const union = (types) => [...new Set(types)].join(" | ");
const grouped = (type) => (/[|&]/.test(type) && !type.startsWith("{") ? `(${type})` : type);
const comment = (text, indent) => {
  if (!text) return "";
  const lines = text.replaceAll("*/", "*\\/").split("\n");
  if (lines.length === 1) return `${indent}/** ${lines[0]} */\n`;
  return `${indent}/**\n${lines.map((line) => `${indent} * ${line}`.trimEnd()).join("\n")}\n${indent} */\n`;
};

/** The TypeScript type of a schema. */
function typeOf(schema, indent) {
  if (schema === true || Object.keys(schema).length === 0) return "unknown";
  if (schema.$ref) return schema.$ref.split("/").at(-1);
  if ("const" in schema) return literal(schema.const);
  if (schema.enum) return union(schema.enum.map(literal));
  if (schema.oneOf || schema.anyOf) return union((schema.oneOf ?? schema.anyOf).map((one) => grouped(typeOf(one, indent))));
  if (schema.allOf) return schema.allOf.map((one) => grouped(typeOf(one, indent))).join(" & ");
  if (Array.isArray(schema.type)) {
    return union(schema.type.map((type) => grouped(typeOf({ ...schema, type }, indent))));
  }
  switch (schema.type) {
    case "string":
    case "boolean":
    case "null":
      return schema.type;
    case "integer":
    case "number":
      return "number";
    case "array":
      return `${grouped(typeOf(schema.items ?? {}, indent))}[]`;
    case "object":
      return objectType(schema, indent);
    default:
      if (schema.description && Object.keys(schema).length === 1) return "unknown";
      throw new Error(`a schema that this script does not know: ${JSON.stringify(schema)}`);
  }
}

function objectType(schema, indent) {
  const properties = Object.entries(schema.properties ?? {});
  const open = schema.additionalProperties;
  const values = open && open !== true ? typeOf(open, indent) : "unknown";
  if (properties.length === 0) return open === false ? "Record<string, never>" : `{ [key: string]: ${values} }`;
  return `{\n${members(schema, properties, indent + INDENT)}${indent}}`;
}

function members(schema, properties, indent) {
  const required = new Set(schema.required ?? []);
  return properties
    .map(([name, property]) => {
      const key = IDENTIFIER.test(name) ? name : literal(name);
      const described = property.description ?? property.oneOf?.find((one) => one.description)?.description;
      return `${comment(described, indent)}${indent}${key}${required.has(name) ? "" : "?"}: ${typeOf(property, indent)};\n`;
    })
    .join("");
}

function declaration([name, schema]) {
  const head = comment(schema.description, "");
  if (schema.type === "object" && schema.properties) {
    return `${head}export interface ${name} ${objectType(schema, "")}\n`;
  }
  return `${head}export type ${name} = ${typeOf(schema, "")};\n`;
}

/** The types of the data that each command and event of the real-time protocol carries, by their names. */
function protocolTables() {
  if (!existsSync(copyOf("asyncapi"))) return [];
  const { operations = {}, components } = JSON.parse(readFileSync(copyOf("asyncapi"), "utf8"));
  const payload = (message) => typeOf(components.messages[message].payload, INDENT);
  const rows = (action, type) =>
    Object.entries(operations)
      .filter(([, operation]) => operation.action === action)
      .map(([name, { summary }]) => `${comment(summary, INDENT)}${INDENT}${name}: ${type(name)};\n`)
      .join("");
  const commands = rows("receive", (name) => `[${payload(name)}, ${payload(`${name}_reply`)}]`);
  const events = rows("send", payload);
  if (commands === "" && events === "") return [];
  return [
    `/** Commands by their names: the data that goes and the answer that comes back. */\nexport interface Commands {\n${commands}}\n`,
    `/** Events by their names: the data that comes. */\nexport interface ServerEvents {\n${events}}\n`,
  ];
}

/** When to come back after each closing, and to try again after each error, as values. */
function returnTables() {
  if (!existsSync(copyOf("asyncapi"))) return [];
  const { "x-comes-back": comesBack } = JSON.parse(readFileSync(copyOf("asyncapi"), "utf8"));
  if (comesBack === undefined) return [];
  const closings = comesBack.closings.map(({ code, ...rest }) => `${INDENT}${code}: ${literal(rest)},\n`).join("");
  const errors = Object.entries(comesBack.errors).map(([code, when]) => `${INDENT}${code}: ${literal(when)},\n`);
  return [
    `/** The WebSocket's close codes: their names, and when the client may come back. */\nexport const CLOSINGS = {\n${closings}} as const;\n`,
    `/** When the same may be tried again after each error. */\nexport const ERRORS = {\n${errors.join("")}} as const;\n`,
  ];
}

function generate() {
  const head = "// Generated by scripts/generate.mjs from the API's documents. Do not edit.\n";
  const byName = [...readSchemas()].sort(([a], [b]) => (a < b ? -1 : 1));
  return [head, ...byName.map(declaration), ...protocolTables(), ...returnTables()].join("\n");
}

const server = valueOf("--fetch");
if (server !== undefined) await fetchCopies(server);
if (options.includes("--stdout")) process.stdout.write(generate());
else writeFileSync(pathOf("src/types.gen.ts"), generate());
