#include "stream.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <utility>

#include "errors.h"
#include "transcript.h"

namespace speech::internal {
namespace {

constexpr std::int64_t kUnknown = std::int64_t{1} << 30;  // frames of what has not ended

}  // namespace

TextStream::TextStream(const Description& description, std::unique_ptr<StreamNetwork> network,
                       const StreamingOptions& options)
    : description_(description), network_(std::move(network)) {
  for (const double seconds : {options.pause, options.chunk})
    if (!(seconds > 0 && seconds < 1e4))
      throw UsageError("pause and chunk: expected seconds above 0");
  const std::int64_t stride = description.stream->stride;
  const double frame = description.frame_seconds * static_cast<double>(stride);
  chunk_ = stride * std::max(1LL, static_cast<long long>(std::ceil(options.chunk / frame - 1e-9)));
  pause_ = std::max(1LL, std::llrint(options.pause / frame));
  begin();
}

void TextStream::begin() {
  features_ = std::make_unique<StreamingFeatures>(description_);
  network_->reset();
  waiting_.clear();
  segment_ = {};
  given_ = before_ = quiet_ = 0;
  said_ = false;
}

std::vector<Transcript> TextStream::accept(std::vector<float> samples) {
  const auto bad = std::count_if(samples.begin(), samples.end(),
                                 [](float value) { return !std::isfinite(value); });
  if (bad > 0)
    throw InputError(std::to_string(bad) + " of " + std::to_string(samples.size()) +
                     " samples are nan or infinite; leave them out");
  return take(features_->accept(std::move(samples)), false);
}

std::vector<Transcript> TextStream::finish() {
  std::vector<Transcript> finals = take(features_->finish(), true);
  begin();
  return finals;
}

std::string TextStream::result() const {
  return transcript_of(segment_, description_, 0).text;
}

std::vector<Transcript> TextStream::take(Frames features, bool ended) {
  std::move(features.begin(), features.end(), std::back_inserter(waiting_));
  while (static_cast<std::int64_t>(waiting_.size()) >= chunk_) run(chunk_, kUnknown);
  const auto rest = static_cast<std::int64_t>(waiting_.size());
  if (ended && given_ + rest > 0) {
    const std::int64_t length = given_ + rest, stride = description_.stream->stride;
    const std::int64_t outputs = (length + stride - 1) / stride;
    // Zeros stand in the place of the frames that the network looks ahead.
    run((outputs + description_.stream->delay) * stride - given_, length);
    if (said_) close();
  }
  return std::exchange(finals_, {});
}

// Gives the network the next frames, zeros where there are no more.
void TextStream::run(std::int64_t frames, std::int64_t length) {
  const auto count = static_cast<std::size_t>(frames);
  const std::size_t there = std::min(count, waiting_.size());
  const auto bins = static_cast<std::size_t>(description_.dimension);
  std::vector<float> values(bins * count);
  for (std::size_t frame = 0; frame < there; ++frame)
    for (std::size_t bin = 0; bin < bins; ++bin)
      values[bin * count + frame] = waiting_[frame][bin];
  waiting_.erase(waiting_.begin(), waiting_.begin() + static_cast<std::ptrdiff_t>(there));
  const StreamOutput output = network_->run(values, frames, given_, length);
  given_ += frames;
  const std::int64_t stride = description_.stream->stride;
  const std::int64_t last = length == kUnknown ? output.first + output.frames
                                               : (length + stride - 1) / stride;
  for (std::int64_t frame = std::max<std::int64_t>(0, output.first);
       frame < std::min(last, output.first + output.frames); ++frame)
    hear(output.log_probs.data() + (frame - output.first) * description_.labels);
}

// Takes an output frame; a pause ends the segment.
void TextStream::hear(const float* log_probs) {
  segment_.values.insert(segment_.values.end(), log_probs, log_probs + description_.labels);
  ++segment_.frames;
  const auto best = static_cast<std::size_t>(
      std::max_element(log_probs, log_probs + description_.labels) - log_probs);
  const bool quiet =
      best == description_.vocabulary.blank || description_.vocabulary.labels[best] == " ";
  quiet_ = quiet ? quiet_ + 1 : 0;
  said_ = said_ || !quiet;
  if (quiet_ >= pause_) close();
}

// Ends the segment; one in which nothing was said is dropped.
void TextStream::close() {
  const double seconds =
      description_.frame_seconds * static_cast<double>(description_.stream->stride);
  if (said_)
    finals_.push_back(
        transcript_of(segment_, description_, seconds * static_cast<double>(before_)));
  before_ += segment_.frames;
  segment_ = {};
  quiet_ = 0;
  said_ = false;
}

}  // namespace speech::internal
