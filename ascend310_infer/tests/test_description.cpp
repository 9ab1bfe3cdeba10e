#include "check.h"
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

TEST(description_of_one_file) {
  const Description found = parse_description(samples::kDescription, "there");
  CHECK(found.model == "deepspeech2" && found.device == "CPU");
  CHECK(found.dimension == 4 && found.labels == 5 && found.frame_stride == 2);
  CHECK(found.frame_seconds == 0.015);
  CHECK(found.buckets.size() == 1);
  CHECK(found.buckets[0].file == "there/m.mindir");
  CHECK(found.buckets[0].batch == 0 && found.buckets[0].frames == 0);
}

TEST(description_of_buckets_sorts_them) {
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

TEST(description_that_is_wrong) {
  const auto parse = [](const std::string& text) { return parse_description(text, ""); };
  CHECK_THROWS(Bad, "expected an object", parse("[]"));
  CHECK_THROWS(Bad, "has no \"model\"", parse("{}"));
  CHECK_THROWS(Bad, "\"device\" is no text", parse(changed("\"CPU\"", "3")));
  CHECK_THROWS(Bad, "bins", parse(changed("[-1, 4, -1]", "[-1, -1, -1]")));
  CHECK_THROWS(Bad, "shape", parse(changed("[-1, 4, -1]", "[4, -1]")));
  CHECK_THROWS(Bad, "whole number", parse(changed("[-1, 4, -1]", "[-1, 4, 1e40]")));
  CHECK_THROWS(Bad, "frame_stride", parse(changed("\"frame_stride\": 2", "\"frame_stride\": 0")));
  CHECK_THROWS(Bad, "at least one", parse(changed(kFile, "\"buckets\": []")));
  CHECK_THROWS(Bad, "\"frames\"", parse(changed(kFile, R"("buckets": [{"file": "m",
                                                        "batch_size": 1}])")));
  CHECK_THROWS(Bad, "window_stride", parse(changed("0.015", "\"a\"")));
  CHECK_THROWS(Bad, "has no \"file\"", parse(changed(kFile, "\"fil\": 1")));
}

TEST(description_beside_a_model) {
  const samples::Folder folder;
  const auto in = [&](const char* name) { return folder.path / name; };
  CHECK_THROWS(UsageError, "cannot be read", read_description(in("m.mindir")));
  samples::write(in("m.mindir"), samples::mindir(-1, 4, -1));
  CHECK_THROWS(UsageError, "has no description m.json", read_description(in("m.mindir")));
  samples::write(in("m.json"), std::string("{}"));
  CHECK_THROWS(UsageError, "not a description", read_description(in("m.mindir")));
  samples::write(in("m.json"), std::string(samples::kDescription));
  CHECK(read_description(in("m.mindir")).path == in("m.json"));
  CHECK(read_description(in("m.json")).buckets[0].file == in("m.mindir"));
  check_models(read_description(in("m.json")), "CPU");
}

TEST(description_of_a_model_above_one_gigabyte) {
  const samples::Folder folder;
  samples::write(folder.path / "m.json", std::string(samples::kDescription));
  samples::write(folder.path / "m_graph.mindir", samples::mindir(-1, 4, -1));
  for (const char* name : {"m.json", "m.mindir", "m_graph.mindir"}) {
    const Description found = read_description(folder.path / name);
    CHECK(found.buckets[0].file == folder.path / "m_graph.mindir");
    check_models(found, "CPU");
  }
}

TEST(description_of_a_converted_model) {
  const samples::Folder folder;
  samples::write(folder.path / "m.json", changed("m.mindir", "m.onnx"));
  samples::write(folder.path / "m.onnx", std::string("onnx"));
  samples::write(folder.path / "m.mindir", samples::mindir(-1, 4, -1));
  CHECK_THROWS(UsageError, "converter_lite",
               check_models(read_description(folder.path / "m.json"), "CPU"));
  const Description found = read_description(folder.path / "m.mindir");
  CHECK(found.buckets[0].file == folder.path / "m.mindir");
  check_models(found, "CPU");
}

TEST(description_of_a_single_bucket_by_the_name_of_all) {
  const samples::Folder folder;
  samples::write(folder.path / "m.json", changed("m.mindir", "m_500.mindir"));
  samples::write(folder.path / "m_500.mindir", samples::mindir(-1, 4, -1));
  CHECK(read_description(folder.path / "m.mindir").buckets[0].file == folder.path / "m_500.mindir");
}

TEST(models_that_do_not_fit) {
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
  CHECK_THROWS(UsageError, "made for CPU, not for Ascend; export it with --device_target Ascend",
               check(samples::mindir(-1, 4, -1), "CPU", "Ascend"));
  CHECK_THROWS(UsageError, "made for Ascend, not for CPU",
               check(samples::mindir(-1, 4, -1), "Ascend", "CPU"));
  CHECK_THROWS(UsageError, "operator LSTM",
               check(samples::mindir(-1, 4, -1, "LSTM"), "any", "Ascend"));
  CHECK_THROWS(UsageError, "operator DynamicRNN",
               check(samples::mindir(-1, 4, -1, "DynamicRNN"), "any", "CPU"));
  const std::string swapped = samples::mindir({{"n", {-1}, 6}, {"x", {-1, 4, -1}, 1}}, {"Add"});
  check(swapped, "any", "Ascend");
  CHECK_THROWS(UsageError, "its inputs have 1 and 3 axes", check(swapped, "any", "CPU"));
  CHECK_THROWS(UsageError, "5 bins, not 4", check(samples::mindir(-1, 5, -1), "CPU", "CPU"));
  CHECK_THROWS(UsageError, "2 x 100 frames, not 0 x 0",
               check(samples::mindir(2, 4, 100), "CPU", "CPU"));
  CHECK_THROWS(UsageError, "has 1 inputs",
               check(samples::mindir({{"x", {1, 4, 1}, 1}}, {"Add"}), "CPU", "CPU"));
  CHECK_THROWS(
      UsageError, "not int32",
      check(samples::mindir({{"x", {-1, 4, -1}, 1}, {"y", {-1}, 7}}, {"Add"}), "CPU", "CPU"));
  CHECK_THROWS(UsageError, "not a MindIR file", check("foreign", "CPU", "CPU"));
}
