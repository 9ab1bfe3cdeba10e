// Recordings: decoding of files, the microphone, resampling, and writing of WAV files.

import { PageError } from "./errors.js";

const ZERO_CROSSINGS = 32; // of the resampling filter, on each side
const ROLL_OFF = 0.95; // share of the lower Nyquist frequency that passes
const KAISER_BETA = 9; // about 90 dB of stop-band attenuation

/**
 * Decode an audio file with the browser's decoders.
 *
 * @param {ArrayBuffer} bytes Content of the file.
 * @param {number} rate Hz that is wanted; the browser resamples.
 * @returns {Promise<Float32Array>} Samples, channels averaged.
 * @throws {PageError} The browser cannot decode it, or it holds no usable samples.
 */
export async function decodeFile(bytes, rate) {
  if (!bytes.byteLength) throw new PageError("emptyFile");
  let buffer;
  try {
    buffer = await new OfflineAudioContext(1, 1, rate).decodeAudioData(bytes);
  } catch {
    throw new PageError("undecodable");
  }
  const samples = averageChannels(
    Array.from({ length: buffer.numberOfChannels }, (_, channel) => buffer.getChannelData(channel)),
  );
  if (!samples.length) throw new PageError("emptyFile");
  if (!samples.every(Number.isFinite)) throw new PageError("notFinite");
  return samples;
}

/** Average the samples of several channels of equal length. */
export function averageChannels(channels) {
  if (channels.length === 1) return channels[0].slice();
  return channels[0].map(
    (_, n) => channels.reduce((sum, channel) => sum + channel[n], 0) / channels.length,
  );
}

/**
 * Resample by a sinc filter under a Kaiser window (Smith, "Digital Audio Resampling"; the window's
 * parameters after Oppenheim and Schafer). Browsers interpolate linearly where an AudioBuffer of
 * another rate is played, which folds high frequencies into speech.
 *
 * @param {Float32Array} samples Mono.
 * @param {number} from Their rate, in Hz.
 * @param {number} to Hz that is wanted.
 * @returns {Float32Array} round(length * to / from) samples.
 */
export function resample(samples, from, to) {
  if (from === to) return samples;
  const divisor = greatestCommonDivisor(from, to);
  const [phases, stride] = [to / divisor, from / divisor];
  const cutoff = ROLL_OFF * Math.min(1, to / from);
  const reach = Math.ceil(ZERO_CROSSINGS / cutoff);
  // One filter for each place that an output sample can have between two input samples.
  const filters = Array.from({ length: phases }, (_, phase) =>
    Float64Array.from({ length: 2 * reach }, (_, tap) => {
      const distance = tap - reach + 1 - ((phase * stride) % phases) / phases;
      return cutoff * sinc(cutoff * distance) * kaiser(distance / reach);
    }),
  );
  const output = new Float32Array(Math.round((samples.length * to) / from));
  for (let n = 0; n < output.length; n++) {
    const filter = filters[n % phases];
    const first = Math.floor((n * stride) / phases) - reach + 1;
    const begin = Math.max(0, -first);
    const end = Math.min(filter.length, samples.length - first);
    let sum = 0;
    for (let tap = begin; tap < end; tap++) sum += filter[tap] * samples[first + tap];
    output[n] = sum;
  }
  return output;
}

function greatestCommonDivisor(a, b) {
  return b ? greatestCommonDivisor(b, a % b) : a;
}

function sinc(x) {
  return x === 0 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x);
}

function kaiser(x) {
  return Math.abs(x) >= 1 ? 0 : bessel(KAISER_BETA * Math.sqrt(1 - x * x)) / bessel(KAISER_BETA);
}

/** The modified Bessel function of the first kind and order zero, by its series. */
function bessel(x) {
  let [sum, term] = [1, 1];
  for (let k = 1; term > 1e-12 * sum; k++) {
    term *= (x / (2 * k)) ** 2;
    sum += term;
  }
  return sum;
}

/** A recording that is being made from the microphone. */
export class MicrophoneRecording {
  /**
   * Ask for the microphone and begin to record.
   *
   * @param {(peak: number) => void} onLevel Takes the peak of the samples since the last call.
   * @returns {Promise<MicrophoneRecording>}
   * @throws {PageError} There is none, or it may not be used.
   */
  static async start(onLevel) {
    if (!navigator.mediaDevices?.getUserMedia) throw new PageError("insecurePage");
    let stream;
    try {
      // The networks were trained on unprocessed speech.
      stream = await navigator.mediaDevices.getUserMedia({
        audio: { echoCancellation: false, noiseSuppression: false, autoGainControl: false },
      });
    } catch (error) {
      const refused = ["NotAllowedError", "SecurityError"].includes(error.name);
      throw new PageError(refused ? "microphoneRefused" : "noMicrophone", { reason: error.message });
    }
    const context = new AudioContext();
    await context.audioWorklet.addModule(new URL("recorder.js", import.meta.url));
    return new MicrophoneRecording(stream, context, onLevel);
  }

  constructor(stream, context, onLevel) {
    [this.stream, this.context, this.chunks] = [stream, context, []];
    this.node = new AudioWorkletNode(context, "recorder", { numberOfOutputs: 0 });
    this.ended = new Promise((resolve) => {
      this.node.port.onmessage = ({ data: { samples, last } }) => {
        this.chunks.push(samples);
        onLevel(samples.reduce((peak, sample) => Math.max(peak, Math.abs(sample)), 0));
        if (last) resolve();
      };
    });
    context.createMediaStreamSource(stream).connect(this.node);
  }

  /** Seconds recorded so far. */
  get seconds() {
    return this.#length / this.context.sampleRate;
  }

  get #length() {
    return this.chunks.reduce((sum, chunk) => sum + chunk.length, 0);
  }

  /**
   * End the recording and let go of the microphone.
   *
   * @param {number} rate Hz that is wanted.
   * @returns {Promise<Float32Array>} Mono samples.
   * @throws {PageError} Nothing was recorded.
   */
  async stop(rate) {
    this.node.port.postMessage("end");
    await this.ended;
    this.stream.getTracks().forEach((track) => track.stop());
    const from = this.context.sampleRate;
    await this.context.close();
    const samples = new Float32Array(this.#length);
    let place = 0;
    for (const chunk of this.chunks) {
      samples.set(chunk, place);
      place += chunk.length;
    }
    if (!samples.length) throw new PageError("nothingRecorded");
    return resample(samples, from, rate);
  }
}
