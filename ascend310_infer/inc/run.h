// The program from its options to its exit code.
#pragma once

#include "options.h"

namespace infer {

// Throws UsageError, OutputError.
int run(const Options& options);

}  // namespace infer
