// Statistics of a run, for people and for programs.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "files.h"
#include "run_state.h"
#include "utterance_list.h"

namespace speech::internal {

struct Statistics {
  std::string engine, device;
  std::size_t processes = 0, instances = 0;  // of the engine, several of them in one process
  std::size_t done = 0, failed = 0, undone = 0, skipped = 0, split = 0, batches = 0;
  double load_s = 0;    // of the worker that took longest
  double wall_s = 0;    // likewise, from the loaded model to the end
  double audio_s = 0;   // of the utterances that were done; 0: not known
  double outside = 0;   // share of the workers' time that was not spent in the network
  double peak_mib = 0;  // memory of all processes together
  std::vector<float> network_ms, total_ms;  // of each utterance that was done
};

// Sums up the records of all workers; utterances: all that were to be recognized.
// `processes`: the workers were processes, and not threads of this one.
Statistics collect(RunState& state, std::size_t workers, bool processes,
                   const std::vector<Utterance>& utterances, double frame_seconds);

// The smallest value that is not exceeded by `percent` % of them (nearest rank); 0 of nothing.
float percentile(std::vector<float> values, double percent);

std::string statistics_text(const Statistics& statistics);
std::string statistics_json(const Statistics& statistics);

// Both, as test_perform_static.txt and .json. Throws OutputError.
void write_statistics(const fs::path& folder, const Statistics& statistics);

}  // namespace speech::internal
