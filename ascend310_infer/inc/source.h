// Where the features of utterances come from.
#pragma once

#include <vector>

#include "utterances.h"

namespace infer {

// Used by one thread of each process.
class Source {
 public:
  Source() = default;
  Source(const Source&) = delete;
  Source& operator=(const Source&) = delete;
  virtual ~Source() = default;

  // (bin, frame), of as many frames as the utterance says. Throws InputError.
  virtual std::vector<float> features(const Utterance& utterance) const = 0;
};

// Features in files.
class FeatureFiles : public Source {
 public:
  explicit FeatureFiles(std::int64_t dimension) : dimension_(dimension) {}

  std::vector<float> features(const Utterance& utterance) const override {
    return read_floats(utterance.file, static_cast<std::size_t>(dimension_ * utterance.frames));
  }

 private:
  const std::int64_t dimension_;
};

}  // namespace infer
