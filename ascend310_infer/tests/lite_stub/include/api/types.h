// A stand-in for the part of MindSpore Lite's C++ API that src/engine_lite.cpp uses, written from
// its documentation, with a model inside that is a formula (see model.h). Names and signatures are
// the API's; what they do is as little as the tests need.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace mindspore {

enum class DataType : int {
  kNumberTypeInt32 = 34,
  kNumberTypeFloat16 = 42,
  kNumberTypeFloat32 = 43,
};

enum ModelType : std::uint32_t { kMindIR = 0, kMindIR_Lite = 4 };

class Status {
 public:
  Status() = default;
  explicit Status(std::string reason) : reason_(std::move(reason)) {}
  bool IsOk() const { return reason_.empty(); }
  std::string ToString() const { return reason_; }
  std::string GetErrDescription() const { return reason_.empty() ? "" : "Invalid file."; }

 private:
  std::string reason_;
};

inline std::string Version() { return "MindSpore Lite 2.0.0"; }

// Copies share one memory, as in the API.
class MSTensor {
 public:
  MSTensor(std::string name, enum DataType type) : inner_(std::make_shared<Inner>()) {
    inner_->name = std::move(name);
    inner_->type = type;
  }

  std::string Name() const { return inner_->name; }
  enum DataType DataType() const { return inner_->type; }
  const std::vector<std::int64_t>& Shape() const { return inner_->shape; }
  std::size_t DataSize() const { return inner_->bytes.size(); }
  void* MutableData() { return inner_->bytes.data(); }
  std::shared_ptr<const void> Data() const { return {inner_, inner_->bytes.data()}; }

  // Not of the API.
  void shape(const std::vector<std::int64_t>& shape) {
    std::size_t count = inner_->type == DataType::kNumberTypeFloat16 ? 2 : 4;
    for (const std::int64_t size : shape) count *= size > 0 ? static_cast<std::size_t>(size) : 0;
    inner_->shape = shape;
    inner_->bytes.assign(count, 0);
  }

 private:
  struct Inner {
    std::string name;
    enum DataType type {};
    std::vector<std::int64_t> shape;
    std::vector<unsigned char> bytes;
  };
  std::shared_ptr<Inner> inner_;
};

}  // namespace mindspore
