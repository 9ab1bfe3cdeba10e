#include "files.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <stdexcept>
#include <string_view>

#include "errors.h"
#include "file_descriptor.h"

// Features and results are little endian.
static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "needs a little-endian machine");

namespace speech::internal {
namespace {

FileDescriptor open_file(const fs::path& path, int flags) {
  return FileDescriptor(::open(path.c_str(), flags | O_CLOEXEC, 0666));
}

std::string reason(const fs::path& path, int error) {
  return path.string() + ": " + std::strerror(error);
}

// Reads up to `bytes`, fewer at the end of the file; returns -1 with errno.
ssize_t read_some(int descriptor, void* data, std::size_t bytes) {
  std::size_t have = 0;
  while (have < bytes) {
    const ssize_t more = ::read(descriptor, static_cast<char*>(data) + have, bytes - have);
    if (more < 0 && errno == EINTR) continue;
    if (more < 0) return -1;
    if (more == 0) break;
    have += static_cast<std::size_t>(more);
  }
  return static_cast<ssize_t>(have);
}

// tables[0] is the remainder of each byte; tables[i] of that byte with i zero bytes behind it.
using Tables = std::array<std::array<std::uint32_t, 256>, 8>;

constexpr Tables crc_tables() {
  constexpr std::uint32_t kPolynomial = 0xEDB88320;  // of ISO 3309, the lowest bit first
  Tables tables{};
  for (std::uint32_t byte = 0; byte < 256; ++byte) {
    std::uint32_t value = byte;
    for (int bit = 0; bit < 8; ++bit)
      value = (value >> 1) ^ ((value & 1) != 0 ? kPolynomial : 0);
    tables[0][byte] = value;
  }
  for (std::size_t i = 1; i < tables.size(); ++i)
    for (std::size_t byte = 0; byte < 256; ++byte) {
      const std::uint32_t before = tables[i - 1][byte];
      tables[i][byte] = (before >> 8) ^ tables[0][before & 0xFF];
    }
  return tables;
}

// Eight bytes at a time ("slicing by 8", Kounavis and Berry 2005): a model has a gigabyte.
std::uint32_t crc_update(std::uint32_t crc, const unsigned char* data, std::size_t bytes) {
  static constexpr Tables kTables = crc_tables();
  for (; bytes >= 8; bytes -= 8, data += 8) {
    std::uint32_t low = 0, high = 0;
    std::memcpy(&low, data, sizeof low);
    std::memcpy(&high, data + sizeof low, sizeof high);
    low ^= crc;
    crc = kTables[7][low & 0xFF] ^ kTables[6][(low >> 8) & 0xFF] ^ kTables[5][(low >> 16) & 0xFF] ^
          kTables[4][low >> 24] ^ kTables[3][high & 0xFF] ^ kTables[2][(high >> 8) & 0xFF] ^
          kTables[1][(high >> 16) & 0xFF] ^ kTables[0][high >> 24];
  }
  for (; bytes > 0; --bytes, ++data) crc = (crc >> 8) ^ kTables[0][(crc ^ *data) & 0xFF];
  return crc;
}

void read_exactly(const fs::path& path, void* data, std::size_t bytes) {
  const FileDescriptor file = open_file(path, O_RDONLY);
  struct stat status{};
  if (!file.is_open() || ::fstat(file.get(), &status) != 0) throw InputError(reason(path, errno));
  if (S_ISREG(status.st_mode) && static_cast<std::uintmax_t>(status.st_size) != bytes)
    throw InputError(path.string() + ": " + std::to_string(status.st_size) + " bytes, expected " +
                     std::to_string(bytes));
  const ssize_t have = read_some(file.get(), data, bytes);
  if (have < 0) throw InputError(reason(path, errno));
  if (static_cast<std::size_t>(have) != bytes)
    throw InputError(path.string() + ": ended after " + std::to_string(have) + " bytes, expected " +
                     std::to_string(bytes));
}

bool write_all(int descriptor, const void* data, std::size_t bytes) {
  std::size_t written = 0;
  while (written < bytes) {
    const ssize_t more =
        ::write(descriptor, static_cast<const char*>(data) + written, bytes - written);
    if (more < 0 && errno == EINTR) continue;
    if (more < 0) return false;
    written += static_cast<std::size_t>(more);
  }
  return true;
}

}  // namespace

std::string read_text(const fs::path& path) {
  const FileDescriptor file = open_file(path, O_RDONLY);
  struct stat status{};
  if (!file.is_open() || ::fstat(file.get(), &status) != 0)
    throw std::runtime_error(reason(path, errno));
  if (!S_ISREG(status.st_mode)) throw std::runtime_error(path.string() + ": not a file");
  std::string text(static_cast<std::size_t>(status.st_size), '\0');
  const ssize_t have = read_some(file.get(), text.data(), text.size());
  if (have < 0) throw std::runtime_error(reason(path, errno));
  text.resize(static_cast<std::size_t>(have));
  constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";
  if (text.compare(0, kByteOrderMark.size(), kByteOrderMark) == 0)
    text.erase(0, kByteOrderMark.size());
  return text;
}

std::vector<float> read_floats(const fs::path& path, std::size_t count) {
  std::vector<float> values(count);
  read_exactly(path, values.data(), count * sizeof(float));
  return values;
}

std::int32_t read_int(const fs::path& path) {
  std::int32_t value = 0;
  read_exactly(path, &value, sizeof value);
  return value;
}

std::uint32_t crc32_of(const fs::path& path, std::uint64_t bytes) {
  constexpr std::uint64_t kChunk = std::uint64_t{1} << 20;
  const FileDescriptor file = open_file(path, O_RDONLY);
  if (!file.is_open()) throw InputError(reason(path, errno));
  std::vector<unsigned char> chunk(kChunk);
  std::uint32_t crc = 0xFFFFFFFF;
  for (;;) {
    const auto wanted = static_cast<std::size_t>(std::min(bytes, kChunk));
    const ssize_t have = read_some(file.get(), chunk.data(), wanted);
    if (have < 0) throw InputError(reason(path, errno));
    if (have == 0) return ~crc;
    crc = crc_update(crc, chunk.data(), static_cast<std::size_t>(have));
    bytes -= static_cast<std::uint64_t>(have);
  }
}

std::uintmax_t bytes_of(const fs::path& path) {
  struct stat status{};
  if (::stat(path.c_str(), &status) != 0) throw InputError(reason(path, errno));
  if (!S_ISREG(status.st_mode)) throw InputError(path.string() + ": not a file");
  return static_cast<std::uintmax_t>(status.st_size);
}

void write_atomically(const fs::path& path, const void* data, std::size_t bytes) {
  const fs::path partial = path.parent_path() / ("." + path.filename().string() + ".partial");
  int error = 0;
  {
    FileDescriptor file = open_file(partial, O_WRONLY | O_CREAT | O_TRUNC);
    if (!file.is_open() || !write_all(file.get(), data, bytes) || !file.close()) error = errno;
  }
  if (error == 0 && ::rename(partial.c_str(), path.c_str()) != 0) error = errno;
  if (error == 0) return;
  ::unlink(partial.c_str());
  if (error == ENAMETOOLONG) throw InputError(reason(path, error));
  throw OutputError(reason(path, error));
}

std::int64_t modified_ns(const fs::path& path) {
  struct stat status{};
  if (::stat(path.c_str(), &status) != 0 || !S_ISREG(status.st_mode)) return -1;
  return static_cast<std::int64_t>(status.st_mtim.tv_sec) * 1000000000 + status.st_mtim.tv_nsec;
}

}  // namespace speech::internal
