#include <stdexcept>

#include "check.h"
#include "feature_config.h"

using infer::FeatureConfig;
using infer::Json;

namespace {

const char* const kSample =
    R"({"kind": "logmel", "sample_rate": 16000, "window_size": 0.0205, "window_stride": 0.01,
        "window": "hanning", "bands": 64})";

FeatureConfig with(const std::string& from, const std::string& to) {
  std::string text = kSample;
  return infer::parse_features(Json::parse(text.replace(text.find(from), from.size(), to)));
}

}  // namespace

TEST(features_without_later_keys) {
  const FeatureConfig found = with("{", "{");
  CHECK(found.kind == "logmel" && found.window == "hann" && found.convention == "plain");
  CHECK(found.window_length() == 328 && found.n_fft() == 512 && found.hop_length() == 160);
  CHECK(found.dimension() == 64 && found.splicing == 1 && !found.trims_silence);
  CHECK(found.preemphasis == 0 && found.periodic_window());
}

TEST(features_with_all_keys) {
  const FeatureConfig found =
      with("64", R"(40, "convention": "jasper-nvidia", "preemphasis": 0.97, "frame_splicing": 3,
                    "trim_silence": true)");
  CHECK(found.dimension() == 120 && found.trims_silence && found.preemphasis == 0.97);
  CHECK(found.jasper() && !found.plain() && !found.periodic_window());
  const FeatureConfig bins = with(R"("logmel")", R"("spectrogram", "convention": "plain")");
  CHECK(bins.bands == 0 && bins.n_fft() == 328 && bins.dimension() == 165);
}

TEST(features_that_are_wrong) {
  using Bad = std::invalid_argument;
  CHECK_THROWS(Bad, "expected an object", infer::parse_features(Json()));
  CHECK_THROWS(Bad, "\"dither\" is not known", with("{", R"({"dither": 1, )"));
  CHECK_THROWS(Bad, "has no window", with(R"("window": "hanning", )", ""));
  CHECK_THROWS(Bad, "the window kaiser", with("hanning", "kaiser"));
  CHECK_THROWS(Bad, "convention deepspeech", with("64", R"(64, "convention": "deepspeech")"));
  CHECK_THROWS(Bad, "mfcc", with("logmel", "mfcc"));
  CHECK_THROWS(Bad, "bands", with("64", "null"));
  CHECK_THROWS(Bad, "sample_rate", with("16000", "0.5"));
  CHECK_THROWS(Bad, "preemphasis", with("64", R"(64, "preemphasis": 2)"));
  CHECK_THROWS(Bad, "frame_splicing", with("64", R"(64, "frame_splicing": 0)"));
  CHECK_THROWS(Bad, "trim_silence", with("64", R"(64, "trim_silence": 1)"));
  CHECK_THROWS(Bad, "2 samples", with("0.0205", "0.00005"));
}
