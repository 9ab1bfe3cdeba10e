#include <doctest/doctest.h>

#include "description.h"
#include "errors.h"
#include "samples.h"

using infer::Bucket;
using infer::check_models;
using infer::Description;
using infer::parse_description;
using infer::read_description;
using infer::UsageError;
using Bad = std::invalid_argument;

namespace {

// The sample, with one piece of its text replaced.
std::string changed(const std::string& from, const std::string& to) {
  std::string text = samples::kDescription;
  return text.replace(text.find(from), from.size(), to);
}

const char* const kFile = "\"file\": \"m.mindir\"";

}  // namespace

TEST_CASE("description of one file") {
  const Description found = parse_description(samples::kDescription, "there");
  CHECK(found.model == "deepspeech2");
  CHECK(found.device == "CPU");
  CHECK(found.dimension == 4);
  CHECK(found.labels == 5);
  CHECK(found.frame_stride == 2);
  CHECK(found.frame_seconds == 0.015);
  CHECK(found.buckets.size() == 1);
  CHECK(found.buckets[0].file == "there/m.mindir");
  CHECK(found.buckets[0].batch == 0);
  CHECK(found.buckets[0].frames == 0);
}

TEST_CASE("description of buckets sorts them") {
  const Description found =
      parse_description(changed(kFile, R"("buckets": [{"file": "o", "batch_size": 0, "frames": -1},
                                    {"file": "b", "batch_size": 8, "frames": 1000},
                                    {"file": "a", "batch_size": 1, "frames": 500},
                                    {"file": "c", "batch_size": 1, "frames": 1000}])"),
                        "");
  std::string order;
  for (const Bucket& bucket : found.buckets) order += bucket.file.string();
  CHECK(order == "acbo");
  CHECK(found.buckets[3].frames == 0);
}

TEST_CASE("description that is wrong") {
  const auto parse = [](const std::string& text) { return parse_description(text, ""); };
  CHECK_THROWS_WITH_AS(static_cast<void>(parse("[]")), doctest::Contains("expected an object"),
                       Bad);
  CHECK_THROWS_WITH_AS(static_cast<void>(parse("{}")), doctest::Contains("has no \"model\""), Bad);
  CHECK_THROWS_WITH_AS(static_cast<void>(parse(changed("\"CPU\"", "3"))),
                       doctest::Contains("\"device\" is no text"), Bad);
  CHECK_THROWS_WITH_AS(static_cast<void>(parse(changed("[-1, 4, -1]", "[-1, -1, -1]"))),
                       doctest::Contains("bins"), Bad);
  CHECK_THROWS_WITH_AS(static_cast<void>(parse(changed("[-1, 4, -1]", "[4, -1]"))),
                       doctest::Contains("shape"), Bad);
  CHECK_THROWS_WITH_AS(static_cast<void>(parse(changed("[-1, 4, -1]", "[-1, 4, 1e40]"))),
                       doctest::Contains("whole number"), Bad);
  CHECK_THROWS_WITH_AS(
      static_cast<void>(parse(changed("\"frame_stride\": 2", "\"frame_stride\": 0"))),
      doctest::Contains("frame_stride"), Bad);
  CHECK_THROWS_WITH_AS(static_cast<void>(parse(changed(kFile, "\"buckets\": []"))),
                       doctest::Contains("at least one"), Bad);
  CHECK_THROWS_WITH_AS(static_cast<void>(parse(changed(kFile, R"("buckets": [{"file": "m",
                                                        "batch_size": 1}])"))),
                       doctest::Contains("\"frames\""), Bad);
  CHECK_THROWS_WITH_AS(static_cast<void>(parse(changed("0.015", "\"a\""))),
                       doctest::Contains("window_stride"), Bad);
  CHECK_THROWS_WITH_AS(static_cast<void>(parse(changed(kFile, "\"fil\": 1"))),
                       doctest::Contains("has no \"file\""), Bad);
}

TEST_CASE("description beside a model") {
  const samples::Folder folder;
  const auto in = [&](const char* name) { return folder.path / name; };
  CHECK_THROWS_WITH_AS(static_cast<void>(read_description(in("m.mindir"))),
                       doctest::Contains("cannot be read"), UsageError);
  samples::write(in("m.mindir"), samples::mindir(-1, 4, -1));
  CHECK_THROWS_WITH_AS(static_cast<void>(read_description(in("m.mindir"))),
                       doctest::Contains("has no description m.json"), UsageError);
  samples::write(in("m.json"), std::string("{}"));
  CHECK_THROWS_WITH_AS(static_cast<void>(read_description(in("m.mindir"))),
                       doctest::Contains("not a description"), UsageError);
  samples::write(in("m.json"), std::string(samples::kDescription));
  CHECK(read_description(in("m.mindir")).path == in("m.json"));
  CHECK(read_description(in("m.json")).buckets[0].file == in("m.mindir"));
  check_models(read_description(in("m.json")), "CPU");
}

TEST_CASE("description of a model above one gigabyte") {
  const samples::Folder folder;
  samples::write(folder.path / "m.json", std::string(samples::kDescription));
  samples::write(folder.path / "m_graph.mindir", samples::mindir(-1, 4, -1));
  for (const char* name : {"m.json", "m.mindir", "m_graph.mindir"}) {
    const Description found = read_description(folder.path / name);
    CHECK(found.buckets[0].file == folder.path / "m_graph.mindir");
    check_models(found, "CPU");
  }
}

TEST_CASE("description of a converted model") {
  const samples::Folder folder;
  samples::write(folder.path / "m.json", changed("m.mindir", "m.onnx"));
  samples::write(folder.path / "m.onnx", std::string("onnx"));
  samples::write(folder.path / "m.mindir", samples::mindir(-1, 4, -1));
  CHECK_THROWS_WITH_AS(
      static_cast<void>(check_models(read_description(folder.path / "m.json"), "CPU")),
      doctest::Contains("converter_lite"), UsageError);
  const Description found = read_description(folder.path / "m.mindir");
  CHECK(found.buckets[0].file == folder.path / "m.mindir");
  check_models(found, "CPU");
}

TEST_CASE("description of a single bucket by the name of all") {
  const samples::Folder folder;
  samples::write(folder.path / "m.json", changed("m.mindir", "m_500.mindir"));
  samples::write(folder.path / "m_500.mindir", samples::mindir(-1, 4, -1));
  CHECK(read_description(folder.path / "m.mindir").buckets[0].file == folder.path / "m_500.mindir");
}

TEST_CASE("models that do not fit") {
  const samples::Folder folder;
  const infer::fs::path model = folder.path / "m.mindir";
  const auto check = [&](const std::string& bytes, const std::string& device,
                         const std::string& target) {
    samples::write(model, bytes);
    samples::write(folder.path / "m.json", changed("\"CPU\"", '"' + device + '"'));
    check_models(read_description(model), target);
  };
  check(samples::mindir(-1, 4, -1, "LSTM"), "GPU", "CPU");
  check(samples::mindir(-1, 4, -1), "any", "Ascend");
  check(samples::mindir(-1, 4, -1, "DynamicRNN"), "Ascend", "Ascend");
  CHECK_THROWS_WITH_AS(
      static_cast<void>(check(samples::mindir(-1, 4, -1), "CPU", "Ascend")),
      doctest::Contains("made for CPU, not for Ascend; export it with --device_target Ascend"),
      UsageError);
  CHECK_THROWS_WITH_AS(static_cast<void>(check(samples::mindir(-1, 4, -1), "Ascend", "CPU")),
                       doctest::Contains("made for Ascend, not for CPU"), UsageError);
  CHECK_THROWS_WITH_AS(
      static_cast<void>(check(samples::mindir(-1, 4, -1, "LSTM"), "any", "Ascend")),
      doctest::Contains("operator LSTM"), UsageError);
  CHECK_THROWS_WITH_AS(
      static_cast<void>(check(samples::mindir(-1, 4, -1, "DynamicRNN"), "any", "CPU")),
      doctest::Contains("operator DynamicRNN"), UsageError);
  const std::string swapped = samples::mindir({{"n", {-1}, 6}, {"x", {-1, 4, -1}, 1}}, {"Add"});
  check(swapped, "any", "Ascend");
  CHECK_THROWS_WITH_AS(static_cast<void>(check(swapped, "any", "CPU")),
                       doctest::Contains("its inputs have 1 and 3 axes"), UsageError);
  CHECK_THROWS_WITH_AS(static_cast<void>(check(samples::mindir(-1, 5, -1), "CPU", "CPU")),
                       doctest::Contains("5 bins, not 4"), UsageError);
  CHECK_THROWS_WITH_AS(static_cast<void>(check(samples::mindir(2, 4, 100), "CPU", "CPU")),
                       doctest::Contains("2 x 100 frames, not 0 x 0"), UsageError);
  CHECK_THROWS_WITH_AS(
      static_cast<void>(check(samples::mindir({{"x", {1, 4, 1}, 1}}, {"Add"}), "CPU", "CPU")),
      doctest::Contains("has 1 inputs"), UsageError);
  CHECK_THROWS_WITH_AS(
      static_cast<void>(
          check(samples::mindir({{"x", {-1, 4, -1}, 1}, {"y", {-1}, 7}}, {"Add"}), "CPU", "CPU")),
      doctest::Contains("not int32"), UsageError);
  CHECK_THROWS_WITH_AS(static_cast<void>(check("foreign", "CPU", "CPU")),
                       doctest::Contains("not a MindIR file"), UsageError);
}
