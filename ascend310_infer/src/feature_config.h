// The features that a model takes, according to its description.
#pragma once

#include <cstdint>
#include <string>

#include "json.h"

namespace speech::internal {

// The object "features" of a description. The fields are those of FeatureConfig in Python.
struct FeatureConfig {
  std::string kind;            // spectrogram (log1p magnitude) or logmel (log mel band energy)
  std::int64_t sample_rate;    // Hz
  double window_size;          // s
  double window_stride;        // s, from one frame to the next
  std::string window;          // hamming, hann, blackman, bartlett
  std::int64_t bands = 0;      // mel bands; 0 for the spectrogram
  std::string convention;      // how edges, window and deviation are computed
  double preemphasis = 0;      // this times the previous sample is subtracted from each sample
  std::int64_t splicing = 1;   // frames stacked into one
  bool trims_silence = false;  // at the ends of recordings
  bool slides = false;         // mean and deviation are those of the last seconds

  bool mel() const { return kind == "logmel"; }
  bool jasper() const { return convention.rfind("jasper", 0) == 0; }
  bool plain() const { return convention == "plain"; }
  bool nemo() const { return convention == "nemo"; }
  bool asrt() const { return convention == "asrt"; }
  bool pads_zeros() const { return plain() || nemo() || asrt(); }  // else recordings are mirrored
  bool adds_deviation() const { return jasper() || nemo(); }  // the least deviation is added
  bool periodic_window() const;
  std::int64_t window_length() const;  // samples
  std::int64_t hop_length() const;     // samples from one frame to the next
  std::int64_t n_fft() const;          // samples in a transform
  std::int64_t before() const;         // samples of the first window before the first sample
  std::int64_t bins() const { return mel() ? bands : n_fft() / 2 + (asrt() ? 0 : 1); }
  std::int64_t dimension() const { return bins() * splicing; }
};

// Throws std::invalid_argument if a key is missing, unknown, or has an unknown value.
FeatureConfig parse_features(const Json& features);

}  // namespace speech::internal
