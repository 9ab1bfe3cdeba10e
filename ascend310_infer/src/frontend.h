// From samples to what a model takes: resampling, and for features leaving out silence, featurizer.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "description.h"

namespace speech::internal {

// Whether this build has the libraries for recordings.
extern const bool kReadsAudio;

struct SpeechSamples {
  std::vector<float> samples;  // at the model's rate
  std::int64_t frames = 0;     // input frames that they give: feature frames, or samples
  double start_s = 0;          // where they start in the recording, past leading silence
};

// Safe for several threads at once.
class Frontend {
 public:
  // Throws UsageError if the model takes features, and the description has none, or some that this
  // build cannot compute.
  explicit Frontend(const Description& description);
  Frontend(const Frontend&) = delete;
  Frontend& operator=(const Frontend&) = delete;
  ~Frontend();

  std::int64_t sample_rate() const;  // Hz, of the model
  bool trims_silence() const;

  // Input frames of so many samples at the model's rate, none of them left out; 0 for none.
  std::int64_t frames(std::int64_t samples) const;

  // Number of samples that `sample_rate` makes of `count` at another rate.
  std::int64_t resampled_count(std::int64_t count, std::int64_t from_rate) const;

  // Resamples, and leaves out silence at both ends if the features are made so. Throws InputError
  // for samples that are not finite, or too few for a frame.
  SpeechSamples prepare(std::vector<float> samples, std::int64_t from_rate) const;

  // What the network takes: features (bin, frame), or the samples themselves.
  std::vector<float> inputs(SpeechSamples samples) const;

 private:
  struct Impl;
  const std::unique_ptr<const Impl> impl_;
};

}  // namespace speech::internal
