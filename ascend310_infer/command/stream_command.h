// infer --stream: text of standard input while it comes.
#pragma once

#include "options.h"

namespace speech::internal {

// Returns the exit code. Throws UsageError, OutputError.
int recognize_stream(const Options& options);

}  // namespace speech::internal
