// Small files that several tests read.
#pragma once

#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace samples {

namespace fs = std::filesystem;

// A folder that is there as long as this is.
class Folder {
 public:
  Folder() {
    std::string name = (fs::temp_directory_path() / "infer.XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) throw std::runtime_error("no temporary folder");
    path = name;
  }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  ~Folder() { fs::remove_all(path); }
  fs::path path;
};

template <class Values>
void write(const fs::path& path, const Values& values) {
  std::ofstream(path, std::ios::binary)
      .write(reinterpret_cast<const char*>(values.data()),
             static_cast<std::streamsize>(values.size() * sizeof(values[0])));
}

inline std::string varint(std::uint64_t value) {
  std::string bytes;
  for (; value >= 128; value >>= 7) bytes += static_cast<char>(value | 128);
  return bytes + static_cast<char>(value);
}

inline std::string number(int field, std::int64_t value) {
  return varint(static_cast<std::uint64_t>(field) << 3) + varint(static_cast<std::uint64_t>(value));
}

inline std::string bytes(int field, const std::string& value) {
  return varint(static_cast<std::uint64_t>(field) << 3 | 2) + varint(value.size()) + value;
}

// A MindIR file: inputs (name, shape, type), and the operators of its nodes.
struct Input {
  std::string name;
  std::vector<std::int64_t> shape;
  std::int64_t type;
};

inline std::string mindir(const std::vector<Input>& inputs,
                          const std::vector<std::string>& operators) {
  std::string graph;
  for (const std::string& name : operators) graph += bytes(1, bytes(3, "node") + bytes(4, name));
  for (const Input& input : inputs) {
    std::string tensor;
    for (const std::int64_t size : input.shape) tensor += number(1, size);
    tensor += number(2, input.type);
    graph += bytes(5, bytes(1, input.name) + bytes(2, tensor));
  }
  return bytes(1, "1.1") + bytes(2, "MindSpore") + bytes(3, "2.10.0") + bytes(7, graph);
}

inline std::string mindir(std::int64_t batch, std::int64_t bins, std::int64_t frames,
                          const std::string& recurrent = "MatMul") {
  return mindir({{"features", {batch, bins, frames}, 1}, {"lengths", {batch}, 6}},
                {"Transpose", recurrent});
}

inline const char* const kDescription = R"({
  "model": "deepspeech2", "labels": ["A", "B", "\u00e9", " ", "_"], "file": "m.mindir",
  "device": "CPU", "frame_stride": 2,
  "inputs": [{"name": "features", "shape": [-1, 4, -1]}, {"name": "lengths", "shape": [-1]}],
  "features": {"kind": "logmel", "sample_rate": 16000, "window_stride": 0.015}
})";

}  // namespace samples
