#include "featurizer.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <complex>
#include <kissfft/kissfft.hh>
#include <numeric>
#include <stdexcept>
#include <utility>

#include "streaming_features.h"

namespace speech::internal {
namespace {

using Complex = std::complex<double>;

constexpr double kPi = 3.14159265358979323846;

constexpr double kPowerFloor = 1.0 / (1 << 24);
constexpr double kJasperFloor = 1e-20;    // added to the power in Jasper's logarithm
constexpr float kInt16 = 32768;           // full scale of ASRT's samples
constexpr double kSilenceDb = 60;         // below the loudest frame
constexpr std::size_t kSilenceHop = 512;  // samples
constexpr std::size_t kSilenceHops = 4;   // per frame when silence is searched for
constexpr double kFaint = 1e-5;           // RMS, full scale 1; a smaller level counts as this

// ---- windows and filters

// As scipy.signal.get_window: periodic, or symmetric from edge to edge.
std::vector<float> window_of(const std::string& name, std::int64_t length, bool periodic) {
  const double period = static_cast<double>(periodic ? length : length - 1);
  std::vector<float> window;
  for (std::int64_t n = 0; n < length; ++n) {
    const double at = static_cast<double>(n) / period, turn = std::cos(2 * kPi * at);
    double value = 0;
    if (name == "hamming") value = 0.54 - 0.46 * turn;
    if (name == "hann") value = 0.5 - 0.5 * turn;
    if (name == "blackman") value = 0.42 - 0.5 * turn + 0.08 * std::cos(4 * kPi * at);
    if (name == "bartlett") value = 1 - std::fabs(2 * at - 1);
    window.push_back(static_cast<float>(value));
  }
  return window;
}

// A triangle over frequency: weights of the bins from `first` on.
struct Filter {
  std::size_t first = 0;
  std::vector<float> weights;
};

// Triangles of area 1 from 0 Hz to half the rate, evenly spaced on Slaney's mel scale (Auditory
// Toolbox, 1998): 200/3 Hz a mel up to 1 kHz, logarithmic above, 27 mels for a factor of 6.4.
std::vector<Filter> mel_filters(double rate, std::int64_t n_fft, std::int64_t bands) {
  constexpr double kLinear = 200.0 / 3, kKnee = 1000, kKneeMel = kKnee / kLinear;
  const double growth = std::log(6.4) / 27, nyquist = rate / 2;
  const double top =
      nyquist < kKnee ? nyquist / kLinear : kKneeMel + std::log(nyquist / kKnee) / growth;
  const auto edge = [&](std::int64_t number) {
    const double mel = top * static_cast<double>(number) / static_cast<double>(bands + 1);
    return mel < kKneeMel ? mel * kLinear : kKnee * std::exp(growth * (mel - kKneeMel));
  };
  std::vector<Filter> filters;
  for (std::int64_t band = 0; band < bands; ++band) {
    const double low = edge(band), centre = edge(band + 1), high = edge(band + 2);
    Filter filter;
    for (std::int64_t bin = 0; bin <= n_fft / 2; ++bin) {
      const double frequency = static_cast<double>(bin) * rate / static_cast<double>(n_fft);
      const double height =
          std::min((frequency - low) / (centre - low), (high - frequency) / (high - centre));
      if (height <= 0) continue;
      if (filter.weights.empty()) filter.first = static_cast<std::size_t>(bin);
      filter.weights.push_back(static_cast<float>(height * 2 / (high - low)));
    }
    filters.push_back(std::move(filter));
  }
  return filters;
}

// ---- samples

// Sample `at` of a signal that is mirrored at its first and last sample.
float mirrored(const std::vector<float>& samples, std::int64_t at) {
  const auto last = static_cast<std::int64_t>(samples.size()) - 1;
  if (last == 0) return samples[0];
  const std::int64_t place = std::abs(at) % (2 * last);
  return samples[static_cast<std::size_t>(std::min(place, 2 * last - place))];
}

void emphasise(std::vector<float>& samples, float share) {
  for (std::size_t i = samples.size() - 1; i > 0; --i) samples[i] -= share * samples[i - 1];
}

// Stacks each frame (bins, count) with those that follow it; zeros follow the last one.
std::vector<float> spliced(const std::vector<float>& frames, std::int64_t bins, std::int64_t count,
                           std::int64_t splicing) {
  std::vector<float> result(static_cast<std::size_t>(bins * splicing * count));
  for (std::int64_t ahead = 0; ahead < std::min(splicing, count); ++ahead)
    for (std::int64_t bin = 0; bin < bins; ++bin)
      std::copy_n(frames.begin() + bin * count + ahead, count - ahead,
                  result.begin() + (ahead * bins + bin) * count);
  return result;
}

// The first `kept` of each row of `count`.
std::vector<float> cut(const std::vector<float>& rows, std::int64_t count, std::int64_t kept) {
  std::vector<float> result;
  for (auto row = rows.begin(); row != rows.end(); row += count)
    result.insert(result.end(), row, row + kept);
  return result;
}

}  // namespace

std::vector<float> padded(const std::vector<float>& samples, std::int64_t left, std::int64_t right,
                          bool zeros) {
  const auto count = static_cast<std::int64_t>(samples.size());
  std::vector<float> result;
  result.reserve(static_cast<std::size_t>(left + count + right));
  for (std::int64_t at = -left; at < 0; ++at) result.push_back(zeros ? 0 : mirrored(samples, at));
  result.insert(result.end(), samples.begin(), samples.end());
  for (std::int64_t at = count; at < count + right; ++at)
    result.push_back(zeros ? 0 : mirrored(samples, at));
  return result;
}

struct Featurizer::Tables {
  explicit Tables(const FeatureConfig& config)
      : transform(static_cast<std::size_t>(config.n_fft()), false),
        window(window_of(config.window, config.window_length(), config.periodic_window())) {
    if (config.asrt())  // whose samples are 16-bit integers
      for (float& weight : window) weight *= kInt16;
    if (config.mel())
      filters = mel_filters(static_cast<double>(config.sample_rate), config.n_fft(), config.bands);
  }

  kissfft<double> transform;
  std::vector<float> window;
  std::vector<Filter> filters;  // none for the spectrogram
};

Featurizer::Featurizer(const FeatureConfig& config)
    : config_(config), tables_(std::make_unique<Tables>(config)) {
  for (const Filter& filter : tables_->filters)
    if (filter.weights.empty())
      throw std::invalid_argument("features: bands: some of " + std::to_string(config.bands) +
                                  " mel bands are narrower than a frequency bin");
}

Featurizer::~Featurizer() = default;

std::int64_t Featurizer::frames(std::int64_t samples) const {
  const std::int64_t hop = config_.hop_length();
  if (config_.jasper()) return (samples + hop - 1) / hop;
  if (config_.nemo()) return std::max<std::int64_t>(1, samples / hop);
  if (config_.asrt())
    return 1 + std::max<std::int64_t>(samples - config_.window_length(), 0) / hop;
  return 1 + (samples - config_.n_fft() % 2) / hop;
}

std::vector<float> Featurizer::operator()(const std::vector<float>& samples) const {
  const auto length = static_cast<std::int64_t>(samples.size());
  const std::int64_t count = frames(length);
  // The model zoo's Jasper normalises over one more frame at the end, and then drops it.
  const bool further = config_.convention == "jasper-mindspore" && !config_.slides;
  const std::int64_t seen = further ? 1 + length / config_.hop_length() : count;
  std::vector<float> features = energies(samples, seen);
  if (config_.slides)
    slide(features, seen);
  else if (!config_.asrt())
    normalise(features, seen);
  if (seen != count) features = cut(features, seen, count);
  if (config_.splicing == 1) return features;
  return spliced(features, config_.bins(), count, config_.splicing);
}

// Log energies (bins, count), not normalised.
std::vector<float> Featurizer::energies(const std::vector<float>& samples,
                                        std::int64_t count) const {
  std::vector<float> emphasised = samples;
  if (config_.preemphasis > 0) emphasise(emphasised, static_cast<float>(config_.preemphasis));
  return energies_of(
      padded(emphasised, config_.before(), config_.window_length(), config_.pads_zeros()).data(),
      count);
}

std::vector<float> Featurizer::energies_of(const float* signal, std::int64_t count) const {
  const std::int64_t size = config_.window_length(), n_fft = config_.n_fft();
  const double floor = config_.jasper() ? kJasperFloor : kPowerFloor;
  const auto width = static_cast<std::size_t>(n_fft);
  std::vector<float> result(static_cast<std::size_t>(config_.bins() * count));
  std::vector<Complex> windows(width), spectrum(width);
  const kissfft<double> transform = tables_->transform;  // a copy: it has a buffer of its own
  std::array<std::vector<double>, 2> powers;

  const auto write = [&](const std::vector<double>& power, std::int64_t frame) {
    std::int64_t at = frame;
    const auto put = [&](double value) {
      result[static_cast<std::size_t>(at)] = static_cast<float>(value);
      at += count;
    };
    if (!config_.mel())
      for (std::int64_t bin = 0; bin < config_.bins(); ++bin)
        put(std::log1p(std::sqrt(power[static_cast<std::size_t>(bin)])));
    for (const Filter& filter : tables_->filters)
      put(std::log(floor + std::inner_product(
                               filter.weights.begin(), filter.weights.end(),
                               power.begin() + static_cast<std::ptrdiff_t>(filter.first), 0.0)));
  };

  // Two real frames share one complex transform, as its real and its imaginary part; symmetry
  // separates their spectra.
  for (std::int64_t frame = 0; frame < count; frame += 2) {
    const float* first = signal + frame * config_.hop_length();
    const float* second = frame + 1 < count ? first + config_.hop_length() : first;
    for (std::int64_t n = 0; n < size; ++n) {
      const float weight = tables_->window[static_cast<std::size_t>(n)];
      windows[static_cast<std::size_t>(n)] = {first[n] * weight, second[n] * weight};
    }
    transform.transform(windows.data(), spectrum.data());
    for (std::vector<double>& power : powers) power.clear();
    for (std::size_t bin = 0; bin <= width / 2; ++bin) {
      const Complex above = spectrum[bin], below = std::conj(spectrum[(width - bin) % width]);
      powers[0].push_back(std::norm(above + below) / 4);
      powers[1].push_back(std::norm(above - below) / 4);
    }
    write(powers[0], frame);
    if (frame + 1 < count) write(powers[1], frame + 1);
  }
  return result;
}

// Normalises a spectrogram as a whole, and mel bands one by one.
void Featurizer::normalise(std::vector<float>& energies, std::int64_t count) const {
  const std::size_t group = config_.mel() ? static_cast<std::size_t>(count) : energies.size();
  const bool biased = config_.plain() || config_.convention == "jasper-mindspore" || group == 1;
  const auto size = static_cast<double>(group);
  for (auto begin = energies.begin(); begin != energies.end();) {
    const auto end = begin + static_cast<std::ptrdiff_t>(group);
    const double mean = std::accumulate(begin, end, 0.0) / size;
    double squares = 0;
    for (auto value = begin; value != end; ++value) {
      *value = static_cast<float>(*value - mean);
      squares += static_cast<double>(*value) * *value;
    }
    const double deviation = std::sqrt(squares / (biased ? size : size - 1));
    const double divisor = config_.adds_deviation()
                               ? deviation + kLeastDeviation
                               : std::max(deviation, kLeastDeviation);
    for (auto value = begin; value != end; ++value) *value = static_cast<float>(*value / divisor);
    begin = end;
  }
}

// Normalises each frame over the last seconds before it.
void Featurizer::slide(std::vector<float>& energies, std::int64_t count) const {
  const auto number = static_cast<std::size_t>(count);
  Frames frames(number);
  for (std::size_t at = 0; at < energies.size(); ++at)
    frames[at % number].push_back(energies[at]);
  SlidingNormalisation sliding(config_);
  Frames normalised = sliding.accept(std::move(frames));
  for (std::vector<float>& frame : sliding.finish()) normalised.push_back(std::move(frame));
  for (std::size_t at = 0; at < energies.size(); ++at)
    energies[at] = normalised[at % number][at / number];
}

std::pair<std::size_t, std::size_t> Featurizer::sound_range(
    const std::vector<float>& samples) const {
  if (!config_.trims_silence) return {0, samples.size()};
  // Energies of hops; a frame is the sum of four of them, two on either side of its centre.
  const std::size_t count = 1 + samples.size() / kSilenceHop, before = kSilenceHops / 2;
  std::vector<double> sums(count + kSilenceHops - 1);
  for (std::size_t i = 0; i < samples.size(); ++i)
    sums[i / kSilenceHop + before] += static_cast<double>(samples[i]) * samples[i];
  std::vector<double> levels;
  for (auto sum = sums.begin(); levels.size() < count; ++sum) {
    const double power = std::accumulate(sum, sum + kSilenceHops, 0.0) /
                         static_cast<double>(kSilenceHops * kSilenceHop);
    levels.push_back(10 * std::log10(std::max(power, kFaint * kFaint)));
  }
  const double least = *std::max_element(levels.begin(), levels.end()) - kSilenceDb;
  const auto is_loud = [least](double level) { return level > least; };
  const auto first = std::find_if(levels.begin(), levels.end(), is_loud) - levels.begin();
  const auto last = levels.rend() - std::find_if(levels.rbegin(), levels.rend(), is_loud);
  return {static_cast<std::size_t>(first) * kSilenceHop,
          std::min(samples.size(), static_cast<std::size_t>(last) * kSilenceHop)};
}

}  // namespace speech::internal
