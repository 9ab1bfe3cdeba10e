// Files: read whole, or written so that they are whole or not there.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace speech::internal {

namespace fs = std::filesystem;

// The text of a small file. Throws std::runtime_error "PATH: reason".
std::string read_text(const fs::path& path);

// `count` float32 values, little endian, the whole of the file.
// Throws InputError where it cannot be read or has another size.
std::vector<float> read_floats(const fs::path& path, std::size_t count);

// The one int32 value, little endian, of a file. Throws InputError like `read_floats`.
std::int32_t read_int(const fs::path& path);

// Bytes of a regular file. Throws InputError where there is none.
std::uintmax_t bytes_of(const fs::path& path);

// Writes under another name in the same folder and renames.
// Throws InputError for a name that the file system does not take, else OutputError.
void write_atomically(const fs::path& path, const void* data, std::size_t bytes);

// Nanoseconds since the epoch of the last change; -1 where there is no regular file.
std::int64_t modified_ns(const fs::path& path);

}  // namespace speech::internal
