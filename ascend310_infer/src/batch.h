// Batches: features are padded into one, and its output is split into utterances again.
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
  std::vector<Row> rows;  // used rows; the input may have more, to fill its shape
  Input input;
  Output output;
  Clock::time_point started;
  double network_s = 0;
};

// Pads features into batches. Keeps the features of the last utterance, whose parts may follow.
class Loader {
 public:
  Loader(const std::vector<Utterance>& utterances, const FeatureSource& source,
         std::int64_t dimension)
      : utterances_(utterances), source_(source), dimension_(dimension) {}

  // Rows whose features cannot be read, are not finite, or do not fit into memory are left out, and
  // `failed` is called with the utterance's index and the reason. The batch may end up empty.
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
  // Return the reason of a failure, or an empty string.
  std::string prepare(const PlannedBatch& planned, Batch& batch) const;
  std::string add(const Row& row, Batch& batch);
  void fill_up(Batch& batch) const;

  const std::vector<Utterance>& utterances_;
  const FeatureSource& source_;
  const std::int64_t dimension_;
  std::size_t kept_ = static_cast<std::size_t>(-1);
  std::vector<float> features_;  // (dimension, frames) of the utterance `kept_`
  std::string reason_;           // why they could not be read; empty: they were
};

// Throws std::runtime_error if the shape of an output does not fit its input.
void check_output(const Input& input, const Output& output, std::int64_t labels);

// Returns the log-probabilities of one row. Throws InputError if one is NaN.
Emission emission(const Output& output, std::size_t row);

// Collects the parts of split utterances.
class Joiner {
 public:
  Joiner(std::int64_t labels, std::int64_t stride) : labels_(labels), stride_(stride) {}

  // Returns true if this was the last part; `emission` then holds the whole utterance.
  bool add(const Row& row, Emission& emission);

 private:
  const std::int64_t labels_, stride_;
  std::map<std::size_t, std::vector<Part>> waiting_;
};

}  // namespace speech::internal
