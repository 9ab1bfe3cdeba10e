// The waveform of a recording with the recognised words on it.

import { peakOf } from "./audio.js";

const WAVE = 96; // CSS pixels: height of the waveform
const ROW = 20; // of a row of words
const ROWS = 2;
const DENSITY = 150; // CSS pixels of a second, so that words can be read; short recordings get more
const FAINT = 0.02; // recordings below this peak are drawn small
const BAR = 4; // height of the bar of a word's confidence

/** The band of a confidence, which has a colour and a line style in style.css. */
export function band(confidence) {
  if (confidence >= 0.8) return "high";
  return confidence >= 0.5 ? "medium" : "low";
}

/** Draws a recording on the part of a canvas that is in view; the rest is scrolled to. */
export class Waveform {
  /**
   * @param {HTMLElement} scroller Scrolls horizontally; holds `track`, which holds `canvas`.
   * @param {HTMLElement} track As wide as the whole recording.
   * @param {HTMLCanvasElement} canvas Stays in view.
   * @param {(word: object) => void} onWord Takes the word that was clicked.
   */
  constructor(scroller, track, canvas, onWord) {
    [this.scroller, this.track, this.canvas] = [scroller, track, canvas];
    [this.samples, this.rate, this.words] = [new Float32Array(0), 1, []];
    this.time = null;
    const redraw = () => this.draw();
    scroller.addEventListener("scroll", redraw);
    new ResizeObserver(redraw).observe(scroller);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
    canvas.addEventListener("click", (event) => {
      const word = this.#wordAt(event);
      if (word) onWord(word);
    });
    canvas.addEventListener("mousemove", (event) => {
      canvas.style.cursor = this.#wordAt(event) ? "pointer" : "default";
    });
  }

  /**
   * @param {Float32Array} samples Mono.
   * @param {number} rate Hz.
   * @param {object[]} words With start and end in seconds and confidence.
   */
  show(samples, rate, words) {
    [this.samples, this.rate, this.words] = [samples, rate, words];
    this.time = null;
    this.scroller.scrollLeft = 0;
    this.peak = Math.max(FAINT, peakOf(samples));
    this.draw();
  }

  /** Show where playing is; null: it does not play. */
  setTime(seconds) {
    this.time = seconds;
    const x = (seconds ?? 0) * this.density;
    const { scrollLeft, clientWidth } = this.scroller;
    if (seconds !== null && (x < scrollLeft || x > scrollLeft + clientWidth)) {
      this.scroller.scrollLeft = x;
    }
    this.draw();
  }

  get density() {
    const duration = this.samples.length / this.rate || 1;
    return Math.max(DENSITY, this.scroller.clientWidth / duration);
  }

  #wordAt(event) {
    const seconds = (event.offsetX + this.scroller.scrollLeft) / this.density;
    return this.words.find(({ start, end }) => start <= seconds && seconds < end);
  }

  draw() {
    const width = this.scroller.clientWidth;
    const height = WAVE + ROWS * ROW;
    const scale = window.devicePixelRatio || 1;
    const seconds = this.samples.length / this.rate;
    this.track.style.width = `${Math.floor(seconds * this.density)}px`;
    Object.assign(this.canvas, { width: width * scale, height: height * scale });
    Object.assign(this.canvas.style, { width: `${width}px`, height: `${height}px` });
    const context = this.canvas.getContext("2d");
    context.scale(scale, scale);
    const style = getComputedStyle(this.canvas);
    const colour = (name) => style.getPropertyValue(`--${name}`).trim();
    const left = this.scroller.scrollLeft;
    this.#drawSpans(context, left, width, colour);
    this.#drawWave(context, left, width, colour("wave"));
    context.font = `13px ${style.fontFamily}`;
    this.#drawWords(context, left, width, colour("text"));
    if (this.time !== null) {
      context.fillStyle = colour("text");
      context.fillRect(this.time * this.density - left, 0, 2, WAVE);
    }
  }

  #drawWave(context, left, width, colour) {
    context.fillStyle = colour;
    const step = this.rate / this.density; // samples of a pixel
    const middle = (WAVE - BAR) / 2;
    for (let x = 0; x < width; x++) {
      const from = Math.floor((left + x) * step);
      const to = Math.min(
        this.samples.length,
        Math.max(from + 1, Math.floor((left + x + 1) * step)),
      );
      let [low, high] = [Infinity, -Infinity];
      for (let n = from; n < to; n++) {
        low = Math.min(low, this.samples[n]);
        high = Math.max(high, this.samples[n]);
      }
      if (high < low) break;
      const top = middle - (high / this.peak) * (middle - 2);
      const bottom = middle - (low / this.peak) * (middle - 2);
      context.fillRect(x, top, 1, Math.max(1, bottom - top));
    }
  }

  /** Draw where the words are, in the colours of their confidences. */
  #drawSpans(context, left, width, colour) {
    for (const { start, end, confidence } of this.words) {
      const [x, wide] = [start * this.density - left, (end - start) * this.density];
      if (x + wide < 0 || x > width) continue;
      context.fillStyle = colour(band(confidence));
      context.globalAlpha = 0.15;
      context.fillRect(x, 0, wide, WAVE);
      context.globalAlpha = 1;
      context.fillRect(x, WAVE - BAR, Math.max(2, wide - 1), BAR);
    }
  }

  /** Write the words, in the first row that has room; the others stand in the text alone. */
  #drawWords(context, left, width, colour) {
    context.textBaseline = "middle";
    context.fillStyle = colour;
    const last = (this.samples.length / this.rate) * this.density - left;
    const free = new Array(ROWS).fill(-Infinity); // where each row has room again
    for (const { word, start } of this.words) {
      const textWidth = context.measureText(word).width;
      const x = Math.min(start * this.density - left, last - textWidth - 2);
      const row = free.findIndex((place) => place <= x);
      if (row < 0) continue;
      free[row] = x + textWidth + 6;
      if (x + textWidth > 0 && x < width) context.fillText(word, x, WAVE + (row + 0.5) * ROW);
    }
  }
}
