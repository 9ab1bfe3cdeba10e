// The plan of a run: which utterances, or parts of them, form a batch.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

#include "description.h"
#include "utterance.h"

namespace speech::internal {

// A part of an utterance, or all of it: feature frames from `start` on.
struct Row {
  std::size_t utterance = 0;  // index in the list
  std::int64_t start = 0;
  std::int64_t frames = 0;
  std::size_t parts = 1;  // number of parts of the utterance
};

struct PlannedBatch {
  std::size_t bucket = 0;
  std::int64_t batch = 0;   // rows of the input, at least as many as `rows`
  std::int64_t frames = 0;  // of the input
  std::vector<Row> rows;
};

// What one process takes at a time: a batch, or all parts of a long utterance, which it then joins.
using Job = std::vector<PlannedBatch>;

struct Plan {
  std::vector<Job> jobs;             // the longest first
  std::vector<std::size_t> buckets;  // those in use
  std::size_t split = 0;             // utterances that are split
  std::int64_t longest = 0;          // frames, that a part may have
  std::int64_t overlap = 0;          // frames, that two parts share at least
};

struct PlanOptions {
  std::int64_t batch = 1;     // utterances, where a bucket leaves them open
  std::int64_t longest = 0;   // frames, where a bucket leaves them open; 0: any
  std::int64_t overlap = -1;  // -1: a fifth of the longest part
  std::int64_t most = 0;      // frames of all rows of a batch together, where open; 0: any
};

// Returns the frames of the longest input that an utterance of so many frames gives, alone or in
// parts.
std::int64_t longest_input(std::int64_t frames, const Description& description,
                           const PlanOptions& options);

// Splits `frames` frames evenly into parts of at most `longest` frames, of which neighbours share
// at least `overlap`. Returns where the parts start: multiples of `stride`, so that the output
// frames of the parts coincide. The last part ends with the utterance.
std::vector<std::int64_t> part_starts(std::int64_t frames, std::int64_t longest,
                                      std::int64_t overlap, std::int64_t stride);

// Plans the batches of the utterances whose index is `wanted`; all of them where it is empty.
// Throws UsageError if an utterance must be split and cannot be.
Plan make_plan(const std::vector<Utterance>& utterances, const Description& description,
               const PlanOptions& options, const std::function<bool(std::size_t)>& wanted = {});

}  // namespace speech::internal
