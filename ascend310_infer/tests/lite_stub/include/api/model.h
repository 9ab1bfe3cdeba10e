// See types.h. A model file holds "features BATCH BINS FRAMES", or "lengths BATCH BINS FRAMES"
// where the lengths are the first input; -1 is an open axis. The model: output frame t is feature
// frame 2 t, its first five bins. A card computes in half precision, unless told otherwise, and
// there are two of them. Resize takes what the file leaves open.
#pragma once

#include <cstring>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "half.h"
#include "include/api/context.h"
#include "include/api/types.h"

namespace mindspore {

class Model {
 public:
  Status Build(const std::string& path, ModelType, const std::shared_ptr<Context>& context) {
    for (const auto& device : context->MutableDeviceInfo())
      if (const auto card = std::dynamic_pointer_cast<AscendDeviceInfo>(device)) {
        if (card->GetDeviceID() >= 2) return Status("Set device id failed");
        half_ = card->GetPrecisionMode() == "enforce_fp16";
      }
    std::ifstream file(path);
    std::string first;
    std::int64_t batch = 0, bins = 0, frames = 0;
    if (!(file >> first >> batch >> bins >> frames)) return Status("Parse model failed");
    inputs_.emplace_back("features", floats());
    open_ = {{batch, bins, frames}};
    inputs_.emplace(first == "lengths" ? inputs_.begin() : inputs_.end(), "lengths",
                    DataType::kNumberTypeInt32);
    open_.insert(first == "lengths" ? open_.begin() : open_.end(),
                 std::vector<std::int64_t>{batch});
    for (std::size_t i = 0; i < inputs_.size(); ++i) inputs_[i].shape(open_[i]);
    return Status();
  }

  std::vector<MSTensor> GetInputs() { return inputs_; }

  Status Resize(const std::vector<MSTensor>& inputs,
                const std::vector<std::vector<std::int64_t>>& shapes) {
    for (std::size_t i = 0; i < inputs.size(); ++i)
      for (std::size_t axis = 0; axis < shapes[i].size(); ++axis)
        if (open_[i][axis] > 0 && open_[i][axis] != shapes[i][axis])
          return Status("the shape is static");
    for (std::size_t i = 0; i < inputs.size(); ++i) inputs_[i].shape(shapes[i]);
    return Status();
  }

  Status Predict(const std::vector<MSTensor>& inputs, std::vector<MSTensor>* outputs) {
    const std::size_t first = inputs[0].Shape().size() == 3 ? 0 : 1;
    const std::vector<std::int64_t> shape = inputs[first].Shape();
    constexpr std::int64_t kLabels = 5;
    MSTensor log_probs("log_probs", floats()), lengths("lengths", DataType::kNumberTypeInt32);
    log_probs.shape({(shape[2] + 1) / 2, shape[0], kLabels});
    lengths.shape({shape[0]});
    const std::size_t size = half_ ? 2 : 4;
    const auto* from = static_cast<const char*>(inputs[first].Data().get());
    auto* to = static_cast<char*>(log_probs.MutableData());
    for (std::int64_t t = 0; t < log_probs.Shape()[0]; ++t)
      for (std::int64_t row = 0; row < shape[0]; ++row)
        for (std::int64_t label = 0; label < kLabels; ++label, to += size)
          std::memcpy(
              to,
              from + static_cast<std::size_t>((row * shape[1] + label) * shape[2] + 2 * t) * size,
              size);
    const auto* counts = static_cast<const std::int32_t*>(inputs[1 - first].Data().get());
    for (std::int64_t row = 0; row < shape[0]; ++row)
      static_cast<std::int32_t*>(lengths.MutableData())[row] = (counts[row] + 1) / 2;
    *outputs = {log_probs, lengths};
    return Status();
  }

 private:
  DataType floats() const {
    return half_ ? DataType::kNumberTypeFloat16 : DataType::kNumberTypeFloat32;
  }

  bool half_ = false;
  std::vector<MSTensor> inputs_;
  std::vector<std::vector<std::int64_t>> open_;
};

}  // namespace mindspore
