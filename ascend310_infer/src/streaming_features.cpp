#include "streaming_features.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <stdexcept>
#include <utility>

#include "errors.h"
#include "featurizer.h"

namespace speech::internal {
namespace {

// As in common/audio/normalisation.py.
constexpr double kSlidingSeconds = 10.0, kFirstSeconds = 1.0;

std::size_t frames_of(double seconds, const FeatureConfig& config) {
  const double frames = seconds * static_cast<double>(config.sample_rate) /
                        static_cast<double>(config.hop_length());
  return static_cast<std::size_t>(std::max(1LL, std::llrint(frames)));
}

FeatureConfig config_of(const Description& description) {
  try {
    if (description.features == nullptr) throw std::invalid_argument("has no \"features\"");
    return parse_features(*description.features);
  } catch (const std::invalid_argument& error) {
    throw UsageError(description.path.string() + ": " + error.what());
  }
}

void append(std::vector<float>& all, const std::vector<float>& more) {
  all.insert(all.end(), more.begin(), more.end());
}

}  // namespace

SlidingNormalisation::SlidingNormalisation(const FeatureConfig& config)
    : over_bins_(!config.mel()),
      biased_(config.plain() || config.convention == "jasper-mindspore"),
      adds_deviation_(config.adds_deviation()),
      first_(frames_of(kFirstSeconds, config)) {
  window_ = std::max(first_, frames_of(kSlidingSeconds, config));
}

Frames SlidingNormalisation::accept(Frames energies) {
  Frames ready;
  for (std::vector<float>& frame : energies) {
    kept_.push_back(std::move(frame));
    if (started_) {
      if (kept_.size() > window_) kept_.pop_front();
      ready.push_back(normalised(kept_.back()));
    } else if (kept_.size() == first_) {
      ready = start();
    }
  }
  return ready;
}

Frames SlidingNormalisation::finish() { return started_ ? Frames{} : start(); }

Frames SlidingNormalisation::start() {
  started_ = true;
  Frames ready;
  for (const std::vector<float>& frame : kept_) ready.push_back(normalised(frame));
  return ready;
}

// Normalises a frame over those that are kept: a spectrogram as a whole, mel bands one by one.
std::vector<float> SlidingNormalisation::normalised(const std::vector<float>& frame) const {
  const std::size_t bins = frame.size(), group = over_bins_ ? bins : 1;
  const auto count = static_cast<double>(kept_.size() * group);
  const double divisor = biased_ ? count : std::max(count - 1, 1.0);
  std::vector<float> result(bins);
  for (std::size_t first = 0; first < bins; first += group) {
    double sum = 0, squares = 0;
    for (const std::vector<float>& each : kept_)
      for (std::size_t bin = first; bin < first + group; ++bin) sum += each[bin];
    const double mean = sum / count;
    for (const std::vector<float>& each : kept_)
      for (std::size_t bin = first; bin < first + group; ++bin)
        squares += (each[bin] - mean) * (each[bin] - mean);
    const double deviation = std::sqrt(squares / divisor);
    const double scale = adds_deviation_ ? deviation + kLeastDeviation
                                 : std::max(deviation, kLeastDeviation);
    for (std::size_t bin = first; bin < first + group; ++bin)
      result[bin] = static_cast<float>((frame[bin] - mean) / scale);
  }
  return result;
}

struct StreamingFeatures::Impl {
  explicit Impl(const Description& description)
      : config(config_of(description)), normalisation(config) {
    try {
      featurizer = std::make_unique<const Featurizer>(config);
    } catch (const std::invalid_argument& error) {
      throw UsageError(description.path.string() + ": " + error.what());
    }
  }

  // Subtracts a share of the sample before each; the first of all stays as it is.
  void emphasise(std::vector<float>& samples) {
    const auto share = static_cast<float>(config.preemphasis);
    if (share <= 0) return;
    for (float& sample : samples) {
      const float before = std::exchange(last, sample);
      sample -= share * before;
    }
  }

  // Log energies of the frames that lie in the first `count` padded samples.
  Frames complete(std::int64_t count) {
    const std::int64_t size = config.window_length(), hop = config.hop_length();
    Frames frames;
    if (count < size) return frames;
    const std::int64_t number = (count - size) / hop + 1;
    const std::vector<float> energies = featurizer->energies_of(padded_samples.data(), number);
    frames.resize(static_cast<std::size_t>(number));
    for (std::size_t at = 0; at < energies.size(); ++at)
      frames[at % frames.size()].push_back(energies[at]);
    padded_samples.erase(padded_samples.begin(), padded_samples.begin() + number * hop);
    returned += number;
    return frames;
  }

  // Stacks each frame and those after it, which must have come, or be zeros past the end.
  Frames spliced(Frames frames, bool ended) {
    const auto later = static_cast<std::size_t>(config.splicing) - 1;
    if (later == 0) return frames;
    std::move(frames.begin(), frames.end(), std::back_inserter(unspliced));
    const std::size_t there = unspliced.size();
    const std::size_t ready = ended ? there : there - std::min(there, later);
    Frames result;
    for (std::size_t at = 0; at < ready; ++at) {
      std::vector<float>& stacked = result.emplace_back();
      for (std::size_t ahead = at; ahead <= at + later; ++ahead)
        if (ahead < there) append(stacked, unspliced[ahead]);
      stacked.resize(static_cast<std::size_t>(config.dimension()));
    }
    unspliced.erase(unspliced.begin(), unspliced.begin() + static_cast<std::ptrdiff_t>(ready));
    return result;
  }

  const FeatureConfig config;
  SlidingNormalisation normalisation;
  std::unique_ptr<const Featurizer> featurizer;
  std::vector<float> padded_samples;  // of the frames to come, with the edge
  std::vector<float> tail;            // the last samples, which the end is mirrored from
  float last = 0;                     // the last sample, before pre-emphasis
  bool started = false;
  std::int64_t received = 0, returned = 0;  // samples that came, frames that were returned
  Frames unspliced;
};

StreamingFeatures::StreamingFeatures(const Description& description)
    : impl_(std::make_unique<Impl>(description)) {}

StreamingFeatures::~StreamingFeatures() = default;

std::int64_t StreamingFeatures::sample_rate() const { return impl_->config.sample_rate; }

Frames StreamingFeatures::accept(std::vector<float> samples) {
  Impl& impl = *impl_;
  impl.emphasise(samples);
  impl.received += static_cast<std::int64_t>(samples.size());
  append(impl.tail, samples);
  if (impl.started) {
    append(impl.padded_samples, samples);
  } else if (impl.received > impl.config.before()) {
    impl.padded_samples = padded(impl.tail, impl.config.before(), 0, impl.config.pads_zeros());
    impl.started = true;
  }
  const auto needed = static_cast<std::size_t>(impl.config.window_length()) + 1;
  if (impl.started && impl.tail.size() > needed)
    impl.tail.erase(impl.tail.begin(), impl.tail.end() - static_cast<std::ptrdiff_t>(needed));
  Frames energies = impl.complete(static_cast<std::int64_t>(impl.padded_samples.size()));
  return impl.spliced(impl.normalisation.accept(std::move(energies)), false);
}

Frames StreamingFeatures::finish() {
  Impl& impl = *impl_;
  if (impl.received == 0) return {};
  const std::int64_t size = impl.config.window_length();
  const std::vector<float> right =
      padded(impl.tail, impl.started ? 0 : impl.config.before(), size, impl.config.pads_zeros());
  if (impl.started)
    impl.padded_samples.insert(impl.padded_samples.end(), right.end() - size, right.end());
  else
    impl.padded_samples = right;
  const std::int64_t missing = impl.featurizer->frames(impl.received) - impl.returned;
  Frames ready = impl.normalisation.accept(
      impl.complete(missing > 0 ? (missing - 1) * impl.config.hop_length() + size : 0));
  Frames rest = impl.normalisation.finish();
  std::move(rest.begin(), rest.end(), std::back_inserter(ready));
  return impl.spliced(std::move(ready), true);
}

}  // namespace speech::internal
