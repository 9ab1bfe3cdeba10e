#include "audio.h"

#include <sndfile.h>
#include <soxr.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <memory>
#include <mutex>
#include <numeric>
#include <regex>
#include <string>

#include "errors.h"

namespace speech {
namespace internal {
namespace {

constexpr std::int64_t kSizeUnknown = 0x7FFF0000;            // bytes, or more: a header from a pipe
constexpr std::int64_t kOggPage = 65307;                     // bytes of the longest page
constexpr std::size_t kBlock = 1 << 16;                      // samples read or resampled at a time
constexpr std::int64_t kMinRate = 100, kMaxRate = 10000000;  // Hz
const char* const kAgain = "; fetch it again or leave it out";

// `count` bytes at `offset`, from the end if negative; fewer where the file has fewer.
std::string peek(const fs::path& path, std::int64_t offset, std::int64_t count) {
  const auto size = static_cast<std::int64_t>(bytes_of(path));
  const std::int64_t start = std::clamp<std::int64_t>(offset < 0 ? size + offset : offset, 0, size);
  std::string bytes(static_cast<std::size_t>(std::min(count, size - start)), '\0');
  std::ifstream file(path, std::ios::binary);
  file.seekg(start);
  file.read(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  bytes.resize(static_cast<std::size_t>(std::max<std::streamsize>(0, file.gcount())));
  return bytes;
}

// Whether the last Ogg page is marked as last and is all there (RFC 3533). A page: "OggS", version,
// flags (4: last page), 20 bytes, segment count, segment sizes, segments.
bool ends_whole(const std::string& tail) {
  const auto start = tail.rfind("OggS");
  if (start == std::string::npos || tail.size() - start < 27) return false;
  const auto byte = [&](std::size_t at) { return static_cast<unsigned char>(tail[start + at]); };
  std::size_t bytes = 27U + byte(26);
  if ((byte(5) & 4) == 0 || tail.size() - start < bytes) return false;
  for (std::size_t segment = 0, count = byte(26); segment < count; ++segment)
    bytes += byte(27 + segment);
  return tail.size() - start >= bytes;
}

class File {
 public:
  explicit File(const fs::path& path) {
    std::error_code error;
    const auto bytes = fs::file_size(path, error);
    if (error) throw InputError(error.message());
    if (bytes == 0) throw InputError(std::string("empty (0 bytes)") + kAgain);
    {
      // libsndfile keeps the reason of a failed `sf_open` in one place for the whole process.
      static std::mutex mutex;
      const std::lock_guard lock(mutex);
      file_ = ::sf_open(path.c_str(), SFM_READ, &info_);
      if (file_ == nullptr) throw damaged(::sf_strerror(nullptr));
    }
    try {
      check(path);
    } catch (...) {
      ::sf_close(file_);
      throw;
    }
  }
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  ~File() { ::sf_close(file_); }

  const SF_INFO& info() const { return info_; }

  // All samples, channels averaged. Memory grows with what is there, not with what a header says.
  std::vector<float> read() {
    const sf_count_t channels = info_.channels;
    const auto most = std::max<sf_count_t>(1, static_cast<sf_count_t>(kBlock) / channels);
    std::vector<float> samples, block(static_cast<std::size_t>(most * channels));
    for (sf_count_t count = 1, left = info_.frames; count > 0; left -= count) {
      count = ::sf_readf_float(file_, block.data(), std::min(left, most));
      if (::sf_error(file_) != SF_ERR_NO_ERROR) throw damaged(::sf_strerror(file_));
      for (auto frame = block.begin(); frame != block.begin() + count * channels; frame += channels)
        samples.push_back(std::accumulate(frame, frame + channels, 0.0F) /
                          static_cast<float>(channels));
    }
    const auto found = static_cast<std::int64_t>(samples.size());
    if (found < info_.frames)
      throw InputError("truncated: " + std::to_string(found) +
                       " samples where its header declares " + std::to_string(info_.frames) +
                       kAgain);
    return samples;
  }

 private:
  static InputError damaged(std::string why) {
    while (!why.empty() && (why.back() == '.' || why.back() == ' ' || why.back() == '\n'))
      why.pop_back();
    return InputError("damaged, truncated or not audio that libsndfile reads (" + why +
                      "); fetch it again, convert it to FLAC or WAV, or leave it out");
  }

  void check(const fs::path& path) {
    if (const std::string lacking = lacks(path); !lacking.empty())
      throw InputError("truncated: " + lacking + kAgain);
    if (info_.frames == 0) throw InputError("empty (0 samples); leave it out");
    // 2^62 is libsndfile's answer where a header gives no length.
    if (info_.frames < 0 || info_.frames > (std::int64_t{1} << 40) / info_.channels)
      throw InputError("its header gives no length; write it anew, not through a pipe");
  }

  // What a cut WAV, AIFF, AU, SPHERE or Ogg file lacks; FLAC and MP3 show it when decoded.
  std::string lacks(const fs::path& path) {
    // libsndfile reads a cut file up to the cut in silence; its log tells.
    static const std::regex kCut(
        R"((?:^|\n)\s*(?:data|SSND|Data Size|riff|Riff size)\s*: (\d{1,18}) \(should be (\d{1,18})\))");
    std::string log(1 << 14, '\0');
    log.resize(static_cast<std::size_t>(std::max(
        0, ::sf_command(file_, SFC_GET_LOG_INFO, log.data(), static_cast<int>(log.size())))));
    std::smatch match;
    if (std::regex_search(log, match, kCut)) {
      const std::int64_t declared = std::stoll(match[1]), found = std::stoll(match[2]);
      if (found < declared && declared < kSizeUnknown)
        return std::to_string(found) + " bytes where its header declares " +
               std::to_string(declared);
    }
    const int container = info_.format & SF_FORMAT_TYPEMASK;
    if (container == SF_FORMAT_NIST) {
      static const std::regex kCount(R"(sample_count -i (\d{1,18}))");
      const std::string header = peek(path, 0, 1024);
      if (std::regex_search(header, match, kCount) && info_.frames < std::stoll(match[1]))
        return std::to_string(info_.frames) + " samples where its header declares " +
               match[1].str();
    }
    if (container == SF_FORMAT_OGG && !ends_whole(peek(path, -kOggPage, kOggPage)))
      return "the last page of its Ogg stream is missing or incomplete";
    return {};
  }

  SF_INFO info_{};
  SNDFILE* file_ = nullptr;
};

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
  const File file(path);
  return {file.info().samplerate, file.info().channels, file.info().frames};
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
  internal::File file(path);
  return {file.read(), file.info().samplerate};
}

}  // namespace speech
