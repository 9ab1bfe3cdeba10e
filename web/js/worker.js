// Runs the network, away from the thread that draws the page.

import * as ort from "../vendor/ort.wasm.min.mjs";
import { alignWords, greedyText } from "./decoding.js";
import { PageError } from "./errors.js";
import { describeModel } from "./metadata.js";
import { cutIntoPieces } from "./pieces.js";
import { resample } from "./resampling.js";

// Several threads share memory, which browsers allow only where the server sends the headers that
// isolate the page from others.
ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency) : 1;
ort.env.wasm.wasmPaths = new URL("../vendor/", import.meta.url).href;
ort.env.logLevel = "error";

let session;
let model;
let cancelled = 0; // number of the last recognition that was cancelled

const requests = {
  load: ({ bytes }) => load(new Uint8Array(bytes)),
  resample: ({ samples, from, to }) => ({ samples: resample(samples, from, to) }),
  recognise: ({ id, samples }) => recognise(id, samples),
};

self.onmessage = async ({ data }) => {
  if (data.type === "cancel") {
    cancelled = data.id;
    return;
  }
  try {
    const answer = await requests[data.type](data);
    const transfer = answer.samples ? [answer.samples.buffer] : [];
    self.postMessage({ type: "done", id: data.id, ...answer }, transfer);
  } catch (error) {
    const { key, values } =
      error instanceof PageError ? error : new PageError("runtime", { reason: reasonOf(error) });
    self.postMessage({ type: "failed", id: data.id, key, values });
  }
};

async function load(bytes) {
  const begin = performance.now();
  const described = describeModel(bytes);
  const created = await ort.InferenceSession.create(bytes, {
    executionProviders: ["wasm"],
    logSeverityLevel: 3, // errors
  });
  if (!fits(created, described)) {
    await created.release();
    throw new PageError("damagedDescription");
  }
  await session?.release();
  [session, model] = [created, described];
  const { labels, ...facts } = described;
  return {
    model: { ...facts, labels: labels.labels.length, spaced: labels.spaced },
    seconds: (performance.now() - begin) / 1000,
    threads: ort.env.wasm.numThreads,
  };
}

/** Whether a network has the inputs, outputs and labels of its description. */
function fits({ inputNames, outputNames, outputMetadata }, { labels }) {
  const logProbs = outputMetadata.find(({ name }) => name === "log_probs");
  return (
    ["samples", "lengths"].every((name) => inputNames.includes(name)) &&
    outputNames.includes("output_lengths") &&
    logProbs?.shape?.at(2) === labels.labels.length
  );
}

async function recognise(id, samples) {
  const begin = performance.now();
  const pieces = [];
  for (const [start, end] of cutIntoPieces(samples, model.sampleRate)) {
    pieces.push(await recognisePiece(samples.subarray(start, end), start));
    self.postMessage({ type: "progress", id, done: end / samples.length, piece: pieces.at(-1) });
    await new Promise((resolve) => setTimeout(resolve)); // lets a message "cancel" come in
    if (cancelled === id) throw new PageError("cancelled");
  }
  return {
    text: model.labels.join(pieces.map((piece) => piece.text)),
    pieces,
    seconds: (performance.now() - begin) / 1000,
  };
}

async function recognisePiece(samples, start) {
  const results = await session.run({
    samples: new ort.Tensor("float32", samples.slice(), [1, samples.length]),
    lengths: new ort.Tensor("int32", [samples.length], [1]),
  });
  const { log_probs: logProbs, output_lengths: frames, starts } = results;
  // Where the network cuts silence off, `starts` tells how many samples it cut before the first.
  const offset = (start + Number(starts?.data[0] ?? 0)) / model.sampleRate;
  const count = Number(frames.data[0]);
  const text = greedyText(logProbs.data, count, model.labels);
  const words = alignWords(text, logProbs.data, count, model.labels, model.frameSeconds, offset);
  const [from, to] = [start, start + samples.length].map((sample) => sample / model.sampleRate);
  Object.values(results).forEach((tensor) => tensor.dispose());
  return { text, words, start: from, end: to };
}

/** The reason in an error of ONNX Runtime, without the names of its source files and functions. */
function reasonOf(error) {
  const [line] = String(error?.message ?? error).split("\n");
  return line.replace(/^.*ERROR_MESSAGE: /u, "").replace(/^\S+\.(h|cc):\d+ .*?\) /u, "");
}
