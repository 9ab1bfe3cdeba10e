// Computes the features that the Python package computes from the same settings.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "feature_config.h"

namespace speech::internal {

constexpr double kLeastDeviation = 1e-5;  // a smaller deviation counts as this

// Pads samples with `left` and `right` more: zeros, or the samples mirrored at their ends.
std::vector<float> padded(const std::vector<float>& samples, std::int64_t left, std::int64_t right,
                          bool zeros);

class Featurizer {
 public:
  // Throws std::invalid_argument for mel bands without a frequency bin.
  explicit Featurizer(const FeatureConfig& config);
  Featurizer(const Featurizer&) = delete;
  Featurizer& operator=(const Featurizer&) = delete;
  ~Featurizer();

  // Number of frames for `samples` samples, at least one.
  std::int64_t frames(std::int64_t samples) const;

  // Returns features (dimension, frames) with mean 0 and deviation 1. Safe for several threads.
  std::vector<float> operator()(const std::vector<float>& samples) const;

  // Returns log energies (bins, count), not normalised, of frames that begin at every hop-th sample
  // of a signal with pre-emphasis and edges. Safe for several threads.
  std::vector<float> energies_of(const float* signal, std::int64_t count) const;

  // Returns begin and end of the samples without the silence at both ends; of all of them if the
  // model was trained with silence. There must be at least one sample.
  std::pair<std::size_t, std::size_t> sound_range(const std::vector<float>& samples) const;

 private:
  struct Tables;

  std::vector<float> energies(const std::vector<float>& samples, std::int64_t count) const;
  void normalise(std::vector<float>& energies, std::int64_t count) const;
  void slide(std::vector<float>& energies, std::int64_t count) const;

  const FeatureConfig config_;
  const std::unique_ptr<const Tables> tables_;
};

}  // namespace speech::internal
