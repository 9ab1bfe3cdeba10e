// Where the features of utterances come from.
#pragma once

#include <cstddef>
#include <vector>

#include "files.h"
#include "utterance.h"

namespace speech::internal {

// Used by several threads at once.
class FeatureSource {
 public:
  FeatureSource() = default;
  FeatureSource(const FeatureSource&) = delete;
  FeatureSource& operator=(const FeatureSource&) = delete;
  virtual ~FeatureSource() = default;

  // Features (bin, frame) of `utterance`, number `index` of the list, of as many frames as it says.
  // Throws InputError.
  virtual std::vector<float> features(std::size_t index, const Utterance& utterance) const = 0;
};

// Features in files.
class FeatureFiles : public FeatureSource {
 public:
  explicit FeatureFiles(std::int64_t dimension) : dimension_(dimension) {}

  std::vector<float> features(std::size_t, const Utterance& utterance) const override {
    return read_floats(utterance.file, static_cast<std::size_t>(dimension_ * utterance.frames));
  }

 private:
  const std::int64_t dimension_;
};

}  // namespace speech::internal
