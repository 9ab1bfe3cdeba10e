// All that the page says. Texts of index.html stand here under the name in their data-text.

export const TEXTS = {
  title: "Speech to text",
  privacy:
    "Everything happens in this browser. Recordings, models and texts never leave your device.",
  modelHeading: "Model",
  openModel: "Open a model",
  recordingHeading: "Recording",
  record: "Record",
  stop: "Stop",
  openRecording: "Open an audio file",
  dropHint: "or drop an audio file or a model (.onnx) anywhere on this page",
  dropHere: "Drop the file here",
  cancel: "Cancel",
  resultHeading: "Text",
  confidence: "Confidence:",
  high: "80 % or more",
  medium: "50 to 80 %",
  low: "less than 50 %",
  wordHint: "Press a word to hear it.",
  play: "Play all",
  stopPlaying: "Stop playing",
  copy: "Copy text",
  copied: "The text is copied.",
  saveTxt: "TXT",
  saveSrt: "SRT",
  saveJson: "JSON",
  saveWav: "WAV",
  save: "Save as",
  waveform: (words) => `Waveform of the recording with ${words} recognised words`,
  scroller: "Waveform; scrolls sideways",

  loadingModel: (name, share) =>
    share === null ? `Loading ${name} …` : `Loading ${name}: ${Math.round(100 * share)} %`,
  startingModel: (name) => `Starting ${name} …`,
  model: ({ name, model, version, weights, sampleRate, labels, megabytes }) =>
    [
      [name, model, version].filter(Boolean).join(", "),
      [`${labels} labels`, `${sampleRate / 1000} kHz`, weights, `${megabytes} MB`]
        .filter(Boolean)
        .join(", "),
    ].join(" · "),
  license: (license) => `Licence of the weights: ${license}`,
  ready: "Ready. Record something or open an audio file.",
  needsModel: "Open a model to begin.",
  askingForMicrophone: "Waiting for the microphone …",
  recordingStarted: "Recording. Press Stop to recognise it.",
  recorded: (seconds) => `${seconds.toFixed(1)} s`,
  decoding: (name) => `Reading ${name} …`,
  recognising: (share, seconds) =>
    `Recognising: ${Math.round(100 * share)} % of ${seconds.toFixed(1)} s`,
  recognised: (name, words) => `${name}: ${words} ${words === 1 ? "word" : "words"} recognised.`,
  nothingRecognised: (name) => `${name}: no words were recognised.`,
  cancelled: (name) => `${name}: recognition was cancelled.`,
  noWords: "(no words)",
  figures: ({ duration, seconds, mean }) =>
    [
      `${duration.toFixed(1)} s of sound in ${seconds.toFixed(2)} s`,
      `real-time factor ${(seconds / duration).toPrecision(2)}`,
      ...(mean === null ? [] : [`mean confidence ${percent(mean)}`]),
    ].join(" · "),
  word: ({ word, start, end, confidence }) =>
    `${word}: ${start.toFixed(2)} to ${end.toFixed(2)} s, confidence ${percent(confidence)}`,
  noTimes: "This text has no word times.",
  onlyFirst: (name) => `One recording at a time: only ${name} was taken.`,
  microphone: "microphone",
};

// What went wrong and what to do, in one message each. `name` is the file's.
export const ERRORS = {
  noModelHere: ({ name }) =>
    `There is no ${name} beside this page. Put one there (python export.py --file_format ONNX) ` +
    "or open a model file.",
  notOnnx: ({ name, bytes }) =>
    `${name} is no ONNX model (${bytes} bytes). Open an exported .onnx file.`,
  truncated: ({ name, missing }) =>
    `${name} is incomplete: at least ${missing} bytes are missing at its end. ` +
    "Copy or download it again.",
  noDescription: ({ name }) =>
    `${name} does not say what its labels and features are. ` +
    "Export it with a current version of export.py.",
  damagedDescription: ({ name }) =>
    `${name}: its description is damaged or does not fit the network. Export the model again.`,
  damagedNetwork: ({ name }) =>
    `${name} is damaged, or was changed after the export. ` +
    "Copy or download it again, or export the model again.",
  takesFeatures: ({ name, input }) =>
    `${name} takes ${input}, but this page gives samples. Export the model with --input samples.`,
  runtime: ({ name, reason }) => `${name} could not be run. ONNX Runtime says: ${reason}`,
  runtimeMissing: () =>
    "ONNX Runtime is missing or this browser cannot run it. " +
    "In the folder of the page, type npm run setup, then reload the page.",
  unreadable: ({ name, reason }) => `${name} could not be read: ${reason}`,
  undecodable: ({ name }) =>
    `${name} is no audio that this browser can decode. WAV, FLAC, MP3 and Ogg usually work.`,
  emptyFile: ({ name }) => `${name} is empty: it holds no sound.`,
  notFinite: ({ name }) => `${name} has samples that are no numbers (nan or infinite).`,
  nothingRecorded: () => "Nothing was recorded. Hold the recording a little longer.",
  insecurePage: () =>
    "The browser gives the microphone only to pages on https or on localhost. " +
    "You can still open an audio file.",
  microphoneRefused: () =>
    "The microphone may not be used. Allow it in the browser's settings for this page, " +
    "then press Record again.",
  noMicrophone: ({ reason }) => `No microphone could be opened: ${reason}`,
  noModel: ({ name }) => `Open a model before you open ${name}.`,
  unexpected: ({ name, reason }) => `${name}: the page failed (${reason}). Please report it.`,
};

export function percent(share) {
  return `${Math.round(100 * share)} %`;
}
