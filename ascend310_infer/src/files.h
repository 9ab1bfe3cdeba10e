// Files that are read whole, and written atomically.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <string>
#include <vector>

namespace speech::internal {

namespace fs = std::filesystem;

// Reads a small text file, without the byte order mark that it may begin with. Throws std::runtime_error "PATH: reason".
std::string read_text(const fs::path& path);

// Reads a file of exactly `count` float32 values, little endian.
// Throws InputError if it cannot be read or has another size.
std::vector<float> read_floats(const fs::path& path, std::size_t count);

// Reads a file of one int32 value, little endian. Throws InputError like `read_floats`.
std::int32_t read_int(const fs::path& path);

// Returns the CRC-32 (ISO 3309) of the first `bytes` of a file, or of all that there are. Throws
// InputError if it cannot be read.
std::uint32_t crc32_of(const fs::path& path,
                       std::uint64_t bytes = std::numeric_limits<std::uint64_t>::max());

// Returns the size of a regular file. Throws InputError if there is none.
std::uintmax_t bytes_of(const fs::path& path);

// Writes under another name in the same folder and renames.
// Throws InputError for a name that the file system does not take, else OutputError.
void write_atomically(const fs::path& path, const void* data, std::size_t bytes);

// Time of the last change, nanoseconds since the epoch; -1 if there is no regular file.
std::int64_t modified_ns(const fs::path& path);

}  // namespace speech::internal
