// The audio worklet of the microphone: hands samples, channels averaged, to the page.

const CHUNK = 4096; // samples handed over at a time

class Recorder extends AudioWorkletProcessor {
  constructor() {
    super();
    this.#begin();
    this.port.onmessage = () => this.#hand(true); // the recording ends
  }

  process([channels]) {
    const samples = channels[0]?.length ?? 0;
    for (let n = 0; n < samples; n++) {
      let sum = 0;
      for (const channel of channels) sum += channel[n];
      this.chunk[this.filled++] = sum / channels.length;
      if (this.filled === CHUNK) this.#hand(false);
    }
    return true;
  }

  #begin() {
    this.chunk = new Float32Array(CHUNK);
    this.filled = 0;
  }

  #hand(last) {
    this.port.postMessage({ samples: this.chunk.subarray(0, this.filled), last });
    this.#begin();
  }
}

registerProcessor("recorder", Recorder);
