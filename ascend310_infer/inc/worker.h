// One process of a run: reads, runs and writes at the same time.
#pragma once

#include <cstddef>
#include <vector>

#include "board.h"
#include "description.h"
#include "engine.h"
#include "plan.h"
#include "sink.h"
#include "source.h"
#include "utterances.h"

namespace infer {

struct Work {
  const Description& description;
  const std::vector<Utterance>& utterances;
  const Plan& plan;
  const Source& source;
};

// Takes jobs from the board until there are none, or until it says stop. Utterances that fail are
// reported on standard error, and what was done stands on the board. Throws UsageError where the
// engine does not get ready, or goes on failing.
void run_worker(std::size_t index, Engine& engine, const Work& work, Sink& sink, Board& board);

// Reports an utterance that failed, in one line.
void report_failure(const std::string& name, const std::string& reason);

}  // namespace infer
