// A batch on its way from the disk through the network and back.
#pragma once

#include <chrono>
#include <cstddef>
#include <map>
#include <vector>

#include "engine.h"
#include "feature_source.h"
#include "join.h"
#include "plan.h"
#include "utterance.h"

namespace speech::internal {

using Clock = std::chrono::steady_clock;

inline double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

struct Batch {
  std::size_t bucket = 0;
  std::vector<Row> rows;  // of the input; it may have more, which are there for the shape
  Input input;
  Output output;
  Clock::time_point started;
  double network_s = 0;
};

// Pads features into batches. It keeps those of the last utterance, for its parts come in a row.
class Loader {
 public:
  Loader(const std::vector<Utterance>& utterances, const FeatureSource& source,
         std::int64_t dimension)
      : utterances_(utterances), source_(source), dimension_(dimension) {}

  // Rows whose features cannot be had, hold what is no number, or find no memory, are left out, and
  // their utterances given to `failed` (index, reason); no row may be left.
  template <class Failed>
  Batch load(const PlannedBatch& planned, Failed&& failed) {
    Batch batch;
    const std::string lacking = prepare(planned, batch);
    for (const Row& row : planned.rows) {
      const std::string reason = lacking.empty() ? add(row, batch) : lacking;
      if (!reason.empty()) failed(row.utterance, reason);
    }
    fill_up(batch);
    return batch;
  }

 private:
  // Both say why not, or nothing.
  std::string prepare(const PlannedBatch& planned, Batch& batch) const;
  std::string add(const Row& row, Batch& batch);
  void fill_up(Batch& batch) const;

  const std::vector<Utterance>& utterances_;
  const FeatureSource& source_;
  const std::int64_t dimension_;
  std::size_t kept_ = static_cast<std::size_t>(-1);
  std::vector<float> features_;  // (dimension, frames) of the utterance `kept_`
  std::string reason_;           // why they could not be had
};

// Throws std::runtime_error where an engine's output is not one for the input.
void check_output(const Input& input, const Output& output, std::int64_t labels);

// The log-probabilities of one row. Throws InputError where one is no number.
Emission emission(const Output& output, std::size_t row);

// Collects the parts of split utterances.
class Joiner {
 public:
  Joiner(std::int64_t labels, std::int64_t stride) : labels_(labels), stride_(stride) {}

  // True where the utterance is complete: `emission` then holds all of it.
  bool add(const Row& row, Emission& emission);

 private:
  const std::int64_t labels_, stride_;
  std::map<std::size_t, std::vector<Part>> waiting_;
};

}  // namespace speech::internal
