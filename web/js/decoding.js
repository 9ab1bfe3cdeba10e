// From log-probabilities to text and words: what common/decoding/decoders.py (greedy) and
// common/decoding/word_alignment.py compute, so that the page says what transcribe.py says.

// Scripts whose words are not separated by spaces, as common/text/tokenizer.py lists them.
const SCRIPTS_WITHOUT_SPACES = [
  ..."Thai Lao Tibetan Myanmar Khmer Tai_Le New_Tai_Lue Tai_Tham Tai_Viet Balinese".split(" "),
  ..."Javanese Hiragana Katakana Bopomofo Yi Han".split(" "),
].map((script) => new RegExp(`\\p{Script=${script}}`, "u"));

/** The labels of a network's outputs, of which one is CTC's blank. */
export class Labels {
  /**
   * @param {string[]} labels Single characters, in the order of the network's outputs.
   * @param {number} blank Index of the blank.
   */
  constructor(labels, blank) {
    this.labels = labels;
    this.blank = blank;
    this.index = new Map(labels.map((label, i) => [label, i]));
    this.index.delete(labels[blank]);
    const letters = [...this.index.keys()].join("");
    this.spaced =
      this.index.has(" ") || !SCRIPTS_WITHOUT_SPACES.some((script) => script.test(letters));
  }

  /** Join the texts of the pieces of a recording. */
  join(texts) {
    return texts.filter(Boolean).join(this.spaced ? " " : "");
  }

  /** Split a text into words; into characters where the script separates no words. */
  words(text) {
    return this.spaced ? text.split(/\s+/u).filter(Boolean) : [...text];
  }

  /** Return the label ids of a text, or null if it has a character without a label. */
  encode(text) {
    const ids = [...text].map((character) => this.index.get(character));
    return ids.includes(undefined) ? null : ids;
  }
}

/**
 * Decode the best label of each frame: repeats merged, then blanks removed (Graves et al. 2006,
 * "Connectionist Temporal Classification", section 3.1).
 *
 * @param {Float32Array} logProbs (frames, labels), natural logarithms.
 * @param {number} frames Frames that count.
 * @param {Labels} labels Of the network.
 * @returns {string} The text, its words separated by one space.
 */
export function greedyText(logProbs, frames, labels) {
  const classes = labels.labels.length;
  let text = "";
  let previous = -1;
  for (let frame = 0; frame < frames; frame++) {
    const row = frame * classes;
    let best = 0;
    for (let id = 1; id < classes; id++) {
      if (logProbs[row + id] > logProbs[row + best]) best = id;
    }
    if (best !== previous && best !== labels.blank) text += labels.labels[best];
    previous = best;
  }
  return text.split(/\s+/u).filter(Boolean).join(" ");
}

/**
 * Find the most probable CTC path that reads as some labels: Viterbi over the labels with a blank
 * before, between and behind them (section 4.1 of the same paper, with maxima in place of sums).
 *
 * @param {Float32Array} logProbs (frames, classes), natural logarithms.
 * @param {number} frames Frames that count.
 * @param {number} classes Labels of the network.
 * @param {number[]} ids Labels of the text, none of which is the blank.
 * @param {number} blank Index of the blank.
 * @returns {[number, number][]} For each label the first frame that emits it and the frame after
 *   its last one; empty where no path of so many frames reads as the labels.
 */
export function alignLabels(logProbs, frames, classes, ids, blank) {
  if (!ids.length || !frames) return [];
  const states = new Int32Array(2 * ids.length + 1).fill(blank);
  ids.forEach((id, i) => (states[2 * i + 1] = id));
  let best = new Float64Array(states.length).fill(-Infinity);
  let next = new Float64Array(states.length);
  best[0] = logProbs[states[0]];
  best[1] = logProbs[states[1]];
  const steps = new Uint8Array(frames * states.length); // states back to where a path came from
  for (let frame = 1; frame < frames; frame++) {
    for (let s = 0; s < states.length; s++) {
      let from = best[s];
      let step = 0;
      if (s > 0 && best[s - 1] > from) [from, step] = [best[s - 1], 1];
      const jumps = s > 1 && states[s] !== blank && states[s] !== states[s - 2];
      if (jumps && best[s - 2] > from) [from, step] = [best[s - 2], 2];
      steps[frame * states.length + s] = step;
      next[s] = from + logProbs[frame * classes + states[s]];
    }
    [best, next] = [next, best];
  }
  let state = states.length - 1;
  if (best[state - 1] > best[state]) state -= 1;
  if (best[state] === -Infinity) return [];
  const spans = ids.map(() => [frames, 0]);
  for (let frame = frames - 1; frame >= 0; frame--) {
    if (state % 2) {
      const span = spans[(state - 1) / 2];
      span[0] = Math.min(span[0], frame);
      span[1] = Math.max(span[1], frame + 1);
    }
    state -= steps[frame * states.length + state];
  }
  return spans;
}

/**
 * Find times and confidences of the words of a text.
 *
 * @param {string} text As `greedyText` returns it.
 * @param {Float32Array} logProbs (frames, labels), natural logarithms.
 * @param {number} frames Frames that count.
 * @param {Labels} labels Of the network.
 * @param {number} frameSeconds From one frame to the next.
 * @param {number} offset Seconds from the beginning of the recording to the first frame.
 * @returns {{word: string, start: number, end: number, confidence: number}[]} Start and end in
 *   seconds, to the millisecond; confidence from 0 to 1: the mean, over the labels of the word, of
 *   the probability of each label in the frame where the network is surest of it. Empty where the
 *   text cannot be aligned.
 */
export function alignWords(text, logProbs, frames, labels, frameSeconds, offset = 0) {
  const ids = labels.encode(text);
  const classes = labels.labels.length;
  const spans = ids ? alignLabels(logProbs, frames, classes, ids, labels.blank) : [];
  if (!spans.length) return [];
  const words = [];
  let place = 0;
  for (const word of labels.words(text)) {
    const spelled = labels.encode(word);
    while (place < ids.length && spelled.some((id, i) => ids[place + i] !== id)) place += 1;
    if (place >= ids.length) return [];
    let sum = 0;
    for (let at = place; at < place + spelled.length; at++) {
      let surest = -Infinity;
      for (let frame = spans[at][0]; frame < spans[at][1]; frame++) {
        surest = Math.max(surest, logProbs[frame * classes + ids[at]]);
      }
      sum += Math.exp(surest);
    }
    words.push({
      word,
      start: milliseconds(offset + spans[place][0] * frameSeconds),
      end: milliseconds(offset + spans[place + spelled.length - 1][1] * frameSeconds),
      confidence: Math.min(1, sum / spelled.length),
    });
    place += spelled.length;
  }
  return words;
}

function milliseconds(seconds) {
  return Number(seconds.toFixed(3));
}
