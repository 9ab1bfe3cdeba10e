// From samples to the features that a model takes: resampling, leaving out silence, featurizer.
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
  std::int64_t frames = 0;     // feature frames that they give
  double start_s = 0;          // where they start in the recording, past leading silence
};

// Safe for several threads at once.
class Frontend {
 public:
  // Throws UsageError if the description has no features, or some that this build cannot compute.
  explicit Frontend(const Description& description);
  Frontend(const Frontend&) = delete;
  Frontend& operator=(const Frontend&) = delete;
  ~Frontend();

  std::int64_t sample_rate() const;  // Hz, of the model
  bool trims_silence() const;

  // Feature frames of so many samples at the model's rate, none of them left out; 0 for none.
  std::int64_t frames(std::int64_t samples) const;

  // Number of samples that `sample_rate` makes of `count` at another rate.
  std::int64_t resampled_count(std::int64_t count, std::int64_t from_rate) const;

  // Resamples, and leaves out silence at both ends if the model was trained so. Throws InputError
  // for samples that are not finite, or too few for a frame.
  SpeechSamples prepare(std::vector<float> samples, std::int64_t from_rate) const;

  // Features (bin, frame).
  std::vector<float> features(const SpeechSamples& samples) const;

 private:
  struct Impl;
  const std::unique_ptr<const Impl> impl_;
};

}  // namespace speech::internal
