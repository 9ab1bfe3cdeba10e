// A network that takes a recording piece by piece, with what it keeps of it.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "description.h"

namespace speech::internal {

struct StreamOutput {
  std::int64_t first = 0;        // index of its first frame in the recording; may be below 0
  std::int64_t frames = 0;
  std::vector<float> log_probs;  // (frames, labels)
};

// Used by one thread at a time.
class StreamNetwork {
 public:
  StreamNetwork() = default;
  StreamNetwork(const StreamNetwork&) = delete;
  StreamNetwork& operator=(const StreamNetwork&) = delete;
  virtual ~StreamNetwork() = default;

  // Begins another recording.
  virtual void reset() = 0;

  // Runs the next feature frames. Throws std::runtime_error.
  //
  // values: (dimension, frames), a multiple of the stride.
  // position: the frames that came before.
  // length: the frames of the whole recording, or more than will come.
  virtual StreamOutput run(const std::vector<float>& values, std::int64_t frames,
                           std::int64_t position, std::int64_t length) = 0;
};

// The network of a description with `stream`. Throws UsageError.
std::unique_ptr<StreamNetwork> make_stream_network(const Description& description, int threads);

}  // namespace speech::internal
