/** Plays parts of a recording. */
export class Player {
  /** @param {(seconds: number | null) => void} onTime Takes where it plays; null: it stopped. */
  constructor(onTime) {
    this.onTime = onTime;
    this.source = null;
  }

  get playing() {
    return this.source !== null;
  }

  /** Play from `start` to `end`, in seconds; what plays already stops. */
  async play(samples, rate, start, end) {
    this.stop();
    this.context ??= new AudioContext();
    await this.context.resume();
    const buffer = this.context.createBuffer(1, samples.length, rate);
    buffer.copyToChannel(samples, 0);
    const source = this.context.createBufferSource();
    source.buffer = buffer;
    source.connect(this.context.destination);
    source.onended = () => {
      if (this.source === source) this.stop();
    };
    this.source = source;
    const began = this.context.currentTime;
    source.start(0, start, end - start);
    const follow = () => {
      if (this.source !== source) return;
      this.onTime(Math.min(end, start + this.context.currentTime - began));
      requestAnimationFrame(follow);
    };
    follow();
  }

  stop() {
    const source = this.source;
    this.source = null;
    source?.stop();
    this.onTime(null);
  }
}
