// The page: what its buttons do, and what it shows.

import { decodeFile, MicrophoneRecording } from "./audio.js";
import { PageError } from "./errors.js";
import { toJson, toSrt, toTxt, toWav } from "./exports.js";
import { Player } from "./player.js";
import { Recognizer } from "./recognizer.js";
import { ERRORS, TEXTS } from "./texts.js";
import { band, Waveform } from "./waveform.js";

const DEFAULT_MODEL = "model.onnx"; // beside the page
const MARGIN = 0.05; // seconds that are played around a word

const element = (id) => document.getElementById(id);

/** What the page works on: `model` and `result` are null until there are some. */
export const state = { model: null, result: null, samples: null, busy: false, recording: null };

const recognizer = new Recognizer();
const waveform = new Waveform(element("scroller"), element("track"), element("waveform"), (word) =>
  playWord(word),
);
const player = new Player((seconds) => showTime(seconds));

// ---- what it says

function showTexts() {
  for (const node of document.querySelectorAll("[data-text]")) {
    node.textContent = TEXTS[node.dataset.text];
  }
  document.title = TEXTS.title;
  element("scroller").setAttribute("aria-label", TEXTS.scroller);
}

function say(text) {
  if (element("status").textContent !== text) element("status").textContent = text;
}

function showError(text) {
  element("error").textContent = text;
  element("error").hidden = !text;
  if (text) element("error").scrollIntoView({ block: "nearest" });
}

function describeError(error, name) {
  const { key, values } = error instanceof PageError ? error : unexpected(error);
  return ERRORS[key]({ name, ...values });
}

function unexpected(error) {
  return new PageError("unexpected", { reason: error?.message ?? String(error) });
}

function showProgress(share) {
  element("progress").hidden = share === null;
  if (share !== null) element("progress").value = share;
}

function enableButtons() {
  const { busy, model, recording } = state;
  element("record").disabled = busy || !model;
  element("open-recording").disabled = busy || !model || recording !== null;
  element("open-model").disabled = busy || recording !== null;
  element("record").textContent = recording ? TEXTS.stop : TEXTS.record;
  element("record").classList.toggle("recording", recording !== null);
}

let last = Promise.resolve();

/** Do one thing after the other, with what went wrong in one message. */
function work(name, task) {
  last = last.then(() => workNow(name, task));
  return last;
}

async function workNow(name, task) {
  const focused = document.activeElement;
  state.busy = true;
  enableButtons();
  showError("");
  try {
    await task();
  } catch (error) {
    if (!(error instanceof PageError)) console.error(error); // a fault of the page itself
    if (error.key === "cancelled") {
      say(TEXTS.cancelled(name));
    } else {
      say(state.model ? TEXTS.ready : TEXTS.needsModel);
      showError(describeError(error, name));
    }
  } finally {
    state.busy = false;
    showProgress(null);
    element("cancel").hidden = true;
    enableButtons();
    // A button that was disabled in the meantime has lost the keyboard.
    if (document.activeElement === document.body) focused.focus();
  }
}

// ---- the model

function loadDefaultModel() {
  return work(DEFAULT_MODEL, async () => loadModel(DEFAULT_MODEL, await download(DEFAULT_MODEL)));
}

/** Fetch a file from beside the page. */
async function download(name) {
  say(TEXTS.loadingModel(name, null));
  try {
    const response = await fetch(name);
    if (!response.ok) throw new PageError("noModelHere");
    return await readAll(response, (share) => {
      say(TEXTS.loadingModel(name, share));
      showProgress(share);
    });
  } catch (error) {
    if (error instanceof PageError) throw error;
    throw new PageError("unreadable", { reason: error.message });
  }
}

async function readAll(response, onProgress) {
  const total = Number(response.headers.get("Content-Length"));
  const reader = response.body.getReader();
  const chunks = [];
  let received = 0;
  for (let read = await reader.read(); !read.done; read = await reader.read()) {
    chunks.push(read.value);
    received += read.value.length;
    if (total) onProgress(Math.min(1, received / total)); // the length may be of packed bytes
  }
  return new Blob(chunks).arrayBuffer();
}

async function loadModel(name, bytes) {
  const megabytes = (bytes.byteLength / 1e6).toFixed(1);
  say(TEXTS.startingModel(name));
  const { model } = await recognizer.load(bytes);
  state.model = { ...model, name };
  element("model").textContent = TEXTS.model({ ...state.model, megabytes });
  element("license").textContent = TEXTS.license(model.license);
  element("license").hidden = !model.license;
  say(TEXTS.ready);
}

async function readFile(file) {
  try {
    return await file.arrayBuffer();
  } catch (error) {
    throw new PageError("unreadable", { reason: error.message });
  }
}

// ---- recordings

async function recogniseFile(file) {
  say(TEXTS.decoding(file.name));
  await recognise(file.name, await decodeFile(await readFile(file), state.model.sampleRate));
}

async function startRecording() {
  say(TEXTS.askingForMicrophone);
  player.stop();
  state.recording = await MicrophoneRecording.start((peak) => {
    if (!state.recording) return;
    element("clock").textContent = TEXTS.recorded(state.recording.seconds);
    element("level").value = peak;
  });
  say(TEXTS.recordingStarted);
  element("level").value = 0;
  element("level").hidden = false;
}

async function stopRecording() {
  const recording = state.recording;
  state.recording = null;
  element("level").hidden = true;
  element("clock").textContent = "";
  await recognise(TEXTS.microphone, await recording.stop());
}

async function recognise(name, recording) {
  const rate = state.model.sampleRate;
  const samples = await recognizer.resample(recording.samples, recording.rate, rate);
  const duration = samples.length / rate;
  const progress = (share) => {
    say(TEXTS.recognising(share, duration));
    showProgress(share);
  };
  player.stop();
  progress(0);
  element("cancel").hidden = false;
  const recognised = await recognizer.recognise(samples, progress);
  const { model, version, name: file } = state.model;
  state.samples = samples;
  state.result = {
    ...recognised,
    file: name,
    model: { file, model, version },
    duration,
    rate,
    joint: state.model.spaced ? " " : "",
    words: recognised.pieces.flatMap((piece) => piece.words),
  };
  showResult();
}

// ---- the result

function showResult() {
  const { text, words, pieces, duration, seconds, file, joint, rate } = state.result;
  element("result").hidden = false;
  buttons.clear();
  const nodes = pieces.filter((piece) => piece.text).map((piece) => nodesOf(piece, joint));
  element("text").replaceChildren(...nodes.flatMap((node, i) => (i ? [joint, ...node] : node)));
  if (!text) element("text").textContent = TEXTS.noWords;
  element("legend").hidden = !words.length;
  waveform.show(state.samples, rate, words);
  element("waveform").setAttribute("aria-label", TEXTS.waveform(words.length));
  const mean = words.length
    ? words.reduce((sum, word) => sum + word.confidence, 0) / words.length
    : null;
  element("figures").textContent = TEXTS.figures({ duration, seconds, mean });
  say(text ? TEXTS.recognised(file, words.length) : TEXTS.nothingRecognised(file));
}

const buttons = new Map(); // of the words that are shown

/** The words of a piece as buttons; its plain text where they have no times. */
function nodesOf({ text, words }, joint) {
  if (!words.length) return [text];
  return words.flatMap((word, i) => (i ? [joint, wordButton(word)] : [wordButton(word)]));
}

function wordButton(word) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = `word ${band(word.confidence)}`;
  button.textContent = word.word;
  button.title = TEXTS.word(word);
  button.addEventListener("click", () => playWord(word));
  buttons.set(word, button);
  return button;
}

function playWord({ start, end }) {
  play(Math.max(0, start - MARGIN), Math.min(state.result.duration, end + MARGIN));
}

function play(start, end) {
  player.play(state.samples, state.result.rate, start, end);
  element("play").textContent = TEXTS.stopPlaying;
}

function showTime(seconds) {
  waveform.setTime(seconds);
  for (const [{ start, end }, button] of buttons) {
    button.classList.toggle("playing", seconds !== null && start <= seconds && seconds < end);
  }
  if (seconds === null) element("play").textContent = TEXTS.play;
}

const FORMATS = {
  txt: () => [toTxt(state.result), "text/plain"],
  srt: () => [toSrt(state.result), "application/x-subrip"],
  json: () => [toJson(state.result), "application/json"],
  wav: () => [toWav(state.samples, state.result.rate), "audio/wav"],
};

function save(format) {
  const [content, type] = FORMATS[format]();
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([content], { type }));
  link.download = `${state.result.file.replace(/\.[^.]*$/u, "")}.${format}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

// ---- files that are opened or dropped

async function open(files) {
  const file = files.find(({ name }) => name.endsWith(".onnx")) ?? files[0];
  if (!file || state.recording) return;
  await work(file.name, async () => {
    if (file.name.endsWith(".onnx")) {
      say(TEXTS.loadingModel(file.name, null));
      await loadModel(file.name, await readFile(file));
    } else if (state.model) {
      await recogniseFile(file);
    } else {
      throw new PageError("noModel");
    }
  });
  if (files.length > 1) say(`${element("status").textContent} ${TEXTS.onlyFirst(file.name)}`);
}

function pickFiles(button, input) {
  element(button).addEventListener("click", () => element(input).click());
  element(input).addEventListener("change", ({ target }) => {
    open([...target.files]);
    target.value = ""; // so that the same file can be chosen again
  });
}

function takeDrops() {
  let depth = 0; // of elements that the file is dragged over
  const show = (change) => {
    depth = change ? depth + change : 0;
    element("drop").hidden = depth <= 0;
  };
  document.addEventListener("dragenter", () => show(1));
  document.addEventListener("dragleave", () => show(-1));
  document.addEventListener("dragover", (event) => event.preventDefault());
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    show(0);
    open([...event.dataTransfer.files]);
  });
}

// ---- start

element("not-started").remove();
showTexts();
pickFiles("open-model", "model-file");
pickFiles("open-recording", "recording-file");
takeDrops();
element("record").addEventListener("click", () =>
  work(TEXTS.microphone, state.recording ? stopRecording : startRecording),
);
element("cancel").addEventListener("click", () => recognizer.cancel());
element("play").addEventListener("click", () =>
  player.playing ? player.stop() : play(0, state.result.duration),
);
element("copy").addEventListener("click", async () => {
  await navigator.clipboard.writeText(state.result.text);
  say(TEXTS.copied);
});
for (const button of document.querySelectorAll(".save")) {
  button.addEventListener("click", () => save(button.dataset.format));
}
loadDefaultModel();
