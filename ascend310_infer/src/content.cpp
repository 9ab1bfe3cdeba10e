#include "content.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace speech::internal {
namespace {

constexpr std::int64_t kBlock = 1 << 20;  // bytes copied or searched at a time

InputError failed() { return InputError(std::strerror(errno)); }

// Opening a FIFO would wait for a writer.
int open_regular(const fs::path& path) {
  struct stat status{};
  if (::stat(path.c_str(), &status) != 0) throw failed();
  if (S_ISDIR(status.st_mode)) throw InputError(std::strerror(EISDIR));
  if (!S_ISREG(status.st_mode))
    throw InputError("a pipe or device, which cannot be read twice; write it to a file first");
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) throw failed();
  return descriptor;
}

void write_all(int descriptor, const std::string& bytes) {
  for (std::size_t written = 0; written < bytes.size();) {
    const ssize_t more = ::write(descriptor, bytes.data() + written, bytes.size() - written);
    if (more < 0 && errno == EINTR) continue;
    if (more < 0) throw failed();
    written += static_cast<std::size_t>(more);
  }
}

}  // namespace

InputError truncated(const std::string& what) {
  return InputError("truncated: " + what + "; fetch it again or leave it out");
}

std::uint64_t big_endian(const std::string& bytes, std::size_t at, std::size_t count) {
  std::uint64_t value = 0;
  for (std::size_t i = at; i < std::min(at + count, bytes.size()); ++i)
    value = value << 8 | static_cast<unsigned char>(bytes[i]);
  return value;
}

std::uint64_t little_endian(const std::string& bytes, std::size_t at, std::size_t count) {
  std::uint64_t value = 0;
  for (std::size_t i = std::min(at + count, bytes.size()); i > at; --i)
    value = value << 8 | static_cast<unsigned char>(bytes[i - 1]);
  return value;
}

std::string big_endian_bytes(std::uint64_t value, std::size_t count) {
  std::string bytes = little_endian_bytes(value, count);
  std::reverse(bytes.begin(), bytes.end());
  return bytes;
}

std::string little_endian_bytes(std::uint64_t value, std::size_t count) {
  std::string bytes;
  for (std::size_t i = 0; i < count; ++i) bytes.push_back(static_cast<char>(value >> 8 * i & 0xFF));
  return bytes;
}

Content::Content(const fs::path& path) : path_(path), file_(open_regular(path)) {
  struct stat status{};
  if (::fstat(file_.get(), &status) != 0) throw failed();
  size_ = status.st_size;
  if (size_ == 0) throw InputError("empty (0 bytes); fetch it again or leave it out");
}

void Content::skip(std::int64_t count) {
  count = std::min(count, size_);
  start_ += count;
  size_ -= count;
}

void Content::keep(std::int64_t start, std::int64_t size) {
  skip(start);
  size_ = std::min(size, size_);
}

std::string Content::read(std::int64_t offset, std::int64_t count) const {
  count = std::clamp<std::int64_t>(count, 0, std::max<std::int64_t>(0, size_ - offset));
  std::string bytes(static_cast<std::size_t>(count), '\0');
  std::size_t have = 0;
  while (have < bytes.size()) {
    const ssize_t more = ::pread(file_.get(), bytes.data() + have, bytes.size() - have,
                                 start_ + offset + static_cast<std::int64_t>(have));
    if (more < 0 && errno == EINTR) continue;
    if (more < 0) throw failed();
    if (more == 0) break;
    have += static_cast<std::size_t>(more);
  }
  bytes.resize(have);
  return bytes;
}

std::int64_t Content::find(const std::string& pattern, std::int64_t start) const {
  const auto overlap = static_cast<std::int64_t>(pattern.size()) - 1;
  for (; start < size_; start += kBlock) {
    const std::size_t found = read(start, kBlock + overlap).find(pattern);
    if (found != std::string::npos) return start + static_cast<std::int64_t>(found);
  }
  return -1;
}

bool Content::is_zero(std::int64_t start) const {
  for (; start < size_; start += kBlock)
    if (read(start, kBlock).find_first_not_of('\0') != std::string::npos) return false;
  return true;
}

int Content::open_stream(const Stream& stream) const {
  const auto* range = stream.parts.size() == 1 ? std::get_if<Range>(&stream.parts[0]) : nullptr;
  if (start_ == 0 && range != nullptr && *range == Range(0, size_)) return open_regular(path_);
  const int copied = ::memfd_create("recording", MFD_CLOEXEC);
  if (copied < 0) throw failed();
  try {
    for (const Part& part : stream.parts) {
      if (const auto* bytes = std::get_if<std::string>(&part)) write_all(copied, *bytes);
      if (const auto* from = std::get_if<Range>(&part))
        for (std::int64_t at = from->first; at < from->second; at += kBlock)
          write_all(copied, read(at, std::min(kBlock, from->second - at)));
    }
    if (::lseek(copied, 0, SEEK_SET) != 0) throw failed();
  } catch (...) {
    ::close(copied);
    throw;
  }
  return copied;
}

}  // namespace speech::internal
