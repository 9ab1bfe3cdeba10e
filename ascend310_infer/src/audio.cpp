#include "audio.h"

#include <sndfile.h>
#include <soxr.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <memory>
#include <mutex>
#include <numeric>
#include <set>
#include <string>

#include "containers.h"
#include "content.h"
#include "errors.h"

namespace speech {
namespace internal {
namespace {

constexpr std::size_t kBlock = 1 << 16;                      // samples read or resampled at a time
constexpr std::int64_t kMinRate = 100, kMaxRate = 10000000;  // Hz

// Sends what C code writes to `stderr` to nowhere; std::cerr does not use that variable. libmpg123
// writes notes there that say less than our own error, and libsndfile has no switch for them. The
// GNU C library's manual allows to set `stderr`.
class WithoutNativeMessages {
 public:
  explicit WithoutNativeMessages(bool wanted) : wanted_(wanted) {
    if (!wanted_) return;
    const std::lock_guard lock(mutex());
    static std::FILE* const nowhere = std::fopen("/dev/null", "w");
    if (users()++ == 0) usual() = stderr;
    if (nowhere != nullptr) stderr = nowhere;
  }
  WithoutNativeMessages(const WithoutNativeMessages&) = delete;
  WithoutNativeMessages& operator=(const WithoutNativeMessages&) = delete;
  ~WithoutNativeMessages() {
    if (!wanted_) return;
    const std::lock_guard lock(mutex());
    if (--users() == 0) stderr = usual();
  }

 private:
  static std::mutex& mutex() {
    static std::mutex mutex;
    return mutex;
  }
  static int& users() {
    static int users = 0;
    return users;
  }
  static std::FILE*& usual() {
    static std::FILE* usual = nullptr;
    return usual;
  }

  bool wanted_;
};

// A stream of a recording, open for decoding.
class Decoder {
 public:
  Decoder(const Content& content, const Stream& stream)
      : silence_(stream.native_messages), descriptor_(content.open_stream(stream)) {
    {
      // libsndfile keeps the reason of a failed opening in one place for the whole process.
      static std::mutex mutex;
      const std::lock_guard lock(mutex);
      file_.reset(::sf_open_fd(descriptor_.get(), SFM_READ, &info_, SF_FALSE));
      if (!file_) throw damaged(::sf_strerror(nullptr));
    }
    // What the decoder is going to give, against what the container holds.
    if (info_.frames == 0) throw InputError("empty (0 samples); leave it out");
    const std::int64_t expected = stream.samples.value_or(info_.frames);
    if (info_.frames < expected)
      throw InputError("holds " + std::to_string(expected) +
                       " samples, of which its header declares " + std::to_string(info_.frames) +
                       "; write its header anew or convert it to FLAC or WAV");
    if (stream.estimated) info_.frames = expected;
    if (info_.frames > expected)
      throw truncated(std::to_string(expected) + " samples where its header declares " +
                      std::to_string(info_.frames));
  }

  const SF_INFO& info() const { return info_; }

  // Appends all samples, channels averaged. Memory grows with what is there, not with what a header
  // says.
  void read(std::vector<float>& samples) {
    const sf_count_t channels = info_.channels;
    const auto most = std::max<sf_count_t>(1, static_cast<sf_count_t>(kBlock) / channels);
    std::vector<float> block(static_cast<std::size_t>(most * channels));
    sf_count_t left = info_.frames;
    for (sf_count_t count = 1; count > 0; left -= count) {
      count = ::sf_readf_float(file_.get(), block.data(), std::min(left, most));
      if (::sf_error(file_.get()) != SF_ERR_NO_ERROR) throw damaged(::sf_strerror(file_.get()));
      for (auto frame = block.begin(); frame != block.begin() + count * channels; frame += channels)
        samples.push_back(std::accumulate(frame, frame + channels, 0.0F) /
                          static_cast<float>(channels));
    }
    if (left > 0)
      throw truncated(std::to_string(info_.frames - left) + " samples where its header declares " +
                      std::to_string(info_.frames));
  }

 private:
  static InputError damaged(std::string why) {
    while (!why.empty() && (why.back() == '.' || why.back() == ' ' || why.back() == '\n'))
      why.pop_back();
    return InputError("damaged, truncated or not audio that libsndfile reads (" + why +
                      "); fetch it again, convert it to FLAC or WAV, or leave it out");
  }

  struct Close {
    void operator()(SNDFILE* file) const { ::sf_close(file); }
  };

  WithoutNativeMessages silence_;
  FileDescriptor descriptor_;
  SF_INFO info_{};
  std::unique_ptr<SNDFILE, Close> file_;
};

// Streams that follow each other, as one recording.
AudioInfo joined(const std::vector<AudioInfo>& streams) {
  AudioInfo all;
  std::set<std::int64_t> rates;
  for (const AudioInfo& stream : streams) {
    rates.insert(stream.sample_rate);
    all.channels = std::max(all.channels, stream.channels);
    all.samples += stream.samples;
  }
  if (rates.size() > 1) {
    std::string listed;
    for (const std::int64_t rate : rates)
      listed += (listed.empty() ? "" : " and ") + std::to_string(rate);
    throw InputError("several streams one behind the other, of " + listed +
                     " Hz; convert it to FLAC or WAV");
  }
  all.sample_rate = *rates.begin();
  return all;
}

// With the quality "HQ" of the Python package soxr, which wraps the same library.
std::vector<float> converted(const std::vector<float>& samples, double from, double to) {
  // libsoxr fills tables that all its converters share, without a lock in builds without OpenMP.
  static std::mutex mutex;
  const std::lock_guard lock(mutex);
  const soxr_io_spec_t types = ::soxr_io_spec(SOXR_FLOAT32_I, SOXR_FLOAT32_I);
  const soxr_quality_spec_t quality = ::soxr_quality_spec(SOXR_HQ, 0);
  const soxr_runtime_spec_t threads = ::soxr_runtime_spec(1);
  soxr_error_t error = nullptr;
  const std::unique_ptr<std::remove_pointer_t<soxr_t>, decltype(&::soxr_delete)> state(
      ::soxr_create(from, to, 1, &error, &types, &quality, &threads), &::soxr_delete);
  std::vector<float> result, block(kBlock);
  for (std::size_t at = 0; error == nullptr;) {
    const bool rest = at == samples.size();  // no more goes in: what is still inside comes out
    std::size_t taken = 0, given = 0;
    error = ::soxr_process(state.get(), rest ? nullptr : samples.data() + at,
                           std::min(kBlock, samples.size() - at), &taken, block.data(),
                           block.size(), &given);
    at += taken;
    result.insert(result.end(), block.begin(), block.begin() + static_cast<std::ptrdiff_t>(given));
    if (rest && given < block.size()) return result;
  }
  throw InputError(std::string("cannot be resampled (") + error + ")");
}

}  // namespace

AudioInfo audio_info(const fs::path& path) {
  Content content(path);
  std::vector<AudioInfo> streams;
  for (const Stream& stream : streams_of(content)) {
    const Decoder decoder(content, stream);
    streams.push_back({decoder.info().samplerate, decoder.info().channels, decoder.info().frames});
  }
  return joined(streams);
}

std::int64_t resampled_count(std::int64_t count, std::int64_t from_rate, std::int64_t to_rate) {
  if (from_rate == to_rate) return count;
  // As soxr counts them.
  const double factor = static_cast<double>(from_rate) / static_cast<double>(to_rate);
  return static_cast<std::int64_t>(static_cast<double>(count) / factor + 0.5);
}

std::vector<float> resample(std::vector<float> samples, std::int64_t from_rate,
                            std::int64_t to_rate) {
  if (from_rate < kMinRate || from_rate > kMaxRate)
    throw InputError("a sample rate of " + std::to_string(from_rate) + " Hz; expected " +
                     std::to_string(kMinRate) + " to " + std::to_string(kMaxRate));
  const auto bad = std::count_if(samples.begin(), samples.end(),
                                 [](float value) { return !std::isfinite(value); });
  if (bad > 0)
    throw InputError(std::to_string(bad) + " of " + std::to_string(samples.size()) +
                     " samples are nan or infinite; leave it out");
  if (from_rate == to_rate || samples.empty()) return samples;
  return converted(samples, static_cast<double>(from_rate), static_cast<double>(to_rate));
}

}  // namespace internal

Audio read_audio(const std::filesystem::path& path) {
  internal::Content content(path);
  std::vector<internal::AudioInfo> streams;
  Audio audio;
  for (const internal::Stream& stream : internal::streams_of(content)) {
    internal::Decoder decoder(content, stream);
    decoder.read(audio.samples);
    streams.push_back({decoder.info().samplerate, decoder.info().channels, decoder.info().frames});
  }
  audio.sample_rate = internal::joined(streams).sample_rate;
  return audio;
}

}  // namespace speech
