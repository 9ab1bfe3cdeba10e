// Recordings in files as utterances; their features are computed where they are needed.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "description.h"
#include "feature_source.h"
#include "utterance_list.h"

namespace speech::internal {

struct Recordings {
  UtteranceList list;  // in the order of the paths, which are the names
  std::unique_ptr<const FeatureSource> source;
};

// Looks at the recordings at `paths`, for a model that takes the features of `description`.
// Throws UsageError if the description has no features, or some that this build cannot compute.
Recordings open_recordings(const std::vector<std::string>& paths, const Description& description);

}  // namespace speech::internal
