#include <algorithm>
#include <array>

#include "containers.h"

namespace speech::internal {
namespace {

constexpr std::uint64_t kDecoderDelay = 529;  // samples that any decoder of layer III adds
constexpr std::size_t kId3v1 = 128;           // bytes
constexpr std::int64_t kJunk =
    65536;  // bytes, behind a tag, in which the first frame is looked for

// kbit/s by [MPEG-1 or later][layer - 1][index - 1]; index 0 is "free", which no decoder here
// knows.
constexpr int kKbps[2][3][14] = {
    {{32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448},
     {32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384},
     {32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320}},
    {{32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256},
     {8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160},
     {8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160}}};
// Hz by version: 2.5, none, 2, 1.
constexpr int kRates[4][3] = {
    {11025, 12000, 8000}, {0, 0, 0}, {22050, 24000, 16000}, {44100, 48000, 32000}};

unsigned byte_at(const std::string& bytes, std::size_t at) {
  return static_cast<std::uint8_t>(bytes[at]);
}

// What the second and third byte of a frame's header say; the first is 255.
struct Frame {
  std::size_t size;      // in bytes
  std::int64_t samples;  // per channel
  unsigned layer;        // 1 to 3
  unsigned kind;         // version, layer and sample rate, equal in all frames of a stream
  bool first_version;

  // Bytes of side information of layer III.
  std::size_t side(bool mono) const {
    if (first_version) return mono ? 17 : 32;
    return mono ? 9 : 17;
  }
};

std::optional<Frame> parse_header(unsigned second, unsigned third) {
  const unsigned version = second >> 3 & 3, layer = 4 - (second >> 1 & 3);
  const unsigned index = third >> 4, rate_index = third >> 2 & 3, padding = third >> 1 & 1;
  if (second < 0xE0 || version == 1 || layer == 4 || index == 0 || index == 15 || rate_index == 3)
    return std::nullopt;
  const bool first_version = version == 3;
  const int rate = kRates[version][rate_index];
  const int bits = kKbps[first_version ? 0 : 1][layer - 1][index - 1] * 1000;
  const int samples = layer == 1 ? 384 : layer == 3 && !first_version ? 576 : 1152;
  const int slots =
      (layer == 1 ? 12 * bits / rate : samples / 8 * bits / rate) + static_cast<int>(padding);
  return Frame{static_cast<std::size_t>(layer == 1 ? 4 * slots : slots), samples, layer,
               (second & 0x1E) << 8 | (third & 0x0C), first_version};
}

std::optional<Frame> frame_at(const std::string& bytes, std::size_t at) {
  if (at + 4 > bytes.size() || byte_at(bytes, at) != 0xFF) return std::nullopt;
  return parse_header(byte_at(bytes, at + 1), byte_at(bytes, at + 2));
}

bool is_mono(const std::string& bytes, std::size_t at) {
  return (byte_at(bytes, at + 3) & 0xC0) == 0xC0;
}

bool has(const std::string& bytes, std::size_t at, const std::string& text) {
  return at <= bytes.size() && bytes.compare(at, text.size(), text) == 0;
}

// The length of an ID3v2 tag that these bytes start; 0 if they start none.
std::int64_t id3v2_bytes(const std::string& head) {
  if (head.size() < 10 || !has(head, 0, "ID3") || byte_at(head, 3) == 0xFF) return 0;
  std::int64_t size = 0;
  for (std::size_t at = 6; at < 10; ++at) {
    if (byte_at(head, at) > 0x7F) return 0;
    size = size << 7 | byte_at(head, at);
  }
  return 10 + size + ((byte_at(head, 5) & 0x10) != 0 ? 10 : 0);
}

// Whether another such frame, a tag, or the end of the file follows.
bool is_followed(const Content& content, std::int64_t offset, const Frame& frame) {
  const std::string head = content.read(offset + static_cast<std::int64_t>(frame.size), 4);
  const auto following = frame_at(head, 0);
  return head.size() < 4 || has(head, 0, "TAG") || (following && following->kind == frame.kind);
}

// Where the tags begin that end a file: ID3v1, Lyrics3v2, APE.
std::size_t end_of_frames(const std::string& data) {
  std::size_t end = data.size();
  if (end >= kId3v1 && has(data, end - kId3v1, "TAG")) end -= kId3v1;
  if (end >= 15 && has(data, end - 9, "LYRICS200")) {
    const std::string digits = data.substr(end - 15, 6);
    if (digits.find_first_not_of("0123456789") == std::string::npos)
      end -= std::min<std::size_t>(end, 15U + std::stoul(digits));
  }
  if (end >= 32 && has(data, end - 32, "APETAGEX")) {
    const std::size_t header = (byte_at(data, end - 9) & 0x80) != 0 ? 32 : 0;
    end -= std::min<std::size_t>(end, little_endian(data, end - 20, 4) + header);
  }
  return end;
}

// Where a tag or zeros at `offset` end.
std::size_t behind_tag(const std::string& data, std::size_t offset, std::size_t end) {
  if (offset >= end) return offset;
  const std::int64_t tag = id3v2_bytes(data.substr(offset, 10));
  if (tag > 0) return offset + static_cast<std::size_t>(tag);
  if (has(data, offset, "TAG")) return offset + kId3v1;  // of the first of two joined files
  if (has(data, offset, "APETAGEX") && offset + 32 <= data.size() &&
      byte_at(data, offset + 23) >= 0xA0)
    return offset + 32 + little_endian(data, offset + 12, 4);
  if (data[offset] == '\0') return std::min(data.find_first_not_of('\0', offset), data.size());
  throw InputError("damaged: there is no MPEG frame at byte " + std::to_string(offset) +
                   "; fetch it again, convert it to FLAC or WAV, or leave it out");
}

struct Walk {
  std::vector<Range> ranges;  // of frames that adjoin
  std::int64_t frames = 0;
};

// Goes from frame to frame, over tags, to the end.
Walk walk(const std::string& data, std::size_t first, const Frame& frame) {
  const std::size_t end = std::max(end_of_frames(data), first);
  const bool mono = is_mono(data, first);
  Walk walk;
  for (std::size_t at = first; at < end; at = behind_tag(data, at, end)) {
    const std::size_t start = at;
    while (at < end && byte_at(data, at) == 0xFF) {
      if (at + 4 > end)
        throw truncated("its last MPEG frame has " + std::to_string(end - at) + " bytes");
      const auto found = frame_at(data, at);
      if (!found) break;
      if (found->kind != frame.kind || is_mono(data, at) != mono)
        throw InputError("damaged, or of another sample rate or number of channels from byte " +
                         std::to_string(at) + " on; convert it to FLAC or WAV, or leave it out");
      if (at + found->size > end)
        throw truncated("its last MPEG frame has " + std::to_string(end - at) + " of " +
                        std::to_string(found->size) + " bytes");
      at += found->size;
      ++walk.frames;
    }
    if (at > start) walk.ranges.emplace_back(start, at);
  }
  return walk;
}

// What a frame before the sound declares: Xing's and LAME's, or Fraunhofer's ("VBRI").
struct Info {
  std::int64_t frames = 0;           // behind it; 0: not declared
  std::int64_t bytes = -1;           // of all frames; -1: not declared
  std::optional<std::size_t> place;  // of the number of frames; none: where decoders look for none
};

std::optional<Info> info_of(const std::string& frame, unsigned layer, std::size_t side) {
  const auto number = [&](std::size_t at) {
    return static_cast<std::int64_t>(big_endian(frame, at, 4));
  };
  if (layer != 3) return std::nullopt;
  if (has(frame, 36, "VBRI")) return Info{number(50), number(46), std::nullopt};
  const std::size_t tag = 4 + side;
  if (!has(frame, tag, "Xing") && !has(frame, tag, "Info")) return std::nullopt;
  const std::int64_t flags = number(tag + 4);
  Info info;
  if ((flags & 1) != 0) {
    info.place = tag + 8;
    info.frames = number(tag + 8);
  }
  if ((flags & 2) != 0) info.bytes = number(tag + 8 + ((flags & 1) != 0 ? 4 : 0));
  return info;
}

Stream joined(std::string head, const std::vector<Range>& ranges) {
  Stream stream{{std::move(head)}, std::nullopt, true};
  stream.parts.insert(stream.parts.end(), ranges.begin(), ranges.end());
  return stream;
}

// Frames behind an Info frame that tells their number. Decoders leave out the delay that this frame
// declares and 529 samples more, which are their own delay. So a silent frame comes first, and just
// that is left out.
Stream counted(const Walk& found, const std::string& header, const Frame& frame) {
  const std::int64_t samples = found.frames * frame.samples;
  if (frame.layer != 3) {
    // No frame tells their number here, and an estimate of fewer would end the reading.
    Stream stream = joined({}, found.ranges);
    stream.estimated = true;
    stream.parts.emplace_back(std::string(4 * frame.size, '\0'));
    stream.samples = samples;
    return stream;
  }
  // The highest bit rate, so that there is room, and no checksum.
  const unsigned second = byte_at(header, 1) | 1, third = 0xE0 | (byte_at(header, 2) & 0x0C);
  const std::size_t size = parse_header(second, third)->size;
  std::string start{'\xff', static_cast<char>(second), static_cast<char>(third), header[3]};
  std::string info = start + std::string(frame.side(is_mono(header, 0)), '\0') + "Info";
  info +=
      big_endian_bytes(1, 4) + big_endian_bytes(static_cast<std::uint64_t>(found.frames + 1), 4);
  info += "LAME" + std::string(17, '\0');
  const auto delay = static_cast<std::uint64_t>(frame.samples) - kDecoderDelay;
  info += big_endian_bytes(delay << 12 | kDecoderDelay, 3);
  info.resize(size, '\0');
  start.resize(size, '\0');
  Stream stream = joined(info + start, found.ranges);
  stream.samples = samples;
  return stream;
}

}  // namespace

std::int64_t id3v2_end(const Content& content, std::int64_t offset) {
  return offset + id3v2_bytes(content.read(offset, 10));
}

std::optional<std::int64_t> first_mpeg_frame(const Content& content, bool tagged) {
  const std::string data = content.read(0, tagged ? kJunk : 4);
  for (std::size_t at = 0; at < data.size(); ++at) {
    const auto frame = frame_at(data, at);
    const auto offset = static_cast<std::int64_t>(at);
    if (frame && is_followed(content, offset, *frame)) return offset;
  }
  return std::nullopt;
}

std::vector<Stream> mpeg_streams(const Content& content, std::int64_t first) {
  const std::string data = content.read(0, content.size());
  const auto start = static_cast<std::size_t>(first);
  const auto frame = frame_at(data, start);
  if (!frame) throw InputError("damaged: it changed just now");
  Walk found = walk(data, start, *frame);
  std::string head = data.substr(start, frame->size);
  const auto info = info_of(head, frame->layer, frame->side(is_mono(head, 0)));
  if (!info) return {counted(found, head, *frame)};
  std::int64_t length = 0;
  for (const Range& range : found.ranges) length += range.second - range.first;
  --found.frames;
  found.ranges[0].first += static_cast<std::int64_t>(frame->size);
  if (info->frames > found.frames && (info->bytes < 0 || info->bytes > length))
    throw truncated(std::to_string(found.frames) + " MPEG frames where its header declares " +
                    std::to_string(info->frames));
  if (found.frames == 0) throw InputError("empty (0 samples); leave it out");
  if (!info->place || info->frames > found.frames) return {counted(found, head, *frame)};
  // It may declare samples to leave out at both ends.
  head.replace(*info->place, 4, big_endian_bytes(static_cast<std::uint64_t>(found.frames), 4));
  return {joined(head, found.ranges)};
}

}  // namespace speech::internal
