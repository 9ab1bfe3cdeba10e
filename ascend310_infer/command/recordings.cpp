#include "recordings.h"

#include <new>
#include <utility>

#include "audio.h"
#include "errors.h"
#include "frontend.h"

namespace speech::internal {
namespace {

class RecordingSource : public FeatureSource {
 public:
  explicit RecordingSource(const Description& description) : frontend_(description) {}

  std::vector<float> features(std::size_t, const Utterance& utterance) const override {
    SpeechSamples samples = samples_of(utterance.file);
    if (samples.frames != utterance.frames)
      throw InputError("has " + std::to_string(samples.frames) + " input frames, expected were " +
                       std::to_string(utterance.frames) + "; did it change just now?");
    return frontend_.inputs(std::move(samples));
  }

  // Its header tells the number of frames; where silence is left out, only its samples can.
  Utterance utterance(const std::string& path) const {
    const AudioInfo info = audio_info(path);
    Utterance utterance;
    utterance.name = path;
    utterance.file = path;
    utterance.duration_s =
        static_cast<double>(info.samples) / static_cast<double>(info.sample_rate);
    if (frontend_.trims_silence()) {
      const SpeechSamples samples = samples_of(path);
      utterance.start_s = samples.start_s;
      utterance.frames = samples.frames;
    } else {
      utterance.frames =
          frontend_.frames(frontend_.resampled_count(info.samples, info.sample_rate));
      check_frames(utterance.frames);
    }
    return utterance;
  }

 private:
  SpeechSamples samples_of(const fs::path& path) const {
    Audio audio = read_audio(path);
    return frontend_.prepare(std::move(audio.samples), audio.sample_rate);
  }

  const Frontend frontend_;
};

}  // namespace

Recordings open_recordings(const std::vector<std::string>& paths, const Description& description) {
  auto source = std::make_unique<const RecordingSource>(description);
  Recordings recordings;
  for (const std::string& path : paths) {
    try {
      recordings.list.accepted.push_back(source->utterance(path));
    } catch (const InputError& error) {
      recordings.list.rejected.push_back({path, error.what()});
    } catch (const std::bad_alloc&) {
      recordings.list.rejected.push_back({path, "not enough memory"});
    }
  }
  recordings.source = std::move(source);
  return recordings;
}

}  // namespace speech::internal
