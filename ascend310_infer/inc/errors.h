// What can go wrong, by what it means for the rest of the work.
#pragma once

#include <stdexcept>

namespace infer {

// The command, the model, the description or the device: nothing can be done. Exit code 2.
struct UsageError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// One utterance: it is reported in one line and the others go on. Exit code 1 at the end.
struct InputError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// The folder of results takes no more: reported, and the run stops. Exit code 1.
struct OutputError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

}  // namespace infer
