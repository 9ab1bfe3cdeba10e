#include "containers.h"

#include <algorithm>
#include <map>
#include <regex>
#include <sstream>

namespace speech::internal {
namespace {

constexpr std::int64_t kId3v1 = 128;       // bytes
constexpr std::int64_t kShortestHead = 8;  // bytes, of a chunk

InputError no_sound() { return truncated("its header is incomplete, or there is no sound in it"); }

std::vector<Stream> whole(const Content& content, std::optional<std::int64_t> samples) {
  return {{{Range(0, content.size())}, samples}};
}

// ---- chunks

// How the chunks of a container are written.
struct Layout {
  bool big;                    // the highest byte of a number comes first
  std::size_t id_bytes = 4;    // length of a chunk's name
  std::size_t size_bytes = 4;  // length of its size
  std::int64_t align = 2;      // chunks start at multiples of so many bytes
  bool size_of_all = false;    // a chunk's size counts its name and size, too

  std::int64_t head_bytes() const { return static_cast<std::int64_t>(id_bytes + size_bytes); }
  std::uint64_t number(const std::string& bytes, std::size_t at, std::size_t count) const {
    return big ? big_endian(bytes, at, count) : little_endian(bytes, at, count);
  }
  std::string bytes_of(std::uint64_t value, std::size_t count) const {
    return big ? big_endian_bytes(value, count) : little_endian_bytes(value, count);
  }
};

struct Chunk {
  std::string name;    // its first 4 bytes
  std::int64_t start;  // of what is in it
  std::uint64_t size;

  // A size beyond all files counts as one.
  std::int64_t end() const {
    return start + static_cast<std::int64_t>(std::min(size, std::uint64_t{1} << 60));
  }
};

// The head of a chunk, if there is one.
std::optional<Chunk> chunk_at(const Content& content, const Layout& layout, std::int64_t offset) {
  const std::string head = content.read(offset, layout.head_bytes());
  if (static_cast<std::int64_t>(head.size()) < layout.head_bytes()) return std::nullopt;
  const auto is_letter = [](char letter) { return letter >= 0x20 && letter < 0x7F; };
  if (layout.id_bytes == 4 && !std::all_of(head.begin(), head.begin() + 4, is_letter))
    return std::nullopt;
  std::uint64_t size = layout.number(head, layout.id_bytes, layout.size_bytes);
  const auto own = static_cast<std::uint64_t>(layout.head_bytes());
  if (layout.size_of_all && size < own) return std::nullopt;
  if (layout.size_of_all) size -= own;
  return Chunk{head.substr(0, 4), offset + layout.head_bytes(), size};
}

std::int64_t aligned(std::int64_t offset, std::int64_t align) {
  return (offset + align - 1) / align * align;
}

// Where the next chunk starts; some programs forget the byte that makes a size even.
std::int64_t behind(const Content& content, const Layout& layout, const Chunk& chunk) {
  const std::int64_t next = aligned(chunk.end(), layout.align);
  if (next > chunk.end() && !chunk_at(content, layout, next))
    return chunk_at(content, layout, chunk.end()) ? chunk.end() : next;
  return next;
}

using Chunks = std::map<std::string, Chunk>;

// Chunks from `offset` on until all of `wanted` are found, or the file ends.
Chunks find_chunks(const Content& content, const Layout& layout, std::int64_t offset,
                   const std::vector<std::string>& wanted) {
  Chunks found;
  const auto is_found = [&](const std::string& name) { return found.count(name) > 0; };
  while (!std::all_of(wanted.begin(), wanted.end(), is_found)) {
    const auto chunk = chunk_at(content, layout, offset);
    if (!chunk) break;
    found.emplace(chunk->name, *chunk);
    offset = behind(content, layout, *chunk);
  }
  return found;
}

// A chunk that is no sound and not cut, at `offset` or at the next aligned byte.
std::optional<Chunk> other_chunk(const Content& content, const Layout& layout,
                                 std::int64_t offset) {
  static const std::vector<std::string> kSound{"data", "SSND", "BODY", "RIFF", "RIFX",
                                               "RF64", "FORM", "riff", "caff"};
  // Of descriptions: of one that is cut, no sound is lost.
  static const std::vector<std::string> kTexts{"LIST", "id3 ", "ID3 ", "bext", "iXML",
                                               "_PMX", "cue ", "smpl", "JUNK", "PAD "};
  const auto is_in = [](const std::vector<std::string>& names, const std::string& name) {
    return std::find(names.begin(), names.end(), name) != names.end();
  };
  for (const std::int64_t start : {aligned(offset, layout.align), offset}) {
    auto chunk = chunk_at(content, layout, start);
    if (!chunk) continue;
    const bool complete = chunk->end() <= content.size() && !is_in(kSound, chunk->name);
    if (complete || is_in(kTexts, chunk->name)) return chunk;
  }
  return std::nullopt;
}

// Whether the bytes from `offset` on are chunks, tags, zeros, or less than a chunk's head.
bool is_explained(const Content& content, std::int64_t offset, const Layout* layout) {
  while (content.size() - offset >= kShortestHead) {
    const std::int64_t tag = id3v2_end(content, offset);
    const auto chunk = layout != nullptr ? other_chunk(content, *layout, offset) : std::nullopt;
    if (tag > offset)
      offset = tag;
    else if (chunk)
      offset = behind(content, *layout, *chunk);
    else
      break;
  }
  const std::int64_t rest = content.size() - offset;
  if (rest < kShortestHead || content.is_zero(offset)) return true;
  return rest == kId3v1 && content.read(offset, 3) == "TAG";
}

// Bytes of sound, after comparing those that are declared with those that are there. A recorder
// that was stopped has declared 0. `unknown`: the number is one that programs write into a pipe.
std::int64_t sound_bytes(const Content& content, std::int64_t start, std::uint64_t declared,
                         const Layout* layout, bool unknown = false) {
  const std::int64_t present = content.size() - start;
  if (present < 0 || declared > static_cast<std::uint64_t>(present)) {
    if (unknown) return present;
    throw truncated(std::to_string(present) + " bytes where its header declares " +
                    std::to_string(declared));
  }
  const auto size = static_cast<std::int64_t>(declared);
  if (is_explained(content, start + size, layout)) return size;
  if (size == 0) return present;
  throw InputError(std::to_string(present - size) + " bytes follow the " + std::to_string(size) +
                   " bytes of sound that its header declares; if they are sound, too, write its "
                   "header anew (sox --ignore-length IN OUT), else cut them off");
}

// Whether ffmpeg, sox or arecord write this size, of `width` bytes, into a pipe.
bool is_placeholder(std::uint64_t size, std::size_t width) {
  if (width == 8) return size >= std::uint64_t{1} << 62;
  return size >= 0xFFFF0000 || (size >= 0x7FFF0000 && size <= 0x80000000);
}

// The bytes of a sample of all channels; 0: they are compressed.
using FrameBytes = std::int64_t;

std::optional<std::int64_t> samples_in(std::int64_t size, FrameBytes frame_bytes) {
  return frame_bytes > 0 ? std::optional(size / frame_bytes) : std::nullopt;
}

// A place in a file, and what belongs there.
struct Correction {
  std::int64_t offset;
  std::string bytes;
};

// The file; where its header declares 0 bytes, with their number.
std::vector<Stream> declaring(const Content& content, std::int64_t size, std::uint64_t declared,
                              FrameBytes frame_bytes, const Correction& correction) {
  const auto samples = samples_in(size, frame_bytes);
  if (declared > 0 || size == 0) return whole(content, samples);
  const auto end = correction.offset + static_cast<std::int64_t>(correction.bytes.size());
  return {{{Range(0, correction.offset), correction.bytes, Range(end, content.size())}, samples}};
}

// ---- WAV, RF64, W64

struct WavFormat {
  std::int64_t code;
  FrameBytes frame_bytes;
};

WavFormat wav_format(const std::string& fmt, const Layout& layout) {
  constexpr std::int64_t kPcm = 1, kFloat = 3, kALaw = 6, kMuLaw = 7, kExtensible = 0xFFFE;
  const auto number = [&](std::size_t at) {
    return static_cast<std::int64_t>(layout.number(fmt, at, 2));
  };
  const std::int64_t channels = number(2), block = number(12), bits = number(14);
  const std::int64_t code = number(0) == kExtensible ? number(24) : number(0);
  if ((code != kPcm && code != kFloat && code != kALaw && code != kMuLaw) || channels == 0 ||
      bits == 0)
    return {code, 0};
  const std::int64_t needed = channels * ((bits + 7) / 8);
  if (block > needed) {
    std::ostringstream each;
    each << static_cast<double>(block) / static_cast<double>(channels);
    throw InputError("samples of " + std::to_string(bits) + " bits in " + each.str() +
                     " bytes, which programs read in two ways; convert it to samples of 16 bits");
  }
  return {code, block == needed ? needed : 0};
}

std::vector<Stream> mpeg_in_wav(Content& content, std::int64_t start, std::int64_t size) {
  content.keep(start, size);
  if (const auto first = first_mpeg_frame(content, true)) return mpeg_streams(content, *first);
  throw InputError("damaged: there is no MPEG frame in it; fetch it again or leave it out");
}

// A container that has Microsoft's chunks from `offset` on.
std::vector<Stream> waves(Content& content, const Layout& layout, std::int64_t offset,
                          bool is_rf64) {
  const Chunks found = find_chunks(content, layout, offset, {"data"});
  const auto sound = found.find("data"), fmt = found.find("fmt "), ds64 = found.find("ds64");
  if (sound == found.end() || fmt == found.end()) throw no_sound();
  const std::int64_t start = sound->second.start;
  std::uint64_t declared = sound->second.size;
  std::size_t width = layout.size_bytes;
  std::int64_t place = start - static_cast<std::int64_t>(width);
  if (is_rf64 && declared == 0xFFFFFFFF && ds64 != found.end()) {
    place = ds64->second.start + 8;
    width = 8;
    declared = little_endian(content.read(place, 8), 0, 8);
  }
  const bool unknown = is_placeholder(declared, width);
  const std::int64_t size = sound_bytes(content, start, declared, &layout, unknown);
  const std::string format = content.read(
      fmt->second.start, static_cast<std::int64_t>(std::min<std::uint64_t>(fmt->second.size, 40)));
  constexpr std::int64_t kMpeg = 0x50, kMp3 = 0x55;
  const auto [code, frame_bytes] = wav_format(format, layout);
  if (code == kMpeg || code == kMp3) return mpeg_in_wav(content, start, size);
  // Decoders go to the end that such a size tells, beyond what they can count.
  if (unknown && width == 8) declared = 0;
  auto told = static_cast<std::uint64_t>(size + (layout.size_of_all ? layout.head_bytes() : 0));
  if (width == 4) told = std::min<std::uint64_t>(told, 0xFFFFFFFF);
  return declaring(content, size, declared, frame_bytes, {place, layout.bytes_of(told, width)});
}

std::vector<Stream> wav(Content& content) {
  const std::string magic = content.read(0, 4);
  return waves(content, {magic == "RIFX"}, 12, magic == "RF64");
}

std::vector<Stream> w64(Content& content) {
  return waves(content, {false, 16, 8, 8, true}, 40, false);
}

// ---- AIFF, SVX, CAF

constexpr Layout kIff{true};
constexpr Layout kCaf{true, 4, 8, 1};

std::int64_t big(const Content& content, std::int64_t offset, std::size_t count) {
  return static_cast<std::int64_t>(
      big_endian(content.read(offset, static_cast<std::int64_t>(count)), 0, count));
}

FrameBytes aiff_frame_bytes(const Content& content, const Chunk& common) {
  static const std::map<std::string, std::int64_t> kBytes{{"fl32", 4}, {"FL32", 4}, {"fl64", 8},
                                                          {"FL64", 8}, {"ulaw", 1}, {"ULAW", 1},
                                                          {"alaw", 1}, {"ALAW", 1}};
  const std::int64_t channels = big(content, common.start, 2);
  const std::int64_t bits = big(content, common.start + 6, 2);
  const std::string code = common.size >= 22 ? content.read(common.start + 18, 4) : "NONE";
  if (code == "DWVW")
    throw InputError("AIFF files compressed with DWVW are not read; convert it to FLAC or WAV");
  if (const auto known = kBytes.find(code); known != kBytes.end()) return channels * known->second;
  if (code != "NONE" && code != "twos" && code != "sowt" && code != "raw ") return 0;
  return channels * ((bits + 7) / 8);
}

std::vector<Stream> aiff(const Content& content) {
  const Chunks found = find_chunks(content, kIff, 12, {"COMM", "SSND"});
  const auto sound = found.find("SSND"), common = found.find("COMM");
  if (sound == found.end() || common == found.end()) throw no_sound();
  const std::int64_t start = sound->second.start;
  std::int64_t size = content.size() - start;  // ffmpeg writes no size into a pipe
  if (sound->second.size > 0) size = sound_bytes(content, start, sound->second.size, &kIff);
  if (size < 8) throw no_sound();
  size -= 8 + big(content, start, 4);
  const std::int64_t samples = big(content, common->second.start + 2, 4);
  const FrameBytes frame_bytes = aiff_frame_bytes(content, common->second);
  if (frame_bytes > 0 && samples * frame_bytes > size)
    throw truncated(std::to_string(size / frame_bytes) + " samples where its header declares " +
                    std::to_string(samples));
  return whole(content, samples_in(size, frame_bytes));
}

std::vector<Stream> svx(const Content& content) {
  const Chunks found = find_chunks(content, kIff, 12, {"BODY"});
  const auto sound = found.find("BODY");
  if (sound == found.end()) throw no_sound();
  sound_bytes(content, sound->second.start, sound->second.size, &kIff);
  return whole(content, std::nullopt);
}

std::vector<Stream> caf(const Content& content) {
  const Chunks found = find_chunks(content, kCaf, 8, {"desc", "data"});
  const auto sound = found.find("data"), desc = found.find("desc");
  if (sound == found.end() || desc == found.end()) throw no_sound();
  const bool unknown = sound->second.size == ~std::uint64_t{0};
  const std::int64_t size =
      sound_bytes(content, sound->second.start, sound->second.size, &kCaf, unknown) - 4;
  const std::string code = content.read(desc->second.start + 8, 4);
  const bool linear = code == "lpcm" || code == "ulaw" || code == "alaw";
  const std::int64_t packet_bytes = big(content, desc->second.start + 16, 4);
  return whole(content, linear ? samples_in(size, packet_bytes) : std::nullopt);
}

// ---- AU, SPHERE, VOC

std::vector<Stream> au(const Content& content) {
  static const std::map<std::uint64_t, std::int64_t> kBytes{{1, 1}, {2, 1}, {3, 2}, {4, 3},
                                                            {5, 4}, {6, 4}, {7, 8}, {27, 1}};
  const std::string header = content.read(0, 24);
  const Layout layout{header[0] == '.'};
  const auto start = static_cast<std::int64_t>(layout.number(header, 4, 4));
  const std::uint64_t declared = layout.number(header, 8, 4);
  if (start > content.size() || start < 24) throw no_sound();
  const std::int64_t size = sound_bytes(content, start, declared, nullptr, declared == 0xFFFFFFFF);
  const auto known = kBytes.find(layout.number(header, 12, 4));
  const auto channels = static_cast<std::int64_t>(layout.number(header, 20, 4));
  const FrameBytes frame_bytes = known != kBytes.end() ? known->second * channels : 0;
  const auto told = std::min<std::uint64_t>(static_cast<std::uint64_t>(size), 0xFFFFFFFE);
  return declaring(content, size, declared, frame_bytes, {8, layout.bytes_of(told, 4)});
}

// NIST SPHERE: a header of text, of the length that its second line tells.
std::vector<Stream> sphere(const Content& content) {
  const std::string header = content.read(0, 1024);
  const auto number = [&](const std::string& name) -> std::int64_t {
    std::smatch match;
    const std::regex field("\n" + name + R"( -i (\d{1,15})\s)");
    return std::regex_search(header, match, field) ? std::stoll(match[1]) : 0;
  };
  static const std::regex kLength(R"(^NIST_1A\s+(\d{1,6})\s)");
  std::smatch length;
  const std::int64_t start = std::regex_search(header, length, kLength) ? std::stoll(length[1]) : 0;
  const std::int64_t samples = number("sample_count");
  if (start == 0 || samples == 0 || header.find("end_head") == std::string::npos)
    throw truncated("its header is incomplete, or declares no number of samples");
  if (header.find("embedded") != std::string::npos || header.find("shorten") != std::string::npos)
    return whole(content, std::nullopt);
  const std::int64_t frame_bytes = std::max<std::int64_t>(1, number("channel_count")) *
                                   std::max<std::int64_t>(1, number("sample_n_bytes"));
  const std::int64_t there = std::max<std::int64_t>(0, content.size() - start) / frame_bytes;
  if (samples > there)
    throw truncated(std::to_string(there) + " samples where its header declares " +
                    std::to_string(samples));
  const std::int64_t size = samples * frame_bytes;
  sound_bytes(content, start, static_cast<std::uint64_t>(size), nullptr);
  return {{{Range(0, start + size)}, samples}};
}

// Creative Voice: blocks of a type, a size of 3 bytes, and content.
std::vector<Stream> voc(const Content& content) {
  constexpr std::uint64_t kEnd = 0, kSound = 1, kText = 5, kExtended = 8, kNewSound = 9;
  const auto number = [](const std::string& bytes, std::size_t at, std::size_t count) {
    return static_cast<std::int64_t>(little_endian(bytes, at, count));
  };
  std::int64_t offset = number(content.read(20, 2), 0, 2), end = offset;
  std::string sound;
  for (;;) {
    const std::string head = content.read(offset, 12);
    const std::uint64_t kind = little_endian(head, 0, 1);
    if (head.size() < 2 || kind == kEnd) break;
    const std::int64_t size = number(head, 1, 3), present = content.size() - offset - 4;
    if ((kind != kSound && kind != kText && kind != kExtended && kind != kNewSound) ||
        !sound.empty())
      throw InputError("a VOC file of more than one block of sound; convert it to FLAC or WAV");
    if (size > present)
      throw truncated(std::to_string(present) + " bytes where its header declares " +
                      std::to_string(size));
    offset += 4 + size;
    if (kind != kSound && kind != kNewSound) continue;
    sound = head;
    end = offset;
  }
  if (sound.empty()) throw no_sound();
  // libsndfile wants a last block of one byte behind the old kind, and takes it for sound behind
  // the new kind.
  if (little_endian(sound, 0, 1) == kSound)
    return {{{Range(0, end), std::string(1, '\0')}, std::nullopt}};
  const std::int64_t frame_bytes = number(sound, 8, 1) / 8 * number(sound, 9, 1);
  return {{{Range(0, end)}, (number(sound, 1, 3) - 12) / std::max<std::int64_t>(1, frame_bytes)}};
}

// ---- all of them

bool starts(const std::string& head, const std::string& text, std::size_t at = 0) {
  return head.size() >= at && head.compare(at, text.size(), text) == 0;
}

// Containers that libsndfile reads, but whose headers do not tell a cut file from a whole one, or
// that hardly anybody uses for speech; empty for others.
std::string name_of_unread(const std::string& head) {
  using namespace std::string_literals;
  static const std::vector<std::pair<std::string, std::string>> kNames{
      {"\x64\xa3"s, "IRCAM"},
      {"\x00\x00\xa3\x64"s, "IRCAM"},
      {" paf", "PAF"},
      {"fap ", "PAF"},
      {"PVF1", "PVF"},
      {"MATLAB 5", "MAT"},
      {"\x00\x00\x03\xe8\x00\x00\x00\x01"s, "MAT"},
      {"\x00\x00\x00\x00\x01\x00\x00\x00\x01"s, "MAT"},
      {"Extended Ins", "XI"},
      {"2BIT", "AVR"},
      {"ALawSoundFile", "WVE"},
      {"DiamondWare ", "DWD"},
      {"LM89", "TXW"},
      {"\xf0\x7e"s, "SDS"},
      {"\x01\x04"s, "MPC 2000"},
      {"CAT ", "REX2"}};
  for (const auto& [prefix, name] : kNames)
    if (starts(head, prefix)) return name;
  return {};
}

}  // namespace

std::vector<Stream> streams_of(Content& content) {
  bool tagged = false;
  for (std::int64_t tag; (tag = id3v2_end(content, 0)) > 0; tagged = true) content.skip(tag);
  const std::string head = content.read(0, 64);
  if ((starts(head, "RIFF") || starts(head, "RIFX") || starts(head, "RF64")) &&
      starts(head, "WAVE", 8))
    return wav(content);
  if (starts(head, "fLaC")) return flac_streams(content);
  if (starts(head, "OggS")) return ogg_streams(content);
  const std::string form = starts(head, "FORM") && head.size() >= 12 ? head.substr(8, 4) : "";
  if (form == "AIFF" || form == "AIFC") return aiff(content);
  if (form == "8SVX" || form == "16SV") return svx(content);
  if (starts(head, "NIST_1A")) return sphere(content);
  if (starts(head, ".snd") || starts(head, "dns.")) return au(content);
  if (starts(head, "caff")) return caf(content);
  if (starts(head, "riff\x2e\x91\xcf\x11")) return w64(content);
  if (starts(head, "Creative Voice File\x1a")) return voc(content);
  if (const auto first = first_mpeg_frame(content, tagged)) return mpeg_streams(content, *first);
  if (const std::string name = name_of_unread(head); !name.empty())
    throw InputError(name + " files are not read; convert it to FLAC or WAV");
  throw InputError(
      "damaged, truncated or not audio that libsndfile reads (unknown format); fetch it again, "
      "convert it to FLAC or WAV, or leave it out");
}

}  // namespace speech::internal
