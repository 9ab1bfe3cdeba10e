// What a model file says of itself. onnxruntime-web gives no access to the custom metadata of a
// model, so they are read from the file: an ONNX file is a protocol-buffers message ModelProto
// (https://github.com/onnx/onnx/blob/main/onnx/onnx.proto). Only its outermost fields are looked
// at; the graph with its weights is skipped by its length.

import { PbfReader } from "../vendor/pbf.js";
import { Labels } from "./decoding.js";
import { PageError } from "./errors.js";

const IR_VERSION = 1; // field numbers of ModelProto; every writer begins with the first
const GRAPH = 7;
const METADATA_PROPS = 14;
const KEY = 1; // field numbers of StringStringEntryProto
const VALUE = 2;
const LENGTH_DELIMITED = 2; // wire type of texts and messages

/**
 * Read the custom metadata of an ONNX file.
 *
 * @param {Uint8Array} bytes The whole file.
 * @returns {Map<string, string>}
 * @throws {PageError} It is no ONNX file, or only the beginning of one.
 */
export function readMetadata(bytes) {
  const reader = new PbfReader(bytes);
  const metadata = new Map();
  if (reader.nextField() !== IR_VERSION) throw new PageError("notOnnx", { bytes: bytes.length });
  let hasGraph = false;
  let field;
  try {
    while ((field = reader.nextField())) {
      if (reader.type !== LENGTH_DELIMITED) continue; // the reader skips it
      const end = reader.readVarint() + reader.pos;
      if (end > bytes.length) throw new PageError("truncated", { missing: end - bytes.length });
      if (field === METADATA_PROPS) {
        const { key, value } = reader.readFields(readEntry, {}, end);
        metadata.set(key, value);
      }
      hasGraph ||= field === GRAPH;
      reader.pos = end;
    }
  } catch (error) {
    throw error instanceof PageError ? error : new PageError("notOnnx", { bytes: bytes.length });
  }
  if (!hasGraph) throw new PageError("notOnnx", { bytes: bytes.length });
  return metadata;
}

function readEntry(field, entry, reader) {
  if (field === KEY) entry.key = reader.readString();
  if (field === VALUE) entry.value = reader.readString();
}

/**
 * Read what recognition needs from the description in a model file.
 *
 * @param {Uint8Array} bytes The whole file.
 * @returns {{labels: Labels, sampleRate: number, frameSeconds: number, model: string,
 *   version: string, weights: string, license: string}} sampleRate in Hz; frameSeconds from one
 *   frame of the output to the next.
 * @throws {PageError} It is no such file, or its network is damaged, or its description is
 *   missing, damaged or of a model that takes features.
 */
export function describeModel(bytes) {
  const metadata = readMetadata(bytes);
  const json = metadata.get("description");
  if (json === undefined) throw new PageError("noDescription");
  const description = parse(json);
  if (!isIntact(bytes, description?.content)) throw new PageError("damagedNetwork");
  if (description?.input !== "samples") {
    throw new PageError("takesFeatures", { input: description?.input ?? "features" });
  }
  const { labels, blank, features, frame_stride: stride } = description;
  const { sample_rate: sampleRate, window_stride: seconds } = features ?? {};
  const hop = Math.round(sampleRate * seconds); // samples from one feature frame to the next
  const valid =
    [sampleRate, hop, stride].every((number) => number > 0) &&
    Array.isArray(labels) &&
    labels.every((label) => typeof label === "string") &&
    typeof labels[blank] === "string";
  if (!valid) throw new PageError("damagedDescription");
  return {
    labels: new Labels(labels, blank),
    sampleRate,
    frameSeconds: (stride * hop) / sampleRate,
    model: String(description.model ?? ""),
    version: String(description.project_version ?? ""),
    weights: String(description.weights ?? ""),
    license: metadata.get("license") ?? "", // shown, not used
  };
}

/**
 * Whether the network, which is all bytes before the metadata, is the one that was described: one
 * with damaged weights would run, and give wrong texts. Files of earlier versions do not tell.
 */
function isIntact(bytes, content) {
  if (content === undefined) return true;
  const { bytes: size, crc32: expected } = content ?? {};
  if (!(size >= 0 && size <= bytes.length)) return false;
  return crc32(bytes.subarray(0, size)).toString(16).padStart(8, "0") === expected;
}

/** Compute the CRC-32 (ISO 3309) of bytes. */
export function crc32(bytes) {
  const remainders = Uint32Array.from({ length: 256 }, (_, byte) => {
    let value = byte;
    for (let bit = 0; bit < 8; bit++) value = (value >>> 1) ^ (value & 1 ? 0xedb88320 : 0);
    return value;
  });
  let crc = 0xffffffff;
  for (let i = 0; i < bytes.length; i++) {
    crc = (crc >>> 8) ^ remainders[(crc ^ bytes[i]) & 0xff]; // quicker than for...of
  }
  return ~crc >>> 0;
}

function parse(json) {
  try {
    return JSON.parse(json);
  } catch {
    throw new PageError("damagedDescription");
  }
}
