// What a MindIR file says of itself, read from its bytes without MindSpore.
//
// MindIR is a protocol-buffers message, ModelProto of mind_ir.proto in MindSpore's sources. Read
// here: the version, the types and shapes of the inputs, and which operators the graphs use.
#pragma once

#include <cstdint>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "files.h"

namespace infer {

struct MindirInput {
  std::string name;
  std::vector<std::int64_t> shape;  // -1: open
  std::int64_t type = 0;            // of TensorProto.DataType
};

constexpr std::int64_t kMindirFloat32 = 1, kMindirInt32 = 6, kMindirFloat16 = 10;

struct Mindir {
  std::string producer_version;  // "2.10.0"
  std::vector<MindirInput> inputs;
  std::set<std::string> operators;  // "LSTM", "MatMul", ...
};

// Throws std::invalid_argument where the bytes are no such message.
Mindir parse_mindir(std::string_view bytes);

// Throws UsageError where the file cannot be read or is no MindIR file.
Mindir read_mindir(const fs::path& path);

}  // namespace infer
