#include <doctest/doctest.h>

#include "description.h"
#include "errors.h"
#include "samples.h"

namespace internal = speech::internal;

using internal::Bucket;
using internal::check_models;
using internal::Description;
using internal::parse_description;
using internal::read_description;
using internal::UsageError;
using Bad = std::invalid_argument;

namespace {

// The sample, with one piece of its text replaced.
std::string replaced(const std::string& from, const std::string& to) {
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
      parse_description(replaced(kFile, R"("buckets": [{"file": "o", "batch_size": 0, "frames": -1},
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
  CHECK_THROWS_WITH_AS(parse(("[]")), doctest::Contains("expected an object"), Bad);
  CHECK_THROWS_WITH_AS(parse(("{}")), doctest::Contains("has no \"model\""), Bad);
  CHECK_THROWS_WITH_AS(parse(replaced("\"CPU\"", "3")), doctest::Contains("\"device\" is no text"),
                       Bad);
  CHECK_THROWS_WITH_AS(parse(replaced("[-1, 4, -1]", "[-1, -1, -1]")), doctest::Contains("bins"),
                       Bad);
  CHECK_THROWS_WITH_AS(parse(replaced("[-1, 4, -1]", "[4, -1]")), doctest::Contains("shape"), Bad);
  CHECK_THROWS_WITH_AS(parse(replaced("[-1, 4, -1]", "[-1, 4, 1e40]")),
                       doctest::Contains("whole number"), Bad);
  CHECK_THROWS_WITH_AS(parse(replaced("\"frame_stride\": 2", "\"frame_stride\": 0")),
                       doctest::Contains("frame_stride"), Bad);
  CHECK_THROWS_WITH_AS(parse(replaced(kFile, "\"buckets\": []")), doctest::Contains("at least one"),
                       Bad);
  CHECK_THROWS_WITH_AS(parse((replaced(kFile, R"("buckets": [{"file": "m",
                                                        "batch_size": 1}])"))),
                       doctest::Contains("\"frames\""), Bad);
  CHECK_THROWS_WITH_AS(parse(replaced("0.015", "\"a\"")), doctest::Contains("window_stride"), Bad);
  CHECK_THROWS_WITH_AS(parse(replaced(kFile, "\"fil\": 1")), doctest::Contains("has no \"file\""),
                       Bad);
}

TEST_CASE("description names the blank label by its index") {
  const auto blank = [](const std::string& text) {
    return parse_description(replaced("\"device\"", "\"blank\": " + text + ", \"device\""), "")
        .vocabulary.blank;
  };
  CHECK(parse_description(samples::kDescription, "").vocabulary.blank == 4);
  CHECK(blank("0") == 0);
  CHECK_THROWS_WITH_AS(blank("5"), doctest::Contains("there is no such label"), Bad);
  CHECK_THROWS_WITH_AS(blank("-1"), doctest::Contains("\"blank\""), Bad);
}

TEST_CASE("description has the graph of each file") {
  const Description found = parse_description(
      replaced(kFile,
               "\"buckets\": [{\"file\": \"m\", \"batch_size\": 2, \"frames\": 100, " +
                   samples::graph(samples::inputs("[2, 4, 100]", "[2]"), "\"LSTM\", \"MatMul\"") +
                   "}]"),
      "");
  REQUIRE(found.buckets[0].graph);
  const internal::GraphFacts& graph = *found.buckets[0].graph;
  CHECK(graph.bytes == 22);
  CHECK(graph.operators == std::set<std::string>{"LSTM", "MatMul"});
  REQUIRE(graph.inputs.size() == 2);
  CHECK(graph.inputs[0].type == "float32");
  CHECK(graph.inputs[0].shape == std::vector<std::int64_t>{2, 4, 100});
  CHECK(graph.inputs[1].shape == std::vector<std::int64_t>{2});
  CHECK(!parse_description(samples::kDescription, "").buckets[0].graph);
}

TEST_CASE("a graph of other types than expected is rejected") {
  for (const char* graph :
       {"3", "[]", "{}", R"({"bytes": -1, "inputs": [], "operators": []})",
        R"({"bytes": 1e30, "inputs": [], "operators": []})",
        R"({"bytes": 1, "inputs": {}, "operators": []})", R"({"bytes": 1, "inputs": []})",
        R"({"bytes": 1, "inputs": [], "operators": [1]})",
        R"({"bytes": 1, "inputs": [{"shape": []}], "operators": []})",
        R"({"bytes": 1, "inputs": [{"type": "float32", "shape": 1}], "operators": []})",
        R"({"bytes": 1, "inputs": [{"type": "float32", "shape": [1.5]}], "operators": []})"}) {
    CAPTURE(graph);
    CHECK_THROWS_AS(
        parse_description(
            replaced(kFile, R"("buckets": [{"file": "m", "batch_size": 2, "frames": 1, "graph": )" +
                                std::string(graph) + "}]"),
            ""),
        Bad);
  }
}

TEST_CASE("description beside a model") {
  const samples::Folder folder;
  const auto in = [&](const char* name) { return folder.path / name; };
  CHECK_THROWS_WITH_AS(read_description(in("m.mindir")), doctest::Contains("cannot be read"),
                       UsageError);
  samples::write(in("m.mindir"), std::string(samples::kModel));
  CHECK_THROWS_WITH_AS(read_description(in("m.mindir")),
                       doctest::Contains("has no description m.json"), UsageError);
  samples::write(in("m.json"), std::string("{}"));
  CHECK_THROWS_WITH_AS(read_description(in("m.mindir")), doctest::Contains("not a description"),
                       UsageError);
  samples::write(in("m.json"), std::string(samples::kDescription));
  CHECK(read_description(in("m.mindir")).path == in("m.json"));
  CHECK(read_description(in("m.json")).buckets[0].file == in("m.mindir"));
}

TEST_CASE("a description of an earlier version works, and a note says what is not checked") {
  const samples::Folder folder;
  samples::write(folder.path / "m.mindir", std::string("other bytes"));
  samples::write(folder.path / "m.json", std::string(samples::kDescription));
  const auto notes = check_models(read_description(folder.path / "m.mindir"), "CPU");
  REQUIRE(notes.size() == 1);
  CHECK(notes[0].find("m.json is of an earlier export.py") == 0);
  CHECK(notes[0].find('\n') == std::string::npos);
}

TEST_CASE("description of a model above one gigabyte") {
  const samples::Folder folder;
  samples::write(folder.path / "m.json", std::string(samples::kDescription));
  samples::write(folder.path / "m_graph.mindir", std::string(samples::kModel));
  for (const char* name : {"m.json", "m.mindir", "m_graph.mindir"}) {
    const Description found = read_description(folder.path / name);
    CHECK(found.buckets[0].file == folder.path / "m_graph.mindir");
    check_models(found, "CPU");
  }
}

TEST_CASE("description of a converted model") {
  const samples::Folder folder;
  samples::write(folder.path / "m.json", replaced("m.mindir", "m.onnx"));
  samples::write(folder.path / "m.onnx", std::string("onnx"));
  samples::write(folder.path / "m.mindir", std::string("of any size"));
  CHECK_THROWS_WITH_AS(check_models(read_description(folder.path / "m.json"), "CPU"),
                       doctest::Contains("converter_lite"), UsageError);
  const Description found = read_description(folder.path / "m.mindir");
  CHECK(found.buckets[0].file == folder.path / "m.mindir");
  CHECK(check_models(found, "CPU").empty());
}

TEST_CASE("description of a single bucket by the name of all") {
  const samples::Folder folder;
  samples::write(folder.path / "m.json", replaced("m.mindir", "m_500.mindir"));
  samples::write(folder.path / "m_500.mindir", std::string(samples::kModel));
  CHECK(read_description(folder.path / "m.mindir").buckets[0].file == folder.path / "m_500.mindir");
}

TEST_CASE("models that do not fit their description or the device are rejected") {
  const samples::Folder folder;
  const internal::fs::path model = folder.path / "m.mindir";
  const auto check = [&](const std::string& graph, const std::string& device,
                         const std::string& target, const std::string& bytes = samples::kModel) {
    samples::write(model, bytes);
    samples::write(
        folder.path / "m.json",
        replaced("\"CPU\"", '"' + device + "\", \"buckets\": [{\"file\": \"m.mindir\", " +
                                "\"batch_size\": -1, \"frames\": -1, " + graph + "}]"));
    const auto notes = check_models(read_description(model), target);
    CHECK(notes.empty());
  };
  const auto rejected = [&](const char* said, const std::string& graph, const std::string& device,
                            const std::string& target, const std::string& bytes = samples::kModel) {
    CHECK_THROWS_WITH_AS(check(graph, device, target, bytes), doctest::Contains(said), UsageError);
  };
  const std::string open = samples::inputs("[-1, 4, -1]", "[-1]");
  const std::string plain = samples::graph(open), lstm = samples::graph(open, "\"LSTM\""),
                    dynamic_rnn = samples::graph(open, "\"DynamicRNN\"");
  check(lstm, "GPU", "CPU");
  check(plain, "any", "Ascend");
  check(dynamic_rnn, "Ascend", "Ascend");
  check(samples::graph(samples::inputs("[-1, 4, -1]", "[-1]", "float16")), "any", "CPU");
  rejected("made for CPU, not for Ascend; export it with --device_target Ascend", plain, "CPU",
           "Ascend");
  rejected("made for Ascend, not for CPU", plain, "Ascend", "CPU");
  rejected("operator LSTM", lstm, "any", "Ascend");
  rejected("operator DynamicRNN", dynamic_rnn, "any", "CPU");
  rejected("its inputs have 1 and 3 axes", samples::graph(samples::inputs("[-1]", "[-1, 4, -1]")),
           "any", "CPU");
  rejected("5 bins, not 4", samples::graph(samples::inputs("[-1, 5, -1]", "[-1]")), "CPU", "CPU");
  rejected("2 x 100 frames, not 0 x 0", samples::graph(samples::inputs("[2, 4, 100]", "[2]")),
           "CPU", "CPU");
  rejected("has 0 inputs", samples::graph(""), "CPU", "CPU");
  rejected("not int32", samples::graph(samples::inputs("[-1, 4, -1]", "[-1]", "int32")), "CPU",
           "CPU");
  rejected("7 bytes, and m.json describes a file of 22", plain, "CPU", "CPU", "foreign");
  rejected("empty", plain, "CPU", "CPU", "");
  check(lstm, "any", "Ascend", "made of it by a converter, with other operators");
}
