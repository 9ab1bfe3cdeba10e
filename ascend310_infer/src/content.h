// The bytes of a recording, and the parts of them that a decoder is given.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "errors.h"
#include "file_descriptor.h"
#include "files.h"

namespace speech::internal {

using Range =
    std::pair<std::int64_t, std::int64_t>;  // offsets of the first byte and behind the last

// Bytes of the file, or bytes in the place of some of the file.
using Part = std::variant<Range, std::string>;

// What a decoder reads as one file.
struct Stream {
  std::vector<Part> parts;              // of the recording, in their order
  std::optional<std::int64_t> samples;  // per channel; none: as the decoder says
  bool native_messages = false;         // the decoder writes messages to standard error
  bool estimated = false;  // the decoder can only estimate them; it is to read as many as `samples`
};

// The refusal of a file that has less than it should, such as "20 bytes where its header declares
// 40".
InputError truncated(const std::string& what);

// Integers of up to 8 bytes.
std::uint64_t little_endian(const std::string& bytes, std::size_t at, std::size_t count);
std::uint64_t big_endian(const std::string& bytes, std::size_t at, std::size_t count);
std::string big_endian_bytes(std::uint64_t value, std::size_t count);
std::string little_endian_bytes(std::uint64_t value, std::size_t count);

// A file whose bytes are read at any place. Byte 0 is the first that was not skipped.
class Content {
 public:
  // Throws InputError if there is no such file, or a folder, pipe or device, or an empty file.
  explicit Content(const fs::path& path);

  std::int64_t size() const { return size_; }
  void skip(std::int64_t count);
  // Leaves out all but `size` bytes from `start` on.
  void keep(std::int64_t start, std::int64_t size);

  // `count` bytes; fewer at the end of the file.
  std::string read(std::int64_t offset, std::int64_t count) const;

  // Offset of the first `pattern` from `start` on; -1 if there is none.
  std::int64_t find(const std::string& pattern, std::int64_t start) const;

  // Whether all bytes from `start` on are zero.
  bool is_zero(std::int64_t start) const;

  // A descriptor to read a stream by, which the caller closes. A stream that is not the whole file
  // is copied into memory.
  int open_stream(const Stream& stream) const;

 private:
  fs::path path_;
  FileDescriptor file_;
  std::int64_t start_ = 0;
  std::int64_t size_ = 0;
};

}  // namespace speech::internal
