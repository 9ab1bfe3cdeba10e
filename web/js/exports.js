// A result as TXT, SRT or JSON, and a recording as WAV.

const LINE = 42; // characters of a subtitle
const SHOWN = 6; // seconds that a subtitle stays, at most
const PAUSE = 0.7; // seconds between words that end a subtitle

/** The text, a line for each piece of the recording. */
export function toTxt(result) {
  return result.pieces.map((piece) => `${piece.text}\n`).join("");
}

/** All that was recognised, as the Python interface names it, and what recognised it. */
export function toJson(result) {
  const { file, model, duration, text, pieces } = result;
  const words = pieces.flatMap((piece) => piece.words);
  return `${JSON.stringify({ file, model, duration, text, words }, null, 2)}\n`;
}

/** Subtitles (SubRip): lines end at pauses, at 42 characters or after six seconds. */
export function toSrt(result) {
  const cues = result.pieces.flatMap((piece) =>
    // Words of a text that could not be aligned have no times of their own.
    piece.words.length || !piece.text ? cuesOf(piece.words, result.joint) : [piece],
  );
  return cues
    .map(({ start, end, text }, i) => `${i + 1}\n${clock(start)} --> ${clock(end)}\n${text}\n`)
    .join("\n");
}

function cuesOf(words, joint) {
  const cues = [];
  for (const { word, start, end } of words) {
    const cue = cues.at(-1);
    const fits =
      cue &&
      start - cue.end < PAUSE &&
      end - cue.start <= SHOWN &&
      cue.text.length + joint.length + word.length <= LINE;
    if (fits) Object.assign(cue, { end, text: cue.text + joint + word });
    else cues.push({ start, end, text: word });
  }
  return cues;
}

function clock(seconds) {
  const total = Math.round(seconds * 1000);
  const part = (unit, count, digits) =>
    String(Math.floor(total / unit) % count).padStart(digits, "0");
  const hours = String(Math.floor(total / 3600000)).padStart(2, "0");
  return `${hours}:${part(60000, 60, 2)}:${part(1000, 60, 2)},${part(1, 1000, 3)}`;
}

/** A 16-bit mono WAV file (RIFF, PCM). */
export function toWav(samples, rate) {
  const view = new DataView(new ArrayBuffer(44 + 2 * samples.length));
  const text = (place, letters) =>
    [...letters].forEach((letter, i) => view.setUint8(place + i, letter.charCodeAt(0)));
  text(0, "RIFF");
  view.setUint32(4, 36 + 2 * samples.length, true);
  text(8, "WAVEfmt ");
  view.setUint32(16, 16, true); // bytes of the format
  view.setUint16(20, 1, true); // PCM
  view.setUint16(22, 1, true); // channels
  view.setUint32(24, rate, true);
  view.setUint32(28, 2 * rate, true); // bytes a second
  view.setUint16(32, 2, true); // bytes of a sample
  view.setUint16(34, 16, true); // bits of a sample
  text(36, "data");
  view.setUint32(40, 2 * samples.length, true);
  samples.forEach((sample, n) => {
    const value = Math.round(sample * 32768);
    view.setInt16(44 + 2 * n, Math.max(-32768, Math.min(32767, value)), true);
  });
  return view.buffer;
}
