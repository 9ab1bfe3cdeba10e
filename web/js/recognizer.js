// The worker that runs the network, as promises.

import { PageError } from "./errors.js";

/**
 * Start the worker under the page's Content-Security-Policy. A worker that is loaded from a server
 * has the policy of its own response, of which a plain server sends none; one of a blob has its
 * page's, so that it cannot connect to other machines either.
 */
function startWorker() {
  const code = `import ${JSON.stringify(new URL("worker.js", import.meta.url).href)};`;
  const url = URL.createObjectURL(new Blob([code], { type: "text/javascript" }));
  return new Worker(url, { type: "module" });
}

/** A network that turns samples into text, in a worker. */
export class Recognizer {
  constructor() {
    this.pending = new Map(); // number of a request -> how it ends
    this.requests = 0;
    this.worker = startWorker();
    this.worker.onmessage = ({ data }) => this.#receive(data);
    this.worker.onerror = () => {
      for (const { reject } of this.pending.values()) reject(new PageError("runtimeMissing"));
      this.pending.clear();
      this.broken = true;
    };
  }

  /**
   * Load a model.
   *
   * @param {ArrayBuffer} bytes The file; the worker takes it over.
   * @returns {Promise<{model: object, seconds: number, threads: number}>}
   * @throws {PageError}
   */
  load(bytes) {
    return this.#request({ type: "load", bytes }, [bytes]);
  }

  /**
   * Resample a recording.
   *
   * @param {Float32Array} samples Mono; the worker takes them over.
   * @param {number} from Their rate, in Hz.
   * @param {number} to Hz that is wanted.
   * @returns {Promise<Float32Array>}
   */
  async resample(samples, from, to) {
    if (from === to) return samples;
    return (await this.#request({ type: "resample", samples, from, to }, [samples.buffer])).samples;
  }

  /**
   * Recognise a recording.
   *
   * @param {Float32Array} samples Mono, at the model's rate.
   * @param {(done: number, piece: object) => void} onProgress Takes the share that is done and the
   *   piece that was recognised last.
   * @returns {Promise<{text: string, pieces: object[], seconds: number}>}
   * @throws {PageError}
   */
  recognise(samples, onProgress) {
    return this.#request({ type: "recognise", samples }, [], onProgress);
  }

  /** Cancel all that is being recognised, at the end of the piece at hand. */
  cancel() {
    for (const id of this.pending.keys()) this.worker.postMessage({ type: "cancel", id });
  }

  #request(message, transfer, onProgress) {
    if (this.broken) return Promise.reject(new PageError("runtimeMissing"));
    const id = ++this.requests;
    return new Promise((resolve, reject) => {
      this.pending.set(id, { resolve, reject, onProgress });
      this.worker.postMessage({ ...message, id }, transfer);
    });
  }

  #receive({ type, id, ...content }) {
    const request = this.pending.get(id);
    if (type === "progress") {
      request.onProgress(content.done, content.piece);
      return;
    }
    this.pending.delete(id);
    if (type === "failed") request.reject(new PageError(content.key, content.values));
    else request.resolve(content);
  }
}
