/// @file
/// Speech recognition with a model that export.py wrote.
///
/// @code
/// speech::Recognizer recognizer("deepspeech2.onnx");
/// const speech::Transcript transcript = recognizer.transcribe(speech::read_audio("a.wav"));
/// std::cout << transcript.text << "\n";
/// @endcode
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#define SPEECH_API __attribute__((visibility("default")))

namespace speech {

/// The model, its description, or the device cannot be used. The message is one line.
struct SPEECH_API ModelError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// One recording or its features cannot be recognized. The message is one line.
struct SPEECH_API InputError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// A recording: one channel, full scale -1 to 1.
struct Audio {
  std::vector<float> samples;
  std::int64_t sample_rate = 0;  ///< Hz
};

/// Features as the model was trained on: (bin, frame), bin by bin.
struct Features {
  std::vector<float> values;  ///< `Recognizer::bins()` x `frames` values
  std::int64_t frames = 0;
};

/// A recognized word; each label is one where no label of the model is a space and the script
/// separates no words, as Han.
struct Word {
  std::string text;       ///< UTF-8
  double start = 0;       ///< s, from the start of the recording; NaN if the model does not tell
  double end = 0;         ///< s, likewise
  double confidence = 0;  ///< mean probability of its labels, 0 to 1
};

/// What was recognized in one recording.
struct Transcript {
  std::string text;  ///< UTF-8; empty if nothing was recognized
  std::vector<Word> words;
  double confidence = 0;  ///< mean probability of all labels, 0 to 1; NaN if there is none
};

/// How a model is run. The defaults suit a CPU.
struct RecognizerOptions {
  std::string target;           ///< "CPU" or "Ascend"; empty: what the model was exported for
  int device = 0;               ///< number of the card
  std::string engine;           ///< "openvino", "lite" or "wheel"; empty: the first for the model
  std::string precision;        ///< precision mode of an Ascend card; empty: preferred_fp32
  std::string python;           ///< Python of the engine "wheel"; empty: that of the build
  int threads = 0;              ///< on a CPU; 0: the engine's choice
  std::int64_t batch_size = 8;  ///< recordings at once, where the model leaves it open
  std::int64_t max_frames = 0;  ///< splits longer recordings, where the model takes any; 0: never
  std::int64_t overlap = -1;    ///< frames that two parts share; -1: a fifth of the longest part
};

/// How a stream is recognized.
struct StreamingOptions {
  int threads = 0;     ///< 0: the engine's choice
  double pause = 0.8;  ///< s without a letter, after which a text is final
  double chunk = 0.2;  ///< s of audio that the network takes at a time
};

/// Reads a recording (WAV, RF64, W64, FLAC, Ogg, MP3, SPHERE, AIFF, AU, CAF, VOC, SVX), completely
/// or not at all: how many samples there must be is taken from the structure of the file.
///
/// @param path The file.
/// @returns Its samples at its own sample rate, channels averaged.
/// @throws InputError if the file is missing, damaged, truncated or empty.
/// @throws ModelError if the library was built without libsndfile.
SPEECH_API Audio read_audio(const std::filesystem::path& path);

/// A model, ready to recognize speech.
///
/// All members may be called by several threads at once, on one object or on several. Features are
/// computed in the calling thread; one Recognizer runs its network for one call at a time. With the
/// engine "openvino", Recognizers of one model and the same threads share its weights. With the
/// engine "wheel", all Recognizers of a process share one Python, which starts with the first of
/// them, and take turns. A process must not fork after its first Recognizer was made.
class SPEECH_API Recognizer {
 public:
  /// Loads a model, and compiles it where its engine does.
  ///
  /// @param model NAME.onnx, which holds its description; or NAME.mindir with the description
  ///     NAME.json beside it, or the description.
  /// @param options How to run it.
  /// @throws ModelError if a file is missing or wrong, or the device cannot run the model.
  explicit Recognizer(const std::filesystem::path& model, const RecognizerOptions& options = {});
  Recognizer(Recognizer&&) noexcept;
  Recognizer& operator=(Recognizer&&) noexcept;
  ~Recognizer();

  /// Recognizes one recording.
  ///
  /// @param samples One channel, full scale -1 to 1.
  /// @param sample_rate 100 Hz to 10 MHz; another rate than the model's is resampled.
  /// @throws InputError if there are no samples, values that are not finite, or another rate.
  /// @throws ModelError if the model takes features alone, or the library was built without audio.
  /// @throws std::runtime_error if the network fails, for instance for want of device memory.
  Transcript transcribe(const std::vector<float>& samples, std::int64_t sample_rate) const;

  /// Recognizes one recording; see above.
  Transcript transcribe(const Audio& recording) const;

  /// Recognizes several recordings, in batches of similar length.
  ///
  /// @returns A transcript for each recording, in their order.
  /// @throws InputError as above; the message starts with the number of the recording, from 0.
  std::vector<Transcript> transcribe(const std::vector<Audio>& recordings) const;

  /// Recognizes utterances whose features were computed elsewhere, in batches of similar length.
  ///
  /// Word times count from the first frame.
  ///
  /// @returns A transcript for each utterance, in their order.
  /// @throws ModelError if the model takes samples, and computes the features itself.
  /// @throws InputError if an utterance has no frames, another number of values than frames x
  ///     bins, or values that are not finite; the message starts with its number, from 0.
  /// @throws std::runtime_error if the network fails.
  std::vector<Transcript> transcribe(const std::vector<Features>& utterances) const;

  /// The sample rate that the model was trained with, in Hz; 0 if it takes features alone.
  std::int64_t sample_rate() const;

  /// Bins of a feature frame; 0 if the model takes samples.
  std::int64_t bins() const;

  /// The labels, in the order of the network's outputs; one of them is the blank of CTC.
  const std::vector<std::string>& labels() const;

  /// What could not be checked when the model was loaded, a line each; mostly empty.
  const std::vector<std::string>& notes() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// A model that recognizes a recording while it is made.
///
/// The log-probabilities are those of the whole recording with the same features, in pieces of any
/// length. Features are normalised over the last seconds. One thread at a time may use an object.
class SPEECH_API StreamingRecognizer {
 public:
  /// Loads a model.
  ///
  /// @param model ONNX file of export.py --streaming.
  /// @param options How to run it.
  /// @throws ModelError if the file is missing or wrong, takes whole recordings, or cannot be run.
  explicit StreamingRecognizer(const std::filesystem::path& model,
                               const StreamingOptions& options = {});
  StreamingRecognizer(StreamingRecognizer&&) noexcept;
  StreamingRecognizer& operator=(StreamingRecognizer&&) noexcept;
  ~StreamingRecognizer();

  /// Takes the next samples of the recording.
  ///
  /// @param samples One channel at `sample_rate()`, full scale -1 to 1.
  /// @returns The texts that a pause has made final, mostly none; times are those of the recording.
  /// @throws InputError if samples are not finite.
  /// @throws std::runtime_error if the network fails.
  std::vector<Transcript> accept(const std::vector<float>& samples);

  /// The text since the last pause; it may change.
  std::string result() const;

  /// Ends the recording; the next samples are of another one.
  ///
  /// @returns The texts that were left.
  /// @throws std::runtime_error if the network fails.
  std::vector<Transcript> finish();

  /// The sample rate of the model, in Hz.
  std::int64_t sample_rate() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace speech
