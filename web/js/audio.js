// Recordings: files and the microphone.

import { PageError } from "./errors.js";
import { readSampleRate } from "./sample_rate.js";

/**
 * Decode an audio file with the browser's decoders, at its own sample rate where its header tells
 * it. Else the browser resamples, which each does in its own way.
 *
 * @param {ArrayBuffer} bytes Content of the file.
 * @param {number} wanted Hz of the samples where the rate of the file is unknown.
 * @returns {Promise<{samples: Float32Array, rate: number}>} Channels averaged; Hz.
 * @throws {PageError} The browser cannot decode it, or it holds no usable samples.
 */
export async function decodeFile(bytes, wanted) {
  if (!bytes.byteLength) throw new PageError("emptyFile");
  const rate = readSampleRate(bytes) ?? wanted;
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
  if (!Number.isFinite(peakOf(samples))) throw new PageError("notFinite");
  return { samples, rate };
}

/** Average the samples of several channels of equal length. */
function averageChannels(channels) {
  const average = channels[0].slice();
  for (const channel of channels.slice(1)) {
    for (let n = 0; n < average.length; n++) average[n] += channel[n];
  }
  for (let n = 0; n < average.length; n++) average[n] /= channels.length;
  return average;
}

/** The largest magnitude of samples; NaN where one is no number. */
export function peakOf(samples) {
  let peak = 0;
  for (let n = 0; n < samples.length; n++) peak = Math.max(peak, Math.abs(samples[n]));
  return peak;
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
      throw new PageError(refused ? "microphoneRefused" : "noMicrophone", {
        reason: error.message,
      });
    }
    const context = new AudioContext();
    try {
      await context.audioWorklet.addModule(new URL("recorder.js", import.meta.url));
      await context.resume(); // some browsers let it begin only after a click
    } catch (error) {
      stream.getTracks().forEach((track) => track.stop());
      throw error;
    }
    return new MicrophoneRecording(stream, context, onLevel);
  }

  constructor(stream, context, onLevel) {
    [this.stream, this.context, this.chunks] = [stream, context, []];
    this.node = new AudioWorkletNode(context, "recorder", { numberOfOutputs: 0 });
    this.ended = new Promise((resolve) => {
      this.node.port.onmessage = ({ data: { samples, last } }) => {
        this.chunks.push(samples);
        onLevel(peakOf(samples));
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
   * @returns {Promise<{samples: Float32Array, rate: number}>} Mono; Hz.
   * @throws {PageError} Nothing was recorded.
   */
  async stop() {
    this.node.port.postMessage("end");
    await this.ended;
    this.stream.getTracks().forEach((track) => track.stop());
    const rate = this.context.sampleRate;
    await this.context.close();
    const samples = new Float32Array(this.#length);
    let place = 0;
    for (const chunk of this.chunks) {
      samples.set(chunk, place);
      place += chunk.length;
    }
    if (!samples.length) throw new PageError("nothingRecorded");
    return { samples, rate };
  }
}
