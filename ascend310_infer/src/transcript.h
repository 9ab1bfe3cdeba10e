// What was recognized, as callers of the library get it.
#pragma once

#include "description.h"
#include "join.h"
#include "speech/recognizer.h"

namespace speech::internal {

// Decodes log-probabilities; `start_s` is where their first frame lies in the recording.
Transcript transcript_of(const Emission& emission, const Description& description, double start_s);

}  // namespace speech::internal
