#include "batch.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <exception>
#include <new>
#include <stdexcept>

#include "errors.h"

namespace speech::internal {

Input zero_input(const Bucket& bucket, std::int64_t dimension) {
  Input input;
  input.batch = bucket.batch != 0 ? bucket.batch : 1;
  input.dimension = dimension;
  input.frames = bucket.frames != 0 ? bucket.frames : 64;
  input.features.resize(static_cast<std::size_t>(input.batch * dimension * input.frames));
  input.lengths.assign(static_cast<std::size_t>(input.batch),
                       static_cast<std::int32_t>(input.frames));
  return input;
}

std::string Loader::prepare(const PlannedBatch& planned, Batch& batch) const {
  batch.started = Clock::now();
  batch.bucket = planned.bucket;
  batch.input.batch = planned.batch;
  batch.input.dimension = dimension_;
  batch.input.frames = planned.frames;
  try {
    batch.input.features.resize(
        static_cast<std::size_t>(planned.batch * dimension_ * planned.frames));
    batch.input.lengths.resize(static_cast<std::size_t>(planned.batch));
  } catch (const std::exception&) {  // std::bad_alloc, or std::length_error
    return "not enough memory for " + std::to_string(planned.batch) + " x " +
           std::to_string(planned.frames) + " frames";
  }
  return {};
}

std::string Loader::add(const Row& row, Batch& batch) {
  const Utterance& utterance = utterances_[row.utterance];
  if (kept_ != row.utterance) {
    kept_ = row.utterance;
    reason_.clear();
    try {
      features_ = source_.features(row.utterance, utterance);
      if (!std::all_of(features_.begin(), features_.end(),
                       [](float x) { return std::isfinite(x); }))
        reason_ = utterance.file.string() + ": holds values that are no numbers";
    } catch (const InputError& error) {
      reason_ = error.what();
    } catch (const std::bad_alloc&) {
      reason_ = utterance.file.string() + ": not enough memory";
    }
  }
  if (!reason_.empty()) return reason_;
  const auto at = static_cast<std::int64_t>(batch.rows.size());
  for (std::int64_t bin = 0; bin < dimension_; ++bin)
    std::memcpy(batch.input.features.data() + (at * dimension_ + bin) * batch.input.frames,
                features_.data() + bin * utterance.frames + row.start,
                static_cast<std::size_t>(row.frames) * sizeof(float));
  batch.input.lengths[batch.rows.size()] = static_cast<std::int32_t>(row.frames);
  batch.rows.push_back(row);
  return {};
}

// Fills unused rows of a fixed batch size with copies of the last one: an empty row could divide by
// its length of 0.
void Loader::fill_up(Batch& batch) const {
  if (batch.rows.empty()) return;
  const std::size_t size = static_cast<std::size_t>(dimension_ * batch.input.frames);
  const std::size_t last = batch.rows.size() - 1;
  for (std::size_t row = last + 1; row < batch.input.lengths.size(); ++row) {
    std::copy_n(batch.input.features.data() + last * size, size,
                batch.input.features.data() + row * size);
    batch.input.lengths[row] = batch.input.lengths[last];
  }
}

void check_output(const Input& input, const Output& output, std::int64_t labels) {
  if (!output.starts.empty() && output.starts.size() != input.lengths.size())
    throw std::runtime_error("the network gave " + std::to_string(output.starts.size()) +
                             " starts for " + std::to_string(input.lengths.size()) + " utterances");
  const auto count = static_cast<std::size_t>(output.frames * output.batch * output.labels);
  if (output.batch != input.batch || output.labels != labels || output.frames < 1 ||
      output.log_probs.size() != count || output.lengths.size() != input.lengths.size())
    throw std::runtime_error("the network gave (" + std::to_string(output.frames) + ", " +
                             std::to_string(output.batch) + ", " + std::to_string(output.labels) +
                             ") log-probabilities, described are (frames, " +
                             std::to_string(input.batch) + ", " + std::to_string(labels) + ")");
  for (const std::int32_t length : output.lengths)
    if (length < 0 || length > output.frames)
      throw std::runtime_error("the network gave a length of " + std::to_string(length) + " in " +
                               std::to_string(output.frames) + " frames");
}

Emission emission(const Output& output, std::size_t row) {
  Emission result;
  result.frames = output.lengths[row];
  if (!output.starts.empty()) result.start = output.starts[row];
  result.values.reserve(static_cast<std::size_t>(result.frames * output.labels));
  for (std::int64_t frame = 0; frame < result.frames; ++frame) {
    const auto from = output.log_probs.begin() +
                      (frame * output.batch + static_cast<std::int64_t>(row)) * output.labels;
    result.values.insert(result.values.end(), from, from + output.labels);
  }
  if (std::any_of(result.values.begin(), result.values.end(),
                  [](float x) { return std::isnan(x); }))
    throw InputError("the network gave values that are no numbers");
  return result;
}

bool Joiner::add(const Row& row, Emission& emission) {
  if (row.parts == 1) return true;
  std::vector<Part>& parts = waiting_[row.utterance];
  parts.push_back({row.start / stride_, std::move(emission)});
  if (parts.size() < row.parts) return false;
  std::sort(parts.begin(), parts.end(),
            [](const Part& a, const Part& b) { return a.start < b.start; });
  emission = join(parts, labels_);
  waiting_.erase(row.utterance);
  return true;
}

}  // namespace speech::internal
