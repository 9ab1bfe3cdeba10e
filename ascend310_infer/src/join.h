// Joins the outputs of the parts of a split utterance.
#pragma once

#include <cstdint>
#include <vector>

namespace speech::internal {

// Log-probabilities (frames, labels), row by row.
struct Emission {
  std::int64_t frames = 0;
  std::vector<float> values;
  std::int64_t start = 0;  // input frames that the network left out before the first
};

struct Part {
  std::int64_t start = 0;  // output frames from the start of the utterance
  Emission emission;
};

// Joins parts, which are sorted by start. An overlap is taken in equal halves from both parts, so
// that each frame comes from the part in which it is farther from the edge. Throws InputError if
// there is a gap between two parts.
Emission join(const std::vector<Part>& parts, std::int64_t labels);

}  // namespace speech::internal
