// Recordings: read in any format that libsndfile knows, as mono at the rate asked for.
#pragma once

#include <cstdint>
#include <vector>

#include "files.h"

namespace infer {

// What the header of a recording says.
struct AudioInfo {
  std::int64_t sample_rate = 0;  // Hz
  std::int64_t channels = 0;
  std::int64_t samples = 0;  // of each channel
};

// The header, nothing decoded. Throws InputError, which does not name the file, where it is
// missing, unreadable, empty, or cut as far as its container tells.
AudioInfo audio_info(const fs::path& path);

// Samples that `load_audio` gives.
std::int64_t samples_at(const AudioInfo& info, std::int64_t sample_rate);

// Full scale +-1, channels averaged, resampled where the file has another rate. Throws InputError
// like `audio_info`, and where samples are missing or no numbers.
std::vector<float> load_audio(const fs::path& path, std::int64_t sample_rate);

}  // namespace infer
