// One worker of a run, a process or not. Three threads read features, run the network and write
// results.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
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

using EngineMaker = std::function<std::unique_ptr<Engine>()>;

// Takes jobs from `state` until none is left or it says stop. Failed utterances are reported on
// standard error; progress is recorded in `state`. An engine that failed is made anew. Throws
// UsageError if an engine cannot load the model, or batch after batch fails.
void run_worker(std::size_t index, const EngineMaker& make, const Work& work, ResultWriter& writer,
                RunState& state);

// Reports an utterance that failed, in one line.
void report_failure(const std::string& name, const std::string& reason);

}  // namespace speech::internal
