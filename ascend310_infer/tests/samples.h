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

// A temporary folder, removed at the end of its life.
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

// The content of a model file.
inline const char* const kModel = "a model of 22 bytes...";

// "graph" of a bucket, of a file that holds kModel.
inline std::string graph(const std::string& inputs, const std::string& operators = "\"MatMul\"") {
  return R"("graph": {"bytes": 22, "inputs": [)" + inputs + "], \"operators\": [" + operators +
         "]}";
}

inline std::string inputs(const std::string& features, const std::string& lengths,
                          const std::string& type = "float32") {
  return R"({"name": "features", "type": ")" + type + "\", \"shape\": " + features +
         R"(}, {"name": "lengths", "type": "int32", "shape": )" + lengths + "}";
}

inline const char* const kDescription = R"({
  "model": "deepspeech2", "labels": ["A", "B", "\u00e9", " ", "_"], "file": "m.mindir",
  "device": "CPU", "frame_stride": 2,
  "inputs": [{"name": "features", "shape": [-1, 4, -1]}, {"name": "lengths", "shape": [-1]}],
  "features": {"kind": "logmel", "sample_rate": 16000, "window_stride": 0.015}
})";

}  // namespace samples
