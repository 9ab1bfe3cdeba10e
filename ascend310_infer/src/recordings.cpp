#include "recordings.h"

#include <new>
#include <stdexcept>

#include "audio.h"
#include "errors.h"
#include "featurizer.h"

namespace infer {
namespace {

class Recorded : public Source {
 public:
  explicit Recorded(const FeatureConfig& config) : config_(config), featurizer_(config) {}

  std::vector<float> features(const Utterance& utterance) const override {
    std::vector<float> samples = load_audio(utterance.file, config_.sample_rate);
    trim(samples);
    const std::int64_t frames = frames_of(samples.size());
    if (frames != utterance.frames)
      throw InputError("has " + std::to_string(frames) + " frames, expected were " +
                       std::to_string(utterance.frames) + "; did it change just now?");
    return featurizer_(samples);
  }

  // What its header tells; where silence is left out, only its samples can.
  Utterance utterance(const std::string& path) const {
    const AudioInfo info = audio_info(path);
    Utterance found;
    found.name = path;
    found.file = path;
    found.duration_s = static_cast<double>(info.samples) / static_cast<double>(info.sample_rate);
    std::int64_t samples = samples_at(info, config_.sample_rate);
    if (config_.trims_silence) {
      std::vector<float> kept = load_audio(path, config_.sample_rate);
      found.start_s = static_cast<double>(trim(kept)) / static_cast<double>(config_.sample_rate);
      samples = static_cast<std::int64_t>(kept.size());
    }
    found.frames = frames_of(static_cast<std::size_t>(samples));
    check_frames(found.frames);
    return found;
  }

 private:
  // Samples that were left out at the start.
  std::size_t trim(std::vector<float>& samples) const {
    if (samples.empty()) return 0;
    const auto [begin, end] = featurizer_.loud(samples);
    samples.resize(end);
    samples.erase(samples.begin(), samples.begin() + static_cast<std::ptrdiff_t>(begin));
    return begin;
  }

  std::int64_t frames_of(std::size_t samples) const {
    return samples > 0 ? featurizer_.frames(static_cast<std::int64_t>(samples)) : 0;
  }

  const FeatureConfig config_;
  const Featurizer featurizer_;
};

}  // namespace

const bool kReadsAudio = true;

Recordings open_recordings(const std::vector<std::string>& paths, const Description& description) {
  std::unique_ptr<const Recorded> source;
  try {
    if (description.features == nullptr) throw std::invalid_argument("has no \"features\"");
    const FeatureConfig config = parse_features(*description.features);
    if (config.dimension() != description.dimension)
      throw std::invalid_argument("features of " + std::to_string(config.dimension()) +
                                  " bins, where the inputs have " +
                                  std::to_string(description.dimension));
    source = std::make_unique<Recorded>(config);
  } catch (const std::invalid_argument& error) {
    throw UsageError(description.path.string() + ": " + error.what());
  }
  Recordings recordings;
  for (const std::string& path : paths) {
    try {
      recordings.listing.good.push_back(source->utterance(path));
    } catch (const InputError& error) {
      recordings.listing.bad.push_back({path, error.what()});
    } catch (const std::bad_alloc&) {
      recordings.listing.bad.push_back({path, "not enough memory"});
    }
  }
  recordings.source = std::move(source);
  return recordings;
}

}  // namespace infer
