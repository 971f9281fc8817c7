// Has Mermaid's own parser read drawings: a JSON list of texts comes in, a list of what it says of each goes out.
// Run with the folder that `npm install mermaid jsdom` was run in.
import { createRequire } from "node:module";
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const require = createRequire(process.argv[2] + "/");
const { JSDOM } = require("jsdom");
const { window } = new JSDOM("<!DOCTYPE html><body></body>", { pretendToBeVisual: true });
globalThis.window = window;
globalThis.document = window.document;
const mermaid = (await import(pathToFileURL(require.resolve("mermaid")).href)).default;
mermaid.initialize({ startOnLoad: false });

const said = [];
for (const text of JSON.parse(readFileSync(0, "utf8"))) {
  try {
    await mermaid.parse(text);
    said.push(null);
  } catch (error) {
    said.push(String(error.message ?? error));
  }
}
console.log(JSON.stringify(said));
