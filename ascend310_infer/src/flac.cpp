#include <algorithm>
#include <array>

#include "containers.h"

namespace speech::internal {
namespace {

constexpr std::int64_t kId3v1 = 128;         // bytes
constexpr std::int64_t kLongestHeader = 16;  // bytes, of a frame

struct StreamInfo {
  explicit StreamInfo(const std::string& block)
      : max_block(integer(block, 2, 2)),
        channels((integer(block, 10, 8) >> 41 & 7) + 1),
        bits((integer(block, 10, 8) >> 36 & 31) + 1),
        samples(integer(block, 10, 8) & ((std::int64_t{1} << 36) - 1)) {}

  static std::int64_t integer(const std::string& block, std::size_t at, std::size_t count) {
    return static_cast<std::int64_t>(big_endian(block, at, count));
  }

  std::int64_t max_block;  // samples
  std::int64_t channels, bits;
  std::int64_t samples;  // 0: unknown
};

struct Frame {
  std::int64_t block;   // samples
  std::int64_t number;  // of the frame, or of its first sample
  bool is_numbered;     // the number is that of the frame
};

template <typename Crc, Crc polynomial>
Crc crc_of(const std::string& bytes) {
  constexpr int kShift = 8 * static_cast<int>(sizeof(Crc)) - 8;
  static const auto kTable = [] {
    std::array<Crc, 256> table{};
    for (unsigned byte = 0; byte < table.size(); ++byte) {
      auto crc = static_cast<Crc>(byte << kShift);
      for (int bit = 0; bit < 8; ++bit)
        crc = static_cast<Crc>(crc << 1 ^ ((crc >> (kShift + 7) & 1) != 0 ? polynomial : 0));
      table[byte] = crc;
    }
    return table;
  }();
  Crc crc = 0;
  for (const char byte : bytes)
    crc = static_cast<Crc>(crc << 8 ^
                           kTable[(crc >> kShift ^ static_cast<std::uint8_t>(byte)) & 0xFF]);
  return crc;
}

// A number coded as UTF-8 codes characters, at byte 4, and where it ends.
std::optional<std::pair<std::int64_t, std::size_t>> coded_number(const std::string& header) {
  const auto byte = [&](std::size_t at) -> unsigned {
    return static_cast<std::uint8_t>(header[at]);
  };
  const unsigned lead = byte(4);
  if (lead < 0x80) return {{lead, 5}};
  std::size_t count = 0;
  while (count < 8 && (lead << count & 0x80) != 0) ++count;
  if (count == 1 || count == 8 || header.size() < 4 + count) return std::nullopt;
  std::int64_t number = lead & 0x7FU >> count;
  for (std::size_t at = 5; at < 4 + count; ++at) {
    if ((byte(at) & 0xC0) != 0x80) return std::nullopt;
    number = number << 6 | (byte(at) & 0x3F);
  }
  return {{number, 4 + count}};
}

// Samples of a block, and where the next field of its header starts.
std::pair<std::int64_t, std::size_t> block_size(unsigned code, const std::string& header,
                                                std::size_t at) {
  if (code == 1) return {192, at};
  if (code <= 5) return {std::int64_t{144} << code, at};
  if (code <= 7) {
    const std::size_t count = code - 5;
    return {static_cast<std::int64_t>(big_endian(header, at, count)) + 1, at + count};
  }
  return {std::int64_t{1} << code, at};
}

// The header of a frame (RFC 9639, section 9.1), if these bytes are one.
std::optional<Frame> frame_of(const std::string& header, const StreamInfo& info) {
  if (header.size() < 6) return std::nullopt;
  const auto byte = [&](std::size_t at) -> unsigned {
    return static_cast<std::uint8_t>(header[at]);
  };
  static constexpr std::array<std::int64_t, 8> kBits{0, 8, 12, -1, 16, 20, 24, 32};
  const unsigned block_code = byte(2) >> 4, rate_code = byte(2) & 15, channel_code = byte(3) >> 4;
  const std::int64_t channels = channel_code < 8 ? channel_code + 1 : 2;
  const std::int64_t bits = kBits[byte(3) >> 1 & 7];
  if ((byte(3) & 1) != 0 || channel_code > 10 || channels != info.channels ||
      (bits != 0 && bits != info.bits) || block_code == 0 || rate_code == 15)
    return std::nullopt;
  const auto number = coded_number(header);
  if (!number) return std::nullopt;
  auto [block, at] = block_size(block_code, header, number->second);
  if (rate_code == 12) at += 1;
  if (rate_code == 13 || rate_code == 14) at += 2;
  if (block > std::max<std::int64_t>(info.max_block, 1) || at >= header.size()) return std::nullopt;
  if (crc_of<std::uint8_t, 0x07>(header.substr(0, at)) != byte(at)) return std::nullopt;
  return Frame{block, number->first, (byte(1) & 1) == 0};
}

// Where the first frame starts, behind blocks of a kind, 3 bytes of length, and more.
std::int64_t behind_metadata(const Content& content) {
  std::int64_t offset = 4;
  for (bool is_last = false; !is_last && offset < content.size();) {
    const std::string head = content.read(offset, 4);
    is_last = (head[0] & 0x80) != 0;
    offset += 4 + static_cast<std::int64_t>(big_endian(head, 1, 3));
  }
  return offset;
}

// The samples of all frames, which have headers with a number and a checksum, and the offset of the
// last frame. Decoders fill in for frames that are missing.
std::pair<std::int64_t, std::int64_t> count(const Content& content, const StreamInfo& info) {
  const std::int64_t start = behind_metadata(content);
  const std::string data = content.read(start, content.size() - start);
  std::int64_t block = 0, samples = 0, end = 0;
  std::size_t last = 0;
  for (std::size_t at = 0; (at = data.find('\xff', at)) != std::string::npos; ++at) {
    if (at + 1 >= data.size() || (data[at + 1] & 0xFE) != 0xF8) continue;
    const auto frame = frame_of(data.substr(at, kLongestHeader), info);
    if (!frame) continue;
    if (block == 0) block = frame->block;  // of all but the last frame
    const std::int64_t first = frame->is_numbered ? frame->number * block : frame->number;
    end = first + frame->block;
    if (first != samples) continue;
    samples = end;
    last = at;
  }
  if (end > samples)
    throw InputError("damaged: FLAC frames are missing from sample " + std::to_string(samples) +
                     " on; fetch it again or leave it out");
  if (samples == 0) throw truncated("its FLAC frames are missing");
  return {samples, start + static_cast<std::int64_t>(last)};
}

// Whether the checksum at the end of the last frame is right; a tag may follow.
bool is_whole(const Content& content, std::int64_t last) {
  std::string bytes = content.read(last, content.size() - last);
  if (bytes.size() > 2 && crc_of<std::uint16_t, 0x8005>(bytes) == 0) return true;
  if (bytes.size() < kId3v1 + 3 || bytes.compare(bytes.size() - kId3v1, 3, "TAG") != 0)
    return false;
  bytes.resize(bytes.size() - kId3v1);
  return crc_of<std::uint16_t, 0x8005>(bytes) == 0;
}

// Whether there is the marker, and a STREAMINFO, which may be the last block of metadata.
bool starts_file(const Content& content, std::int64_t offset) {
  const std::string head = content.read(offset, 8);
  return head.size() == 8 && head.compare(0, 4, "fLaC") == 0 && (head[4] & 0x7F) == 0 &&
         head.compare(5, 3, std::string("\0\0\x22", 3)) == 0;
}

}  // namespace

std::vector<Stream> flac_streams(const Content& content) {
  const Range whole(0, content.size());
  if (!starts_file(content, 0)) return {{{whole}, std::nullopt}};
  for (std::int64_t at = behind_metadata(content) - 1; (at = content.find("fLaC", at + 1)) >= 0;)
    if (starts_file(content, at))
      throw InputError("a second FLAC file begins at byte " + std::to_string(at) +
                       "; split it there or convert it to WAV");
  const StreamInfo info(content.read(8, 34));
  const auto [samples, last] = count(content, info);
  if (samples == info.samples) return {{{whole}, samples}};
  if (samples < info.samples)
    throw truncated(std::to_string(samples) + " samples or fewer where its header declares " +
                    std::to_string(info.samples));
  if (!is_whole(content, last)) throw truncated("its last FLAC frame is incomplete");
  const auto total = static_cast<std::uint64_t>(samples);
  const std::uint64_t packed = (big_endian(content.read(21, 1), 0, 1) & 0xF0) << 32 | total;
  return {{{Range(0, 21), big_endian_bytes(packed, 5), Range(26, content.size())}, samples}};
}

}  // namespace speech::internal
