// Recordings as utterances, their features computed where they are needed.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "description.h"
#include "source.h"
#include "utterances.h"

namespace infer {

// Whether this program was built with what it takes.
extern const bool kReadsAudio;

struct Recordings {
  Listing listing;  // in the order of the paths, which are the names
  std::unique_ptr<const Source> source;
};

// The recordings at `paths`, with the features that the description tells of.
// Throws UsageError where it does not, or tells of some that are not known here, and in a program
// without audio.
Recordings open_recordings(const std::vector<std::string>& paths, const Description& description);

}  // namespace infer
