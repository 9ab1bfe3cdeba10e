#include "utterance.h"

#include <limits>

#include "errors.h"

namespace speech::internal {

void check_frames(std::int64_t frames) {
  constexpr std::int64_t kMaxFrames = std::numeric_limits<std::int32_t>::max();
  if (frames < 1 || frames > kMaxFrames)
    throw InputError("has " + std::to_string(frames) + " frames, expected 1 to " +
                     std::to_string(kMaxFrames));
}

}  // namespace speech::internal
