// Copies what the page loads at run time out of node_modules into vendor/, with the names of the licences.

import { copyFile, mkdir, readFile, stat, writeFile } from "node:fs/promises";

const FILES = {
  "onnxruntime-web": [
    "dist/ort.wasm.min.mjs",
    "dist/ort-wasm-simd-threaded.mjs",
    "dist/ort-wasm-simd-threaded.wasm",
  ],
  pbf: ["index.js", "LICENSE"],
};
const NAMES = { "index.js": "pbf.js", LICENSE: "pbf-LICENSE" }; // in vendor/

const here = (path) => new URL(path, import.meta.url);

await mkdir(here("vendor/"), { recursive: true });
const versions = [];
for (const [name, paths] of Object.entries(FILES)) {
  const { version, license } = JSON.parse(
    await readFile(here(`node_modules/${name}/package.json`), "utf8"),
  );
  versions.push(`${name} ${version}, licence ${license}`);
  for (const path of paths) {
    const file = path.split("/").pop();
    const target = here(`vendor/${NAMES[file] ?? file}`);
    await copyFile(here(`node_modules/${name}/${path}`), target);
    console.log(`vendor/${NAMES[file] ?? file}: ${(await stat(target)).size} bytes`);
  }
}
await writeFile(here("vendor/VERSIONS"), `${versions.join("\n")}\n`);
