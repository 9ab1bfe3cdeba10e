// In the place of recordings.cpp, featurizer.cpp and audio.cpp where their libraries are missing.

#include "errors.h"
#include "recordings.h"

namespace infer {

const bool kReadsAudio = false;

Recordings open_recordings(const std::vector<std::string>&, const Description&) {
  throw UsageError(
      "this program was built without audio: build.sh says which packages it lacks; or give "
      "features (--index)");
}

}  // namespace infer
