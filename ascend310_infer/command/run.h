// The command, from its options to its exit code.
#pragma once

#include "options.h"

namespace speech::internal {

// Throws UsageError, OutputError.
int run(const Options& options);

}  // namespace speech::internal
