#!/usr/bin/env node
// The npm package `solc` (wasm) behind the two options of a native compiler that py-solc-x and forge use.
"use strict";
const fs = require("fs");
const path = require("path");

const modules = process.env.RETALLY_NODE_MODULES || path.join(__dirname, "..", "..", ".cache", "tools", "node_modules");
const packageJson = JSON.parse(fs.readFileSync(path.join(modules, "solc", "package.json"), "utf8"));

if (process.argv.includes("--version")) {
  // Loading 9 MB of wasm only to print a version would cost a second on each call.
  process.stdout.write(`solc, the solidity compiler\nVersion: ${packageJson.version}+commit.npm.Emscripten.clang\n`);
  process.exit(0);
}
if (!process.argv.includes("--standard-json")) {
  process.stderr.write("this solc answers --version and --standard-json only\n");
  process.exit(1);
}
const read = (name) => {
  const file = [modules, process.cwd()].map((root) => path.join(root, name)).find((f) => fs.existsSync(f));
  return file ? { contents: fs.readFileSync(file, "utf8") } : { error: `file not found: ${name}` };
};
const output = require(path.join(modules, "solc")).compile(fs.readFileSync(0, "utf8"), { import: read });
// The wasm module keeps timers alive: leave as soon as the answer is flushed.
process.stdout.write(output, () => process.exit(0));
