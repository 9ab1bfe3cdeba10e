// Cuts long recordings at quiet places, so that the network's memory does not grow with them.

export const LONGEST = 30; // seconds of a piece
const LAST = 5; // seconds that the last piece has at least
const STEP = 0.02; // seconds, over which loudness is measured
const QUIET = 15; // steps, over which a place must be quiet: 0.3 s

/**
 * Cut a recording into pieces of at most `LONGEST` seconds, in the middle of the quietest 0.3 s of
 * the second half of what a piece may take.
 *
 * @param {Float32Array} samples Mono.
 * @param {number} rate Hz.
 * @returns {[number, number][]} First sample of each piece and the one after its last.
 */
export function cutIntoPieces(samples, rate) {
  const pieces = [];
  let start = 0;
  while (samples.length - start > LONGEST * rate) {
    const earliest = start + (LONGEST / 2) * rate;
    const latest = Math.min(start + LONGEST * rate, samples.length - LAST * rate);
    const end = quietestPlace(samples, earliest, latest, Math.max(1, Math.round(STEP * rate)));
    pieces.push([start, end]);
    start = end;
  }
  pieces.push([start, samples.length]);
  return pieces;
}

function quietestPlace(samples, earliest, latest, step) {
  const first = Math.ceil(earliest);
  const energies = new Float64Array(Math.floor((latest - first) / step));
  for (let i = 0; i < energies.length; i++) {
    const from = first + i * step;
    for (let n = from; n < from + step; n++) energies[i] += samples[n] * samples[n];
  }
  let quietest = 0;
  let least = Infinity;
  for (let i = 0; i + QUIET <= energies.length; i++) {
    let energy = 0; // summed anew: a running sum would leave the rest of what was loud
    for (let k = i; k < i + QUIET; k++) energy += energies[k];
    if (energy <= least) [quietest, least] = [i, energy];
  }
  return first + Math.round((quietest + QUIET / 2) * step);
}
