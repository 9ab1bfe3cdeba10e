// Recordings: read as far as their containers can be checked, as one channel, and resampled.
#pragma once

#include <cstdint>
#include <vector>

#include "files.h"
#include "speech/recognizer.h"

namespace speech::internal {

// What a recording holds.
struct AudioInfo {
  std::int64_t sample_rate = 0;  // Hz
  std::int64_t channels = 0;
  std::int64_t samples = 0;  // of each channel
};

// Reads the structure of the file and decodes nothing. Throws InputError, which does not name the
// file, if it is missing, unreadable, empty, or cut as far as its container tells.
AudioInfo audio_info(const fs::path& path);

// Number of samples that `resample` makes of `count`.
std::int64_t resampled_count(std::int64_t count, std::int64_t from_rate, std::int64_t to_rate);

// Samples at another rate (Hz), or as they are where the rates are equal. Throws InputError for
// a rate below 100 Hz or above 10 MHz, and for samples that are not finite.
std::vector<float> resample(std::vector<float> samples, std::int64_t from_rate,
                            std::int64_t to_rate);

}  // namespace speech::internal
