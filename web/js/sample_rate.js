// The sample rate in the header of an audio file. The browser's decodeAudioData does not tell it.

const OPUS_RATES = [8000, 12000, 16000, 24000]; // Hz that Opus codes besides 48000
const MP3_RATES = { 3: [44100, 48000, 32000], 2: [22050, 24000, 16000], 0: [11025, 12000, 8000] };
const LOWEST = 8000; // Hz that every browser decodes at ...
const HIGHEST = 96000; // ... to here (Web Audio API, section 1.3)
const COMMON = 50; // that usual rates are multiples of

/**
 * Read the sample rate of a WAV, FLAC, Ogg Opus, Ogg Vorbis or MP3 file.
 *
 * @param {ArrayBuffer} bytes Content of the file.
 * @returns {number | null} Hz; null where it is another kind of file, or an unusual rate.
 */
export function readSampleRate(bytes) {
  const view = new DataView(bytes);
  try {
    const rate = rateOfWav(view) ?? rateOfFlac(view) ?? rateOfOgg(view) ?? rateOfMp3(view);
    return rate >= LOWEST && rate <= HIGHEST && rate % COMMON === 0 ? rate : null;
  } catch (error) {
    if (error instanceof RangeError) return null; // the file ends within its header
    throw error;
  }
}

function text(view, place, length) {
  return String.fromCharCode(...new Uint8Array(view.buffer, place, length));
}

function rateOfWav(view) {
  if (text(view, 0, 4) !== "RIFF" || text(view, 8, 4) !== "WAVE") return null;
  let place = 12;
  while (text(view, place, 4) !== "fmt ") place += 8 + view.getUint32(place + 4, true);
  return view.getUint32(place + 12, true);
}

/** RFC 9639, section 8.2. */
function rateOfFlac(view) {
  return text(view, 0, 4) === "fLaC" ? view.getUint32(18) >>> 12 : null;
}

/** RFC 3533, section 6; RFC 7845, section 5.1; Vorbis I specification, section 4.2.2. */
function rateOfOgg(view) {
  if (text(view, 0, 4) !== "OggS") return null;
  const packet = 27 + view.getUint8(26);
  if (text(view, packet, 8) === "OpusHead") {
    const rate = view.getUint32(packet + 12, true);
    return OPUS_RATES.includes(rate) ? rate : 48000;
  }
  return text(view, packet, 7) === "\x01vorbis" ? view.getUint32(packet + 12, true) : null;
}

/** ISO/IEC 11172-3, section 2.4.2.3; an ID3 tag may stand before the first frame. */
function rateOfMp3(view) {
  let place = 0;
  if (text(view, 0, 3) === "ID3") {
    place = 10;
    for (let i = 6; i < 10; i++) place += view.getUint8(i) << (7 * (9 - i));
  }
  const header = view.getUint32(place);
  const [sync, version, layer] = [header >>> 21, (header >>> 19) & 3, (header >>> 17) & 3];
  return sync === 0x7ff && layer === 1 ? MP3_RATES[version]?.[(header >>> 10) & 3] : null;
}
