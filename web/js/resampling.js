// Resampling with the pass band and the stop band of soxr's high quality, which the Python
// interface uses: to 0.913 and from 1.0 of the lower Nyquist frequency. Browsers differ, and
// interpolate linearly where an AudioBuffer of another rate is played.

const PASS = 0.913; // share of the lower Nyquist frequency
const ATTENUATION = 120; // dB, beyond the lower Nyquist frequency
// Kaiser's window for them (Oppenheim and Schafer, Discrete-Time Signal Processing, section 7.5).
const BETA = 0.1102 * (ATTENUATION - 8.7);
const REACH = (ATTENUATION - 8) / (2.285 * Math.PI * (1 - PASS)) / 2; // samples of the lower rate
const CUTOFF = (PASS + 1) / 2;

/**
 * Resample by a windowed sinc filter.
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
  const lower = Math.min(1, to / from);
  const reach = Math.ceil(REACH / lower); // input samples on each side
  // One filter for each place that an output sample can have between two input samples.
  const filters = Array.from({ length: phases }, (_, phase) =>
    Float64Array.from({ length: 2 * reach }, (_, tap) => {
      const distance = tap - reach + 1 - ((phase * stride) % phases) / phases;
      return lower * CUTOFF * sinc(lower * CUTOFF * distance) * kaiser(distance / reach);
    }),
  );
  const padded = new Float32Array(samples.length + 2 * reach);
  padded.set(samples, reach - 1);
  const output = new Float32Array(Math.round((samples.length * to) / from));
  for (let n = 0; n < output.length; n++) {
    const filter = filters[n % phases];
    const first = Math.floor((n * stride) / phases);
    let sum = 0;
    for (let tap = 0; tap < filter.length; tap++) sum += filter[tap] * padded[first + tap];
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
  return Math.abs(x) >= 1 ? 0 : bessel(BETA * Math.sqrt(1 - x * x)) / bessel(BETA);
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
