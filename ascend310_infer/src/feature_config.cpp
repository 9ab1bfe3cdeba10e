#include "feature_config.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <stdexcept>

namespace speech::internal {
namespace {

constexpr std::int64_t kLongestWindow = 1 << 20;  // samples

// By kind and convention: whether the window is periodic.
const std::map<std::string, std::map<std::string, bool>> kConventions{
    {"spectrogram",
     {{"plain", true},
      {"deepspeech.pytorch", true},
      {"deepspeech.pytorch-2.0", false},
      {"asrt", false}}},
    {"logmel",
     {{"plain", true}, {"jasper-mindspore", true}, {"jasper-nvidia", false}, {"nemo", false}}},
};

const std::set<std::string> kKeys{"kind",           "sample_rate", "window_size", "window_stride",
                                  "window",         "bands",       "convention",  "preemphasis",
                                  "frame_splicing", "trim_silence", "normalisation"};

double number(const Json& features, const std::string& key, double least, double most) {
  const Json* found = find_member(features, key);
  const double value = found != nullptr && found->is_number() ? found->get<double>() : NAN;
  if (!(value >= least && value <= most))
    throw std::invalid_argument("features: " + key + ": expected a number from " +
                                std::to_string(least) + " to " + std::to_string(most));
  return value;
}

std::int64_t whole(const Json& features, const std::string& key, std::int64_t most) {
  std::int64_t value = 0;
  const Json* found = find_member(features, key);
  if (found == nullptr || !to_integer(*found, value) || value < 1 || value > most)
    throw std::invalid_argument("features: " + key + ": expected a whole number from 1 to " +
                                std::to_string(most));
  return value;
}

std::string text(const Json& features, const std::string& key) {
  const Json* found = find_member(features, key);
  if (found == nullptr || !found->is_string())
    throw std::invalid_argument("features: has no " + key);
  return found->get<std::string>();
}

}  // namespace

bool FeatureConfig::periodic_window() const { return kConventions.at(kind).at(convention); }

std::int64_t FeatureConfig::window_length() const {
  return std::llrint(static_cast<double>(sample_rate) * window_size);  // ties to even, as in Python
}

std::int64_t FeatureConfig::hop_length() const {
  return std::llrint(static_cast<double>(sample_rate) * window_stride);
}

std::int64_t FeatureConfig::n_fft() const {
  if (!mel()) return window_length();
  std::int64_t power = 1;
  while (power < window_length()) power *= 2;
  return power;
}

// The window sits in the middle of a transform, and that on every hop's first sample; ASRT's first
// window begins with the first sample.
std::int64_t FeatureConfig::before() const {
  return asrt() ? 0 : n_fft() / 2 - (n_fft() - window_length()) / 2;
}

FeatureConfig parse_features(const Json& features) {
  if (!features.is_object()) throw std::invalid_argument("features: expected an object");
  for (const auto& [key, value] : features.items())
    if (kKeys.count(key) == 0)
      throw std::invalid_argument("features: " + json_text(key) +
                                  " is not known to this program; it is older than the model");
  FeatureConfig config{text(features, "kind"), whole(features, "sample_rate", 1000000),
                       number(features, "window_size", 0, 1),
                       number(features, "window_stride", 0, 1), text(features, "window"),
                       // Descriptions of earlier versions lack the keys below.
                       0, "plain"};
  if (features.contains("convention")) config.convention = text(features, "convention");
  if (features.contains("preemphasis")) config.preemphasis = number(features, "preemphasis", 0, 1);
  if (features.contains("frame_splicing"))
    config.splicing = whole(features, "frame_splicing", 1000);
  if (const Json* trims = find_member(features, "trim_silence"); trims != nullptr) {
    if (!trims->is_boolean())
      throw std::invalid_argument("features: trim_silence: expected true or false");
    config.trims_silence = trims->get<bool>();
  }
  if (features.contains("normalisation")) {
    const std::string normalisation = text(features, "normalisation");
    if (normalisation != "utterance" && normalisation != "sliding")
      throw std::invalid_argument("features: the normalisation " + normalisation +
                                  " is not known to this program");
    config.slides = normalisation == "sliding";
  }
  const auto kind = kConventions.find(config.kind);
  if (kind == kConventions.end() || kind->second.count(config.convention) == 0)
    throw std::invalid_argument("features: " + config.kind + " of the convention " +
                                config.convention + " are not known to this program");
  if (config.mel()) config.bands = whole(features, "bands", 4096);
  if (config.window == "hanning") config.window = "hann";
  const std::array known{"hamming", "hann", "blackman", "bartlett"};
  if (std::find(known.begin(), known.end(), config.window) == known.end())
    throw std::invalid_argument("features: the window " + config.window +
                                " is not known to this program");
  if (config.window_length() < 2 || config.window_length() > kLongestWindow ||
      config.hop_length() < 1)
    throw std::invalid_argument(
        "features: window_size and window_stride: expected seconds that make at least 2 samples "
        "and 1 sample");
  return config;
}

}  // namespace speech::internal
