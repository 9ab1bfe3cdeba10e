// One utterance that is to be recognized.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

namespace speech::internal {

struct Utterance {
  std::string name;
  std::filesystem::path file;  // with its features, or a recording
  std::int64_t frames = 0;     // feature frames
  double duration_s = 0;       // of a recording
  double start_s = 0;          // of a recording: where its features start, past leading silence
};

// Throws InputError for fewer than 1 frame, or more than an int32 counts (feature frames of eight
// months, samples of 37 hours).
void check_frames(std::int64_t frames);

}  // namespace speech::internal
