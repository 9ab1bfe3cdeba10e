#include "speech/recognizer.h"

#include <cmath>
#include <functional>
#include <mutex>
#include <optional>
#include <set>

#include "batch.h"
#include "description.h"
#include "engine.h"
#include "errors.h"
#include "frontend.h"
#include "memory.h"
#include "plan.h"
#include "stream.h"
#include "transcript.h"

namespace speech {
namespace {

using internal::Emission;
using internal::SpeechSamples;
using internal::Utterance;

const char* const kFeatures = "the features";  // in the place of a file, in messages

// Features of the utterances of one call.
class FeaturesInMemory : public internal::FeatureSource {
 public:
  std::vector<float> features(std::size_t index, const Utterance&) const override {
    return values.at(index);
  }

  std::vector<std::vector<float>> values;
};

std::string name_of(const char* what, std::size_t index) {
  return std::string(what) + " " + std::to_string(index);
}

// What `action` returns; the message of an InputError gets the name in front.
template <class Action>
auto with_name(const std::string& name, Action action) {
  try {
    return action();
  } catch (const InputError& error) {
    throw InputError(name + ": " + error.what());
  }
}

std::string default_target(const internal::Description& description) {
  return description.device == "Ascend" ? "Ascend" : "CPU";
}

}  // namespace

struct Recognizer::Impl {
  Impl(const std::filesystem::path& model, const RecognizerOptions& options)
      : description(internal::describe_model(model)),
        plan_options{options.batch_size, options.max_frames * description.hop,
                     options.overlap < 0 ? -1 : options.overlap * description.hop} {
    if (options.batch_size < 1 || options.max_frames < 0 || options.overlap < -1)
      throw ModelError("batch_size " + std::to_string(options.batch_size) + ", max_frames " +
                       std::to_string(options.max_frames) + ", overlap " +
                       std::to_string(options.overlap) +
                       ": expected at least 1, at least 0, and at least -1");
    const std::string target =
        options.target.empty() ? default_target(description) : options.target;
    notes = internal::check_models(description, target);
    const internal::EngineKind& kind =
        internal::choose_engine(options.engine, target, description.buckets.front().file);
    budget = internal::memory_budget(description, target, 1);
    if (budget) plan_options.most = budget->most_frames() * description.hop;
    if ((description.takes_samples || description.features != nullptr) && internal::kReadsAudio)
      frontend = std::make_unique<const internal::Frontend>(description);
    const internal::EngineOptions engine_options{target, options.device, options.threads,
                                                 options.precision, options.python};
    make_engine = [&kind, engine_options] { return kind.make(engine_options); };
    engine = make_engine();
    load(0);  // so that a device that is not there is known now
  }

  // Makes a shape of the network ready; the others are when they are needed. Call under the lock,
  // or in the constructor.
  void load(std::size_t bucket) {
    if (loaded.count(bucket) > 0) return;
    engine->load(description, {bucket});
    loaded.insert(bucket);
  }

  void run(internal::Batch& batch) {
    const std::lock_guard lock(mutex);
    if (!engine) engine = make_engine();
    try {
      load(batch.bucket);
      engine->run(batch.bucket, batch.input, batch.output);
    } catch (...) {  // an engine that failed, for want of memory, may fail on all further batches
      engine.reset();  // its memory first; the next call makes another
      loaded.clear();
      throw;
    }
  }

  std::vector<Transcript> transcribe(const std::vector<Utterance>& utterances,
                                     const FeaturesInMemory& source) {
    std::vector<Transcript> transcripts(utterances.size());
    if (utterances.empty()) return transcripts;
    for (const Utterance& utterance : utterances) check_memory(utterance);
    const internal::Plan plan = internal::make_plan(utterances, description, plan_options);
    internal::Loader loader(utterances, source, description.dimension);
    internal::Joiner joiner(description.labels, description.frame_stride);
    for (const internal::Job& job : plan.jobs)
      for (const internal::PlannedBatch& planned : job) {
        internal::Batch batch =
            loader.load(planned, [&](std::size_t index, const std::string& reason) {
              throw InputError(utterances[index].name + ": " + reason);
            });
        run(batch);
        internal::check_output(batch.input, batch.output, description.labels);
        for (std::size_t row = 0; row < batch.rows.size(); ++row) {
          const std::size_t index = batch.rows[row].utterance;
          Emission whole = with_name(utterances[index].name,
                                     [&] { return internal::emission(batch.output, row); });
          if (joiner.add(batch.rows[row], whole))
            transcripts[index] = internal::transcript_of(
                whole, description,
                utterances[index].start_s +
                    description.frame_seconds * static_cast<double>(whole.start));
        }
      }
    return transcripts;
  }

  // Throws InputError for an utterance that is too long for the memory.
  void check_memory(const Utterance& utterance) const {
    if (!budget) return;
    const auto frames =
        internal::longest_input(utterance.frames, description, plan_options) / description.hop;
    if (frames <= budget->most_frames()) return;
    throw InputError(
        utterance.name + ": " +
        budget->reason(frames, description.frame_seconds * static_cast<double>(description.hop),
                       "max_frames"));
  }

  const internal::Description description;
  internal::PlanOptions plan_options;
  std::optional<internal::MemoryBudget> budget;
  std::vector<std::string> notes;
  std::unique_ptr<const internal::Frontend> frontend;  // null where it takes features alone

  std::function<std::unique_ptr<internal::Engine>()> make_engine;

  std::mutex mutex;  // guards what follows
  std::unique_ptr<internal::Engine> engine;
  std::set<std::size_t> loaded;  // indices in description.buckets
};

Recognizer::Recognizer(const std::filesystem::path& model, const RecognizerOptions& options)
    : impl_(std::make_unique<Impl>(model, options)) {}

Recognizer::Recognizer(Recognizer&&) noexcept = default;
Recognizer& Recognizer::operator=(Recognizer&&) noexcept = default;
Recognizer::~Recognizer() = default;

Transcript Recognizer::transcribe(const std::vector<float>& samples,
                                  std::int64_t sample_rate) const {
  return transcribe(Audio{samples, sample_rate});
}

Transcript Recognizer::transcribe(const Audio& recording) const {
  return transcribe(std::vector<Audio>{recording}).front();
}

std::vector<Transcript> Recognizer::transcribe(const std::vector<Audio>& recordings) const {
  if (impl_->frontend == nullptr)
    throw ModelError(impl_->description.path.string() +
                     (internal::kReadsAudio
                          ? ": has no \"features\": give features instead of recordings"
                          : ": the library was built without audio: give features instead"));
  std::vector<Utterance> utterances;
  FeaturesInMemory source;
  for (const Audio& recording : recordings) {
    const std::string name = name_of("recording", utterances.size());
    SpeechSamples samples = with_name(
        name, [&] { return impl_->frontend->prepare(recording.samples, recording.sample_rate); });
    utterances.push_back({name, kFeatures, samples.frames, 0, samples.start_s});
    source.values.push_back(impl_->frontend->inputs(std::move(samples)));
  }
  return impl_->transcribe(utterances, source);
}

std::vector<Transcript> Recognizer::transcribe(const std::vector<Features>& features) const {
  if (impl_->description.takes_samples)
    throw ModelError(impl_->description.path.string() +
                     ": computes the features itself: give recordings instead");
  std::vector<Utterance> utterances;
  FeaturesInMemory source;
  for (const Features& one : features) {
    const std::string name = name_of("utterance", utterances.size());
    with_name(name, [&] { internal::check_frames(one.frames); });
    if (one.values.size() != static_cast<std::size_t>(one.frames * bins()))
      throw InputError(name + ": " + std::to_string(one.values.size()) + " values, expected " +
                       std::to_string(one.frames) + " frames of " + std::to_string(bins()) +
                       " bins");
    utterances.push_back({name, kFeatures, one.frames, 0, 0});
    source.values.push_back(one.values);
  }
  return impl_->transcribe(utterances, source);
}

std::int64_t Recognizer::sample_rate() const {
  return impl_->frontend != nullptr ? impl_->frontend->sample_rate() : 0;
}

std::int64_t Recognizer::bins() const {
  return impl_->description.takes_samples ? 0 : impl_->description.dimension;
}

const std::vector<std::string>& Recognizer::labels() const {
  return impl_->description.vocabulary.labels;
}

const std::vector<std::string>& Recognizer::notes() const { return impl_->notes; }

struct StreamingRecognizer::Impl {
  Impl(const std::filesystem::path& model, const StreamingOptions& options)
      : Impl(internal::describe_stream(model), options) {}

  Impl(const internal::Description& description, const StreamingOptions& options)
      : stream(checked(description), internal::make_stream_network(description, options.threads),
               options) {}

  static const internal::Description& checked(const internal::Description& description) {
    internal::check_models(description, "CPU");
    return description;
  }

  internal::TextStream stream;
};

StreamingRecognizer::StreamingRecognizer(const std::filesystem::path& model,
                                         const StreamingOptions& options)
    : impl_(std::make_unique<Impl>(model, options)) {}

StreamingRecognizer::StreamingRecognizer(StreamingRecognizer&&) noexcept = default;
StreamingRecognizer& StreamingRecognizer::operator=(StreamingRecognizer&&) noexcept = default;
StreamingRecognizer::~StreamingRecognizer() = default;

std::vector<Transcript> StreamingRecognizer::accept(const std::vector<float>& samples) {
  return impl_->stream.accept(samples);
}

std::string StreamingRecognizer::result() const { return impl_->stream.result(); }

std::vector<Transcript> StreamingRecognizer::finish() { return impl_->stream.finish(); }

std::int64_t StreamingRecognizer::sample_rate() const { return impl_->stream.sample_rate(); }

}  // namespace speech
