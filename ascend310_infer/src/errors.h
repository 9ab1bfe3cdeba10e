// Errors, by what they mean for the rest of the work.
#pragma once

#include "speech/recognizer.h"

namespace speech::internal {

// The command, the model, its description or the device: nothing can be recognized. Exit code 2.
struct UsageError : ModelError {
  using ModelError::ModelError;
};

// One utterance: it is reported in one line, and the others are recognized. Exit code 1 at the end.
using speech::InputError;

// The results cannot be written: reported, and the run stops. Exit code 1.
struct OutputError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

}  // namespace speech::internal
