// The public header alone, with an engine that is a formula: see engine_fake.cpp. Output frame t
// names the largest bin of feature frame 2 t.

#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <random>
#include <thread>

#include "samples.h"
#include "speech/recognizer.h"

using speech::Audio;
using speech::Features;
using speech::InputError;
using speech::ModelError;
using speech::Recognizer;
using speech::Transcript;

namespace {

// A model of four bins and the labels A, B, "é", space and blank. Its window of 31 ms is 31 x 16
// samples, so that the Fourier transform has a factor for which it needs a buffer.
struct Model {
  explicit Model(const std::string& features, const std::string& buckets = "") {
    path = folder.path / "m.json";
    std::string text = samples::kDescription;
    const auto start = text.find("\"features\": {");
    text = text.substr(0, start) + "\"features\": " + features + "}";
    if (!buckets.empty())
      text.replace(text.find("\"file\""), 0, "\"buckets\": [" + buckets + "], ");
    samples::write(path, text);
    samples::write(folder.path / "m.mindir", std::string(samples::kModel));
  }
  samples::Folder folder;
  std::filesystem::path path;
};

const char* const kLogMel =
    R"({"kind": "logmel", "sample_rate": 16000, "window_size": 0.031, "window_stride": 0.015,
        "window": "hann", "bands": 4, "convention": "jasper-nvidia", "trim_silence": true})";
const char* const kSpectrogram =
    R"({"kind": "spectrogram", "sample_rate": 1000, "window_size": 0.006, "window_stride": 0.003,
        "window": "hann"})";

// Features whose output frames name the labels of `text` ("e" is the third of them).
Features spelled(const std::string& text) {
  const std::string bins = "ABe ";
  Features features;
  features.frames = static_cast<std::int64_t>(2 * text.size());
  for (const char bin : bins)
    for (const char c : text) features.values.insert(features.values.end(), 2, c == bin ? 5.0F : 0);
  return features;
}

Audio noise(unsigned seed, std::size_t count, std::int64_t rate) {
  std::mt19937 random(seed);
  std::uniform_real_distribution<float> value(-0.5F, 0.5F);
  Audio audio{std::vector<float>(count), rate};
  for (float& sample : audio.samples) sample = value(random);
  return audio;
}

bool equal(const Transcript& a, const Transcript& b) {
  if (a.text != b.text || a.words.size() != b.words.size()) return false;
  for (std::size_t i = 0; i < a.words.size(); ++i)
    if (a.words[i].text != b.words[i].text || a.words[i].start != b.words[i].start ||
        a.words[i].end != b.words[i].end || a.words[i].confidence != b.words[i].confidence)
      return false;
  return true;
}

}  // namespace

TEST_CASE("features become text and words with times and confidence") {
  const Model model(kLogMel);
  const Recognizer recognizer(model.path);
  CHECK(recognizer.bins() == 4);
  CHECK(recognizer.labels().size() == 5);
  CHECK(recognizer.notes().size() == 1);  // of an earlier export.py
  const auto transcripts =
      recognizer.transcribe(std::vector<Features>{spelled("BBe A"), spelled("A"), spelled(" ")});
  REQUIRE(transcripts.size() == 3);
  const Transcript& first = transcripts[0];
  CHECK(first.text == "B\xC3\xA9 A");
  REQUIRE(first.words.size() == 2);
  CHECK(first.words[0].text == "B\xC3\xA9");
  CHECK(first.words[0].start == 0);
  CHECK(first.words[0].end == doctest::Approx(3 * 0.03));
  CHECK(first.words[1].text == "A");
  CHECK(first.words[1].start == doctest::Approx(4 * 0.03));
  CHECK(first.words[1].end == doctest::Approx(5 * 0.03));
  // The formula: softmax over five labels, of which one is 5 and the others 0; the blank has the
  // bin of A.
  CHECK(first.words[0].confidence == doctest::Approx(std::exp(5) / (std::exp(5) + 4)));
  CHECK(first.words[1].confidence == doctest::Approx(std::exp(5) / (2 * std::exp(5) + 3)));
  CHECK(first.confidence > first.words[1].confidence);
  CHECK(transcripts[1].text == "A");
  CHECK(transcripts[2].text.empty());
  CHECK(transcripts[2].words.empty());
  CHECK(recognizer.transcribe(std::vector<Features>{}).empty());
}

TEST_CASE("a model that takes samples is given them, and its starts count") {
  const samples::Folder folder;
  std::string text = samples::kDescription;
  const std::string inputs = R"({"name": "features", "shape": [-1, 4, -1]})";
  text.replace(text.find(inputs), inputs.size(), R"({"name": "samples", "shape": [-1, -1]})");
  text.insert(1, R"("input": "samples", )");
  samples::write(folder.path / "m.json", text);
  samples::write(folder.path / "m.mindir", std::string(samples::kModel));
  const Recognizer recognizer(folder.path / "m.json");
  CHECK(recognizer.sample_rate() == 16000);
  CHECK(recognizer.bins() == 0);
  // The formula sees one bin, so that all labels are equal and the first one wins: a single word
  // over all output frames, of 2 x 240 samples each.
  const auto words = [&](std::size_t count) {
    return recognizer.transcribe(std::vector<float>(count, 0.1F), 16000).words;
  };
  REQUIRE(words(4800).size() == 1);
  CHECK(words(4800)[0].text == "A");
  CHECK(words(4800)[0].start == 0);
  CHECK(words(4800)[0].end == doctest::Approx(0.3));
  CHECK(words(1)[0].end == doctest::Approx(0.03));
  ::setenv("FAKE_STARTS", "1600", 1);
  CHECK(words(4800)[0].start == doctest::Approx(0.1));
  ::unsetenv("FAKE_STARTS");
  CHECK_THROWS_AS(recognizer.transcribe(std::vector<float>{}, 16000), InputError);
  CHECK_THROWS_WITH_AS(recognizer.transcribe(std::vector<Features>{{{1}, 1}}),
                       doctest::Contains("give recordings"), ModelError);
}

TEST_CASE("a recognizer whose engine failed goes on with another") {
  const Model model(kLogMel);
  const Recognizer recognizer(model.path);
  const auto text = [&](const std::string& spelling) {
    return recognizer.transcribe(std::vector<Features>{spelled(spelling)}).front().text;
  };
  ::setenv("FAKE_BREAK", "10", 1);
  CHECK_THROWS_WITH(text("A B A B A"), doctest::Contains("could not create a primitive"));
  CHECK(text("A") == "A");
  ::unsetenv("FAKE_BREAK");
}

TEST_CASE("what is too long for the memory is an error of that utterance") {
  // A frame takes a hundred million gigabytes.
  const Model model(std::string(kLogMel) +
                    R"(, "memory": {"fixed_bytes": 1, "bytes_per_frame": 1e17})");
  const Recognizer recognizer(model.path);
  CHECK_THROWS_WITH_AS(recognizer.transcribe(std::vector<Features>{spelled("AB")}),
                       doctest::Contains("utterance 0: 0 s take about"), InputError);
}

TEST_CASE("utterances come back in their order whatever the buckets and parts") {
  const Model model(kLogMel, R"({"file": "m.mindir", "batch_size": 2, "frames": 8},
                                {"file": "m.mindir", "batch_size": 1, "frames": 20})");
  const Recognizer recognizer(model.path);
  std::vector<Features> utterances;
  std::vector<std::string> expected;
  for (int i = 0; i < 23; ++i) {
    std::string text;
    for (int k = 0; k <= i; ++k) text += (i + k) % 3 == 0 ? 'B' : 'A';
    utterances.push_back(spelled(text));
    text.erase(std::unique(text.begin(), text.end()), text.end());
    expected.push_back(text);
  }
  std::swap(utterances[0], utterances[22]);
  std::swap(expected[0], expected[22]);
  const auto transcripts = recognizer.transcribe(utterances);
  for (std::size_t i = 0; i < expected.size(); ++i) CHECK(transcripts[i].text == expected[i]);
}

TEST_CASE("a model that cannot be used is refused in one line") {
  const Model model(kLogMel);
  const auto refused = [&](const std::filesystem::path& path, const char* said,
                           const speech::RecognizerOptions& options = {}) {
    CHECK_THROWS_WITH_AS(Recognizer(path, options), doctest::Contains(said), ModelError);
  };
  speech::RecognizerOptions options;
  refused("none.mindir", "none.json: No such file");
  options.engine = "lite";
  refused(model.path, "built with fake alone", options);
  options = {};
  options.device = 9;
  refused(model.path, "device 9 is not there", options);
  options = {};
  options.target = "Ascend";
  refused(model.path, "made for CPU, not for Ascend", options);
  options = {};
  options.batch_size = 0;
  refused(model.path, "batch_size 0", options);
  refused(Model(R"({"kind": "logmel", "sample_rate": "fast"})").path, "sample_rate");
  refused(Model("{}", "{}").path, "has no \"file\"");
}

TEST_CASE("features that do not fit are refused by their number") {
  const Model model(kLogMel);
  const Recognizer recognizer(model.path);
  const auto refused = [&](const Features& bad, const char* said) {
    CHECK_THROWS_WITH_AS(recognizer.transcribe(std::vector<Features>{spelled("A"), bad}),
                         doctest::Contains(said), InputError);
  };
  refused({}, "utterance 1: has 0 frames");
  refused({{1, 2, 3}, -1}, "utterance 1: has -1 frames");
  refused({{1, 2, 3}, 1}, "utterance 1: 3 values, expected 1 frames of 4 bins");
  refused({{1, 2, 3, NAN}, 1}, "utterance 1: the features: holds values that are no numbers");
  refused({{1}, std::numeric_limits<std::int64_t>::max()}, "utterance 1: has 9223372036854775807");
  CHECK(recognizer.transcribe(std::vector<Features>{spelled("A")})[0].text == "A");
}

TEST_CASE("a model without features takes features alone") {
  const Model model("null");
  const Recognizer recognizer(model.path);
  CHECK(recognizer.sample_rate() == 0);
  CHECK_THROWS_WITH_AS(recognizer.transcribe(noise(1, 1000, 16000)),
                       doctest::Contains("give features"), ModelError);
  const Transcript transcript = recognizer.transcribe(std::vector<Features>{spelled("A")})[0];
  CHECK(transcript.text == "A");
  CHECK(std::isnan(transcript.words[0].start));
}

TEST_CASE("samples become text at any sample rate") {
  const Model model(kSpectrogram);
  const Recognizer recognizer(model.path);
  if (recognizer.sample_rate() == 0) return;  // built without audio
  // A tone in the middle of bin 1 of 4: 1000 Hz / 6. The largest bin is the second: B.
  for (const std::int64_t rate : {1000, 8000, 44100}) {
    Audio tone{std::vector<float>(static_cast<std::size_t>(rate)), rate};
    for (std::size_t i = 0; i < tone.samples.size(); ++i)
      tone.samples[i] =
          static_cast<float>(0.5 * std::sin(2 * 3.14159265358979 * 1000 / 6 *
                                            static_cast<double>(i) / static_cast<double>(rate)));
    const Transcript transcript = recognizer.transcribe(tone);
    CAPTURE(rate);
    CHECK(transcript.text.find('B') != std::string::npos);
    REQUIRE(!transcript.words.empty());
    CHECK(transcript.words.back().end <= 1.01);
    CHECK(equal(transcript, recognizer.transcribe(tone.samples, rate)));
  }
}

TEST_CASE("recordings that do not fit are refused by their number") {
  const Model model(kLogMel);
  const Recognizer recognizer(model.path);
  if (recognizer.sample_rate() == 0) return;  // built without audio
  const auto refused = [&](Audio bad, const char* said) {
    CHECK_THROWS_WITH_AS(recognizer.transcribe(std::vector<Audio>{noise(1, 900, 16000), bad}),
                         doctest::Contains(said), InputError);
  };
  Audio bad = noise(1, 900, 16000);
  refused({{}, 16000}, "recording 1: has 0 frames");
  refused({bad.samples, 0}, "recording 1: a sample rate of 0 Hz");
  refused({bad.samples, -8000}, "a sample rate of -8000 Hz");
  refused({bad.samples, std::numeric_limits<std::int64_t>::max()}, "a sample rate of 92233720");
  bad.samples[7] = NAN;
  bad.samples[8] = INFINITY;
  refused(bad, "recording 1: 2 of 900 samples are nan or infinite");
  CHECK_THROWS_WITH_AS(speech::read_audio(model.path), doctest::Contains("not audio"), InputError);
  CHECK_THROWS_WITH_AS(speech::read_audio("none.wav"), doctest::Contains("No such file"),
                       InputError);
}

TEST_CASE("fuzz recordings of all lengths, rates and values") {
  const Model model(kLogMel);
  const Recognizer recognizer(model.path);
  if (recognizer.sample_rate() == 0) return;  // built without audio
  std::mt19937 random(5);
  const auto below = [&random](int end) {
    return std::uniform_int_distribution<int>(0, end - 1)(random);
  };
  const float odd[] = {0, -0.0F, 1, -1, 3e38F, -3e38F, 1e-45F, NAN, INFINITY};
  const std::int64_t rates[] = {16000, 16000, 8000, 44100, 100, 0, -1, 10000000, 10000001};
  int recognized = 0, refused = 0;
  for (int i = 0; i < 300; ++i) {
    Audio audio = noise(static_cast<unsigned>(i), static_cast<std::size_t>(below(3) * below(900)),
                        rates[below(9)]);
    for (int k = below(3); k > 0 && !audio.samples.empty(); --k)
      audio.samples[static_cast<std::size_t>(below(static_cast<int>(audio.samples.size())))] =
          odd[below(9)];
    try {
      recognizer.transcribe(audio);
      ++recognized;
    } catch (const InputError& error) {
      ++refused;
      CHECK(std::string(error.what()).rfind("recording 0: ", 0) == 0);
    }
  }
  CHECK(recognized > 20);
  CHECK(refused > 20);
}

TEST_CASE("two threads start and use recognizers of their own, and share one") {
  const Model log_mel(kLogMel), spectrogram(kSpectrogram);
  std::vector<Audio> recordings;
  for (unsigned i = 0; i < 6; ++i)
    recordings.push_back(noise(i, 2000 + 300 * i, i % 2 == 0 ? 16000 : 11025));
  const Recognizer shared(log_mel.path);
  if (shared.sample_rate() == 0) return;  // built without audio
  std::vector<Transcript> expected[2];
  for (const Model* model : {&log_mel, &spectrogram})
    expected[model == &log_mel ? 0 : 1] = Recognizer(model->path).transcribe(recordings);
  std::atomic<int> ready{0}, wrong{0}, compared{0};
  const auto work = [&](const Model& model, const std::vector<Transcript>& own) {
    ++ready;
    while (ready < 2) std::this_thread::yield();  // start at the same time
    for (int round = 0; round < 5; ++round) {
      const Recognizer recognizer(model.path);
      const auto all = recognizer.transcribe(recordings);
      for (std::size_t i = 0; i < recordings.size(); ++i) {
        const Transcript one = shared.transcribe(recordings[i]);
        if (!equal(all[i], own[i]) || !equal(one, expected[0][i])) ++wrong;
        ++compared;
      }
    }
  };
  std::thread first([&] { work(log_mel, expected[0]); });
  std::thread second([&] { work(spectrogram, expected[1]); });
  first.join();
  second.join();
  CHECK(compared == 2 * 5 * 6);
  CHECK(wrong == 0);
}
