#include <array>

#include "containers.h"

namespace speech::internal {
namespace {

constexpr int kFirst = 2, kLast = 4;  // flags of a page
constexpr std::int64_t kHeader = 27;  // bytes before the sizes of a page's segments

struct Page {
  std::int64_t offset, end;
  int flags;
  std::uint64_t serial, number;
};

InputError no_last_page() {
  // Some programs mark no page as the last, which cannot be told from a cut between two pages.
  return InputError(
      "truncated: the last page of its Ogg stream is missing or incomplete; fetch it again, "
      "convert it to FLAC or WAV if all of it is there, or leave it out");
}

InputError damaged(const std::string& what) {
  return InputError("damaged: " + what + "; fetch it again or leave it out");
}

// CRC of Ogg: polynomial 04C11DB7, highest bit first, from 0. The checksum's own field counts as 0.
std::uint32_t checksum(const std::string& page) {
  static const auto kTable = [] {
    std::array<std::uint32_t, 256> table{};
    for (std::uint32_t byte = 0; byte < table.size(); ++byte) {
      std::uint32_t crc = byte << 24;
      for (int bit = 0; bit < 8; ++bit) crc = crc << 1 ^ ((crc >> 31) != 0 ? 0x04C11DB7U : 0U);
      table[byte] = crc;
    }
    return table;
  }();
  std::uint32_t crc = 0;
  for (std::size_t i = 0; i < page.size(); ++i) {
    const bool own = i >= 22 && i < 26;
    const auto byte = own ? std::uint8_t{0} : static_cast<std::uint8_t>(page[i]);
    crc = crc << 8 ^ kTable[crc >> 24 ^ byte];
  }
  return crc;
}

std::optional<Page> page_at(const Content& content, std::int64_t offset) {
  const std::string header = content.read(offset, kHeader);
  if (header.compare(0, 4, "OggS") != 0) return std::nullopt;
  if (static_cast<std::int64_t>(header.size()) < kHeader) throw no_last_page();
  const std::size_t count = static_cast<std::uint8_t>(header[26]);
  const std::string sizes = content.read(offset + kHeader, static_cast<std::int64_t>(count));
  if (sizes.size() < count) throw no_last_page();
  std::int64_t bytes = kHeader + static_cast<std::int64_t>(count);
  for (const char size : sizes) bytes += static_cast<std::uint8_t>(size);
  const std::string page = content.read(offset, bytes);
  if (static_cast<std::int64_t>(page.size()) < bytes) throw no_last_page();
  if (checksum(page) != little_endian(page, 22, 4))
    throw damaged("the Ogg page at byte " + std::to_string(offset) +
                  " has another checksum than it declares");
  return Page{offset, offset + bytes, static_cast<std::uint8_t>(page[5]),
              little_endian(page, 14, 4), little_endian(page, 18, 4)};
}

}  // namespace

std::vector<Stream> ogg_streams(const Content& content) {
  std::vector<Stream> streams;
  std::optional<Page> first, last;  // of the stream that is not complete yet
  std::int64_t offset = 0;
  for (auto page = page_at(content, 0); page; page = page_at(content, offset)) {
    if ((page->flags & kFirst) != 0) {
      if (first && last->offset == first->offset)
        throw InputError(
            "an Ogg file of several streams side by side, such as sound and pictures; convert its "
            "sound to FLAC or WAV");
      if (first) throw no_last_page();
      first = page;
    } else if (!first || page->serial != first->serial || page->number != last->number + 1) {
      throw damaged("the Ogg page at byte " + std::to_string(offset) +
                    " does not continue the one before it");
    }
    last = page;
    offset = page->end;
    if ((page->flags & kLast) != 0) {
      streams.push_back({{Range(first->offset, page->end)}, std::nullopt});
      first.reset();
    }
  }
  if (first || streams.empty()) throw no_last_page();
  if (content.find("OggS", offset) >= 0)
    throw damaged("there is no Ogg page at byte " + std::to_string(offset) + ", but further on");
  return streams;
}

}  // namespace speech::internal
