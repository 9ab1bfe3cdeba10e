// Features of a recording that comes piece by piece, as common/audio/streaming_features.py.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <vector>

#include "description.h"
#include "feature_config.h"

namespace speech::internal {

using Frames = std::vector<std::vector<float>>;  // a vector of bins for each frame

// Mean 0 and deviation 1 over the last seconds before a frame, and this one. The frames of the
// first second are normalised together, when they are there. See common/audio/normalisation.py.
class SlidingNormalisation {
 public:
  explicit SlidingNormalisation(const FeatureConfig& config);

  // Takes the next frames of log energies; returns the normalised ones that are ready.
  Frames accept(Frames energies);

  // Returns the frames of a recording that ended before its first second.
  Frames finish();

 private:
  std::vector<float> normalised(const std::vector<float>& frame) const;
  Frames start();

  bool over_bins_ = false, biased_ = false, adds_deviation_ = false;
  std::size_t window_ = 1, first_ = 1;  // frames
  bool started_ = false;
  std::deque<std::vector<float>> kept_;  // the last frames, at most a window
};

// Features of one recording. Used by one thread.
class StreamingFeatures {
 public:
  // Throws UsageError if the description has none, or some that this build cannot compute.
  explicit StreamingFeatures(const Description& description);
  StreamingFeatures(const StreamingFeatures&) = delete;
  StreamingFeatures& operator=(const StreamingFeatures&) = delete;
  ~StreamingFeatures();

  std::int64_t sample_rate() const;  // Hz, of the samples

  // Takes the next samples; returns the features that they complete.
  Frames accept(std::vector<float> samples);

  // Returns the features that are left at the end of the recording.
  Frames finish();

 private:
  struct Impl;
  const std::unique_ptr<Impl> impl_;
};

}  // namespace speech::internal
