#include "frontend.h"

#include <cmath>
#include <optional>
#include <stdexcept>
#include <utility>

#include "audio.h"
#include "errors.h"
#include "featurizer.h"
#include "utterance.h"

namespace speech::internal {
namespace {

FeatureConfig config_of(const Description& description) {
  try {
    if (description.features == nullptr) throw std::invalid_argument("has no \"features\"");
    const FeatureConfig config = parse_features(*description.features);
    if (config.dimension() != description.dimension)
      throw std::invalid_argument("features of " + std::to_string(config.dimension()) +
                                  " bins, where the inputs have " +
                                  std::to_string(description.dimension));
    return config;
  } catch (const std::invalid_argument& error) {
    throw UsageError(description.path.string() + ": " + error.what());
  }
}

}  // namespace

const bool kReadsAudio = true;

struct Frontend::Impl {
  explicit Impl(const Description& description) {
    if (description.takes_samples) {
      sample_rate = std::llround(1 / description.frame_seconds);
      return;
    }
    const FeatureConfig config = config_of(description);
    sample_rate = config.sample_rate;
    trims_silence = config.trims_silence;
    try {
      featurizer.emplace(config);
    } catch (const std::invalid_argument& error) {
      throw UsageError(description.path.string() + ": " + error.what());
    }
  }

  std::int64_t sample_rate = 0;
  bool trims_silence = false;            // here, and not in the network
  std::optional<Featurizer> featurizer;  // none for a model that takes samples
};

Frontend::Frontend(const Description& description)
    : impl_(std::make_unique<const Impl>(description)) {}

Frontend::~Frontend() = default;

std::int64_t Frontend::sample_rate() const { return impl_->sample_rate; }

bool Frontend::trims_silence() const { return impl_->trims_silence; }

std::int64_t Frontend::frames(std::int64_t samples) const {
  if (!impl_->featurizer || samples <= 0) return samples;
  return impl_->featurizer->frames(samples);
}

std::int64_t Frontend::resampled_count(std::int64_t count, std::int64_t from_rate) const {
  return internal::resampled_count(count, from_rate, sample_rate());
}

SpeechSamples Frontend::prepare(std::vector<float> samples, std::int64_t from_rate) const {
  SpeechSamples result;
  result.samples = resample(std::move(samples), from_rate, sample_rate());
  if (impl_->featurizer && !result.samples.empty()) {
    const auto [begin, end] = impl_->featurizer->sound_range(result.samples);
    result.samples.resize(end);
    result.samples.erase(result.samples.begin(),
                         result.samples.begin() + static_cast<std::ptrdiff_t>(begin));
    result.start_s = static_cast<double>(begin) / static_cast<double>(sample_rate());
  }
  result.frames = frames(static_cast<std::int64_t>(result.samples.size()));
  check_frames(result.frames);
  return result;
}

std::vector<float> Frontend::inputs(SpeechSamples samples) const {
  if (!impl_->featurizer) return std::move(samples.samples);
  return (*impl_->featurizer)(samples.samples);
}

}  // namespace speech::internal
