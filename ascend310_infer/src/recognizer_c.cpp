// The C interface on top of speech::Recognizer.

#include "speech/recognizer_c.h"

#include <cmath>
#include <deque>
#include <exception>
#include <limits>
#include <stdexcept>
#include <string>
#include <utility>

#include "speech/recognizer.h"

struct speech_recognizer {
  speech::Recognizer recognizer;
};

struct speech_result {
  speech::Transcript transcript;
};

struct speech_stream {
  speech::StreamingRecognizer recognizer;
  std::deque<speech::Transcript> finals;
  std::string partial;
};

namespace {

// A fixed size: keeping a message must not fail for want of memory.
thread_local char g_error[1024];

void keep(const char* message) noexcept {
  std::size_t size = 0;
  for (; message[size] != '\0' && size + 1 < sizeof g_error; ++size)
    g_error[size] = message[size] == '\n' ? ' ' : message[size];
  g_error[size] = '\0';
}

// What `action` returns; null, with the reason kept, if it throws.
template <class Action>
auto guarded(Action action) noexcept -> decltype(action()) {
  try {
    return action();
  } catch (const std::exception& error) {
    keep(error.what());
  } catch (...) {
    keep("an unknown error");
  }
  return nullptr;
}

template <class Pointer>
void require(const Pointer* pointer, const char* name) {
  if (pointer == nullptr) throw std::invalid_argument(std::string(name) + " is NULL");
}

// Keeps the texts that `action` returns; returns how many wait, or -1 if it throws.
template <class Action>
int64_t counted(speech_stream* stream, Action action) noexcept {
  const bool done = guarded([&] {
                      require(stream, "the stream");
                      for (speech::Transcript& final : action())
                        stream->finals.push_back(std::move(final));
                      return stream;
                    }) != nullptr;
  return done ? static_cast<int64_t>(stream->finals.size()) : -1;
}

}  // namespace

speech_recognizer* speech_recognizer_create(const char* model, const speech_options* options) {
  return guarded([&] {
    require(model, "the path of the model");
    speech::RecognizerOptions chosen;
    if (options != nullptr) {
      if (options->engine != nullptr) chosen.engine = options->engine;
      chosen.threads = options->threads;
      chosen.max_frames = options->max_frames;
    }
    return new speech_recognizer{speech::Recognizer(model, chosen)};
  });
}

void speech_recognizer_destroy(speech_recognizer* recognizer) { delete recognizer; }

int64_t speech_recognizer_sample_rate(const speech_recognizer* recognizer) {
  return recognizer != nullptr ? recognizer->recognizer.sample_rate() : 0;
}

speech_result* speech_recognizer_transcribe(const speech_recognizer* recognizer,
                                            const float* samples, size_t count,
                                            int64_t sample_rate) {
  return guarded([&] {
    require(recognizer, "the recognizer");
    if (count > 0) require(samples, "the samples");
    const std::vector<float> values(samples, samples + count);
    return new speech_result{recognizer->recognizer.transcribe(values, sample_rate)};
  });
}

speech_result* speech_recognizer_transcribe_file(const speech_recognizer* recognizer,
                                                 const char* path) {
  return guarded([&] {
    require(recognizer, "the recognizer");
    require(path, "the path of the recording");
    try {
      return new speech_result{recognizer->recognizer.transcribe(speech::read_audio(path))};
    } catch (const speech::InputError& error) {
      throw speech::InputError(std::string(path) + ": " + error.what());
    }
  });
}

const char* speech_result_text(const speech_result* result) {
  return result != nullptr ? result->transcript.text.c_str() : "";
}

double speech_result_confidence(const speech_result* result) {
  return result != nullptr ? result->transcript.confidence
                           : std::numeric_limits<double>::quiet_NaN();
}

size_t speech_result_word_count(const speech_result* result) {
  return result != nullptr ? result->transcript.words.size() : 0;
}

speech_word speech_result_word(const speech_result* result, size_t index) {
  constexpr double kUnknown = std::numeric_limits<double>::quiet_NaN();
  if (index >= speech_result_word_count(result)) return {nullptr, kUnknown, kUnknown, kUnknown};
  const speech::Word& word = result->transcript.words[index];
  return {word.text.c_str(), word.start, word.end, word.confidence};
}

void speech_result_destroy(speech_result* result) { delete result; }

speech_stream* speech_stream_create(const char* model, double pause) {
  return guarded([&] {
    require(model, "the path of the model");
    speech::StreamingOptions options;
    if (pause != 0) options.pause = pause;
    return new speech_stream{speech::StreamingRecognizer(model, options), {}, ""};
  });
}

void speech_stream_destroy(speech_stream* stream) { delete stream; }

int64_t speech_stream_sample_rate(const speech_stream* stream) {
  return stream != nullptr ? stream->recognizer.sample_rate() : 0;
}

int64_t speech_stream_accept(speech_stream* stream, const float* samples, size_t count) {
  return counted(stream, [&] {
    if (count > 0) require(samples, "the samples");
    return stream->recognizer.accept({samples, samples + count});
  });
}

int64_t speech_stream_finish(speech_stream* stream) {
  return counted(stream, [&] { return stream->recognizer.finish(); });
}

speech_result* speech_stream_next(speech_stream* stream) {
  if (stream == nullptr || stream->finals.empty()) return nullptr;
  return guarded([&] {
    auto* result = new speech_result{std::move(stream->finals.front())};
    stream->finals.pop_front();
    return result;
  });
}

const char* speech_stream_partial(speech_stream* stream) {
  const bool done = stream != nullptr && guarded([&] {
                      stream->partial = stream->recognizer.result();
                      return stream;
                    }) != nullptr;
  return done ? stream->partial.c_str() : "";
}

const char* speech_last_error(void) { return g_error; }
