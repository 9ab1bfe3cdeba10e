// From samples to what a network sees: what common/features.py computes, from the same settings.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "feature_config.h"

namespace speech::internal {

class Featurizer {
 public:
  // Throws std::invalid_argument for mel bands without a frequency bin.
  explicit Featurizer(const FeatureConfig& config);
  Featurizer(const Featurizer&) = delete;
  Featurizer& operator=(const Featurizer&) = delete;
  ~Featurizer();

  // Frames that so many samples, at least one, give.
  std::int64_t frames(std::int64_t samples) const;

  // Samples -> (dimension, frames) of mean 0 and deviation 1.
  std::vector<float> operator()(const std::vector<float>& samples) const;

  // Begin and end of the samples, at least one, without the silence at both ends; all of them where
  // that is not wanted.
  std::pair<std::size_t, std::size_t> sound_range(const std::vector<float>& samples) const;

 private:
  struct Tables;

  std::vector<float> energies(const std::vector<float>& samples, std::int64_t count) const;
  void normalise(std::vector<float>& energies, std::int64_t count) const;

  const FeatureConfig config_;
  const std::unique_ptr<const Tables> tables_;
};

}  // namespace speech::internal
