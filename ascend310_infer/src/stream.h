// Text of a recording that comes piece by piece, as common/api/streaming.py.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "description.h"
#include "join.h"
#include "speech/recognizer.h"
#include "stream_network.h"
#include "streaming_features.h"

namespace speech::internal {

// Used by one thread at a time.
class TextStream {
 public:
  // Throws UsageError for options out of bounds, or features that this build cannot compute.
  TextStream(const Description& description, std::unique_ptr<StreamNetwork> network,
             const StreamingOptions& options);

  std::int64_t sample_rate() const { return features_->sample_rate(); }

  // Takes the next samples; returns the texts that have become final. Throws InputError.
  std::vector<Transcript> accept(std::vector<float> samples);

  // Ends the recording; returns the texts that were left. The next samples are of another one.
  std::vector<Transcript> finish();

  // The text since the last pause; it may change.
  std::string result() const;

 private:
  void begin();
  std::vector<Transcript> take(Frames features, bool ended);
  void run(std::int64_t frames, std::int64_t length);
  void hear(const float* log_probs);
  void close();

  const Description description_;
  const std::unique_ptr<StreamNetwork> network_;
  std::int64_t chunk_ = 1, pause_ = 1;  // feature frames, a multiple of the stride; output frames
  std::unique_ptr<StreamingFeatures> features_;
  Frames waiting_;          // features that the network did not get yet
  std::int64_t given_ = 0;  // ... and that it got
  Emission segment_;        // output since the last pause
  std::int64_t before_ = 0, quiet_ = 0;  // output frames before it, and since its last letter
  bool said_ = false;                    // whether there was a letter in it
  std::vector<Transcript> finals_;       // that were not returned yet
};

}  // namespace speech::internal
