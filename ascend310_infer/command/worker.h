// One process of a run: reads, runs and writes at the same time.
#pragma once

#include <cstddef>
#include <vector>

#include "description.h"
#include "engine.h"
#include "feature_source.h"
#include "plan.h"
#include "result_writer.h"
#include "run_state.h"
#include "utterance_list.h"

namespace speech::internal {

struct Work {
  const Description& description;
  const std::vector<Utterance>& utterances;
  const Plan& plan;
  const FeatureSource& source;
};

// Takes jobs from the state until there are none, or until it says stop. Utterances that fail are
// reported on standard error, and what was done stands on the state. Throws UsageError where the
// engine does not get ready, or goes on failing.
void run_worker(std::size_t index, Engine& engine, const Work& work, ResultWriter& writer,
                RunState& state);

// Reports an utterance that failed, in one line.
void report_failure(const std::string& name, const std::string& reason);

}  // namespace speech::internal
