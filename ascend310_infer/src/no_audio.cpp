// In the place of audio.cpp, featurizer.cpp, frontend.cpp and streaming_features.cpp where their libraries are missing.

#include "audio.h"
#include "errors.h"
#include "frontend.h"
#include "streaming_features.h"

namespace speech {
namespace {

[[noreturn]] void refuse() {
  throw internal::UsageError(
      "this program was built without audio: build.sh says which packages it lacks; or give "
      "features (--index)");
}

}  // namespace

Audio read_audio(const std::filesystem::path&) { refuse(); }

namespace internal {

const bool kReadsAudio = false;

struct Frontend::Impl {};

Frontend::Frontend(const Description&) { refuse(); }
Frontend::~Frontend() = default;
std::int64_t Frontend::sample_rate() const { refuse(); }
bool Frontend::trims_silence() const { refuse(); }
std::int64_t Frontend::frames(std::int64_t) const { refuse(); }
std::int64_t Frontend::resampled_count(std::int64_t, std::int64_t) const { refuse(); }
SpeechSamples Frontend::prepare(std::vector<float>, std::int64_t) const { refuse(); }
std::vector<float> Frontend::inputs(SpeechSamples) const { refuse(); }
struct StreamingFeatures::Impl {};

StreamingFeatures::StreamingFeatures(const Description&) { refuse(); }
StreamingFeatures::~StreamingFeatures() = default;
std::int64_t StreamingFeatures::sample_rate() const { refuse(); }
Frames StreamingFeatures::accept(std::vector<float>) { refuse(); }
Frames StreamingFeatures::finish() { refuse(); }
AudioInfo audio_info(const fs::path&) { refuse(); }

}  // namespace internal
}  // namespace speech
