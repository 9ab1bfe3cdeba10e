// Memory that recognition takes on a CPU, and how much of it there is.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace speech::internal {

struct Description;

// Bytes that recognition takes: `fixed`, and `per_frame` for each padded feature frame of a batch.
struct MemoryForecast {
  double fixed = 0;
  double per_frame = 0;
};

// A forecast, and the bytes that it must stay below.
class MemoryBudget {
 public:
  MemoryBudget(const MemoryForecast& forecast, double limit)
      : forecast_(forecast), limit_(limit) {}

  // Feature frames, padding included, that all utterances of a batch may have together.
  std::int64_t most_frames() const;

  // Says why an utterance of so many frames is refused, and what to do. `option` is how the caller
  // sets the length of parts; `frame_seconds` is 0 where it is not known.
  std::string reason(std::int64_t frames, double frame_seconds, const std::string& option) const;

 private:
  MemoryForecast forecast_;
  double limit_;
};

// Bytes that this process may use: the machine's memory, or the smaller limit of its control group
// or of its address space (ulimit -v).
double machine_memory();

// 80 % of the memory, shared by `processes`. Nothing where there is no forecast, as for a card and
// in descriptions of earlier versions.
std::optional<MemoryBudget> memory_budget(const Description& description, const std::string& target,
                                          int processes);

}  // namespace speech::internal
