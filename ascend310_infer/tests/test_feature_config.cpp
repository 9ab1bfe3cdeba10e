#include <doctest/doctest.h>

#include <nlohmann/json.hpp>
#include <stdexcept>

#include "feature_config.h"

namespace internal = speech::internal;

using internal::FeatureConfig;
using internal::Json;

namespace {

const char* const kSample =
    R"({"kind": "logmel", "sample_rate": 16000, "window_size": 0.0205, "window_stride": 0.01,
        "window": "hanning", "bands": 64})";

FeatureConfig with(const std::string& from, const std::string& to) {
  std::string text = kSample;
  return internal::parse_features(
      internal::parse_json(text.replace(text.find(from), from.size(), to)));
}

}  // namespace

TEST_CASE("features without later keys") {
  const FeatureConfig found = with("{", "{");
  CHECK(found.kind == "logmel");
  CHECK(found.window == "hann");
  CHECK(found.convention == "plain");
  CHECK(found.window_length() == 328);
  CHECK(found.n_fft() == 512);
  CHECK(found.hop_length() == 160);
  CHECK(found.dimension() == 64);
  CHECK(found.splicing == 1);
  CHECK(!found.trims_silence);
  CHECK(found.preemphasis == 0);
  CHECK(found.periodic_window());
}

TEST_CASE("features with all keys") {
  const FeatureConfig found =
      with("64", R"(40, "convention": "jasper-nvidia", "preemphasis": 0.97, "frame_splicing": 3,
                    "trim_silence": true)");
  CHECK(found.dimension() == 120);
  CHECK(found.trims_silence);
  CHECK(found.preemphasis == 0.97);
  CHECK(found.jasper());
  CHECK(!found.plain());
  CHECK(!found.periodic_window());
  const FeatureConfig bins = with(R"("logmel")", R"("spectrogram", "convention": "plain")");
  CHECK(bins.bands == 0);
  CHECK(bins.n_fft() == 328);
  CHECK(bins.dimension() == 165);
  const FeatureConfig asrt = with(R"("logmel")", R"("spectrogram", "convention": "asrt")");
  CHECK(asrt.bins() == bins.bins() - 1);
  CHECK_FALSE(asrt.periodic_window());
}

TEST_CASE("features that are wrong") {
  using Bad = std::invalid_argument;
  CHECK_THROWS_WITH_AS(static_cast<void>(internal::parse_features(Json())),
                       doctest::Contains("expected an object"), Bad);
  CHECK_THROWS_WITH_AS(static_cast<void>(with("{", R"({"dither": 1, )")),
                       doctest::Contains("\"dither\" is not known"), Bad);
  CHECK_THROWS_WITH_AS(static_cast<void>(with(R"("window": "hanning", )", "")),
                       doctest::Contains("has no window"), Bad);
  CHECK_THROWS_WITH_AS(static_cast<void>(with("hanning", "kaiser")),
                       doctest::Contains("the window kaiser"), Bad);
  CHECK_THROWS_WITH_AS(static_cast<void>(with("64", R"(64, "convention": "deepspeech")")),
                       doctest::Contains("convention deepspeech"), Bad);
  CHECK_THROWS_WITH_AS(static_cast<void>(with("logmel", "mfcc")), doctest::Contains("mfcc"), Bad);
  CHECK_THROWS_WITH_AS(static_cast<void>(with("64", "null")), doctest::Contains("bands"), Bad);
  CHECK_THROWS_WITH_AS(static_cast<void>(with("16000", "0.5")), doctest::Contains("sample_rate"),
                       Bad);
  CHECK_THROWS_WITH_AS(static_cast<void>(with("64", R"(64, "preemphasis": 2)")),
                       doctest::Contains("preemphasis"), Bad);
  CHECK_THROWS_WITH_AS(static_cast<void>(with("64", R"(64, "frame_splicing": 0)")),
                       doctest::Contains("frame_splicing"), Bad);
  CHECK_THROWS_WITH_AS(static_cast<void>(with("64", R"(64, "trim_silence": 1)")),
                       doctest::Contains("trim_silence"), Bad);
  CHECK_THROWS_WITH_AS(static_cast<void>(with("0.0205", "0.00005")), doctest::Contains("2 samples"),
                       Bad);
}
