// The parts of a split utterance become one again.
#pragma once

#include <cstdint>
#include <vector>

namespace speech::internal {

// Log-probabilities (frames, labels), row by row.
struct Emission {
  std::int64_t frames = 0;
  std::vector<float> values;
};

struct Part {
  std::int64_t start = 0;  // output frames from the start of the utterance
  Emission emission;
};

// parts: by start, each beginning no later than its predecessor ends. Where two overlap, the first
// half comes from the earlier one and the second from the later one: each frame from the part in
// which it is farther from the edge. Throws InputError where they do not meet.
Emission join(const std::vector<Part>& parts, std::int64_t labels);

}  // namespace speech::internal
