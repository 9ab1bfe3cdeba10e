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

// Of a model that takes samples at 16 kHz, with feature frames of 240 samples.
std::string of_samples() {
  return replaced(R"([{"name": "features", "shape": [-1, 4, -1]})",
                  R"([{"name": "samples", "shape": [-1, -1]})")
      .insert(1, R"("input": "samples", )");
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
  std::string text = replaced("m.mindir", "m.onnx");
  text.replace(text.find("\"CPU\""), 5, "\"any\"");
  samples::write(folder.path / "m.json", text);
  samples::write(folder.path / "m.onnx", std::string("onnx"));
  samples::write(folder.path / "m.mindir", std::string("of any size"));
  CHECK(check_models(read_description(folder.path / "m.json"), "CPU").empty());
  CHECK_THROWS_WITH_AS(check_models(read_description(folder.path / "m.json"), "Ascend"),
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

namespace {

// "files" of a description: m.mindir with the content of kModel.
std::string files(const std::string& bytes = "22", const std::string& crc32 = "e2985dcb") {
  return R"("files": [{"file": "m.mindir", "bytes": )" + bytes + R"(, "crc32": ")" + crc32 +
         R"("}], "file": "m.mindir")";
}

}  // namespace

TEST_CASE("a model of another export is rejected by size and checksum") {
  const samples::Folder folder;
  const internal::fs::path model = folder.path / "m.mindir";
  samples::write(model, std::string(samples::kModel));
  const auto check = [&](const std::string& described, const std::string& target = "CPU") {
    std::string text = replaced(kFile, described);
    if (target != "CPU") text.replace(text.find("\"CPU\""), 5, "\"any\"");
    samples::write(folder.path / "m.json", text);
    return check_models(read_description(model), target);
  };
  CHECK(check(files()).size() == 1);  // that it has no "graph"
  CHECK_THROWS_WITH_AS(check(files("23")),
                       doctest::Contains("22 bytes, but"), UsageError);
  CHECK_THROWS_WITH_AS(check(files("22", "e2985dc0")),
                       doctest::Contains("checksum e2985dcb, but"), UsageError);
  CHECK_THROWS_WITH_AS(check(files("22", "e2985dc0")),
                       doctest::Contains("describes a file of checksum e2985dc0: one of the two is "
                                         "of another export; copy both"),
                       UsageError);
  const auto notes = check(files("22", "e2985dc0"), "Ascend");  // the converter may have been there
  REQUIRE(notes.size() == 2);
  CHECK(notes[1].find("is not the file that m.json describes") != std::string::npos);
  const std::string other = R"("files": [{"file": "m_variables/data_0", "bytes": 5, "crc32":
                               "00000000"}], "file": "m.mindir")";
  CHECK_THROWS_WITH_AS(check(other), doctest::Contains("m_variables/data_0: No such file"),
                       UsageError);
}

TEST_CASE("a renamed copy of a model is checked as the model is") {
  const samples::Folder folder;
  samples::write(folder.path / "copy.mindir", std::string(samples::kModel));
  samples::write(folder.path / "copy.json", replaced(kFile, files()));
  const Description found = read_description(folder.path / "copy.mindir");
  CHECK(found.buckets[0].file == folder.path / "copy.mindir");
  CHECK(!found.buckets[0].converted);
  CHECK(check_models(found, "CPU").size() == 1);
  samples::write(folder.path / "copy.mindir", std::string("another, of 22 bytes.."));
  CHECK_THROWS_WITH_AS(check_models(read_description(folder.path / "copy.mindir"), "CPU"),
                       doctest::Contains("copy.mindir: checksum"), UsageError);
}

TEST_CASE("sizes and checksums that are malformed are rejected") {
  for (const std::string& bad :
       {files("-1"), files("\"22\""), files("22", "e2985dc"), files("22", "e2985dcg"),
        files("22", "0xe2985d"), files("22", "-2985dcb"),
        std::string(R"("files": 3, "file": "m.mindir")"),
        std::string(R"("files": [{"file": "m.mindir"}], "file": "m.mindir")")}) {
    CAPTURE(bad);
    CHECK_THROWS_AS(parse_description(replaced(kFile, bad), ""), Bad);
  }
}

TEST_CASE("description of an ONNX file has its name") {
  const samples::Folder folder;
  const auto in = [&](const char* name) { return folder.path / name; };
  const std::string onnx = replaced("m.mindir", "m.onnx");
  samples::write(in("m.onnx"), std::string("onnx"));
  samples::write(in("m.onnx.json"), onnx);
  samples::write(in("m.mindir"), std::string(samples::kModel));
  samples::write(in("m.onnx.mindir"), std::string("converted"));
  CHECK(read_description(in("m.mindir")).path == in("m.onnx.json"));  // converted by hand
  samples::write(in("m.json"), std::string(samples::kDescription));
  CHECK(read_description(in("m.mindir")).path == in("m.json"));
  CHECK(read_description(in("m.onnx")).path == in("m.onnx.json"));
  const Description converted = read_description(in("m.onnx.mindir"));
  CHECK(converted.path == in("m.onnx.json"));
  CHECK(converted.buckets[0].file == in("m.onnx.mindir"));
  CHECK(converted.buckets[0].converted);
  samples::write(in("m.offline.mindir"), std::string("converted"));
  const Description offline = read_description(in("m.offline.mindir"));
  CHECK(offline.path == in("m.json"));
  CHECK(offline.buckets[0].converted);
  // As earlier versions wrote it.
  internal::fs::remove(in("m.onnx.json"));
  samples::write(in("m.json"), onnx);
  CHECK(read_description(in("m.onnx.mindir")).buckets[0].file == in("m.onnx.mindir"));
}

TEST_CASE("description of a model that takes samples counts in samples") {
  const Description found = parse_description(of_samples(), "");
  CHECK(found.takes_samples);
  CHECK(found.dimension == 1);
  CHECK(found.hop == 240);
  CHECK(found.frame_stride == 2 * 240);
  CHECK(found.frame_seconds == 1.0 / 16000);
  CHECK(!found.trims_silence());
  CHECK(std::string(found.unit()) == "samples");
  std::string text = of_samples();
  text.insert(text.find("\"kind\""), "\"trim_silence\": true, ");
  CHECK(parse_description(text, "").trims_silence());
  text = of_samples();
  text.replace(text.find("\"samples\", \"shape\""), 9, "\"other\"");
  CHECK_NOTHROW(parse_description(text, ""));  // names are the engine's
  for (const auto& [from, to] :
       {std::pair{"[-1, -1]", "[-1, 4, -1]"}, std::pair{"\"input\": \"samples\"", "\"input\": 1"},
        std::pair{"\"window_stride\"", "\"stride\""}}) {
    CAPTURE(to);
    std::string bad = of_samples();
    bad.replace(bad.find(from), std::string(from).size(), to);
    CHECK_THROWS_AS(parse_description(bad, ""), Bad);
  }
}

TEST_CASE("description inside a model is of that file, whatever its name") {
  const internal::fs::path model = "folder/renamed.onnx";
  const Description found = internal::embedded_description(of_samples(), model);
  CHECK(found.path == model);
  CHECK(found.buckets.front().file == model);
  CHECK_THROWS_WITH_AS(internal::embedded_description("{}", model),
                       doctest::Contains("folder/renamed.onnx: the description inside it"),
                       UsageError);
}

TEST_CASE("description inside a model tells damage of the model before it") {
  const samples::Folder folder;
  const internal::fs::path model = folder.path / "m.onnx";
  const auto check = [&](const std::string& bytes, const std::string& content) {
    samples::write(model, bytes);
    const std::string text = of_samples().insert(1, "\"content\": " + content + ", ");
    check_models(internal::embedded_description(text, model), "CPU");
  };
  const std::string content = R"({"bytes": 9, "crc32": "cbf43926"})";  // ISO 3309's check value
  CHECK_NOTHROW(check("123456789", content));
  CHECK_NOTHROW(check("123456789, and metadata", content));
  CHECK_THROWS_WITH_AS(check("123406789, and metadata", content),
                       doctest::Contains("m.onnx: its model has the checksum "), UsageError);
  CHECK_THROWS_WITH_AS(check("12345678", content),
                       doctest::Contains("m.onnx: 8 bytes, but its description is of a model with "
                                         "at least 9 bytes"),
                       UsageError);
  for (const char* bad : {"3", "{}", R"({"bytes": -1, "crc32": "cbf43926"})",
                          R"({"bytes": 9, "crc32": "cbf4392"})", R"({"bytes": 9, "crc32": 1})"}) {
    CAPTURE(bad);
    CHECK_THROWS_AS(check("123456789", bad), UsageError);
  }
}

TEST_CASE("description forecasts memory") {
  const auto parse = [](const std::string& memory) {
    return parse_description(replaced("\"device\"", "\"memory\": " + memory + ", \"device\""), "");
  };
  const Description found = parse(R"({"fixed_bytes": 4e9, "bytes_per_frame": 1000000})");
  REQUIRE(found.memory);
  CHECK(found.memory->fixed == 4e9);
  CHECK(found.memory->per_frame == 1e6);
  const internal::MemoryBudget budget(*found.memory, 6.5e9);
  CHECK(budget.most_frames() == 2500);
  CHECK(internal::MemoryBudget(*found.memory, 1e9).most_frames() == 0);
  // 10^4 frames: 4e9 + 1e10 bytes are 13.04 GiB; 6.5e9 bytes are 6.05 GiB.
  CHECK(budget.reason(10000, 0.01, "--max_frames")
            .find("100 s take about 13.0 GiB to recognise, and 6.1 GiB are allowed") == 0);
  CHECK(budget.reason(10000, 0.01, "--max_frames")
            .find("pieces of at most 25 s, or have it split into parts by --max_frames 2500") !=
        std::string::npos);
  CHECK(budget.reason(10000, 0, "x").find("10000 frames take") == 0);
  const internal::MemoryBudget small({8e9, 1e6}, 4e9);  // parts of 0 frames are no remedy
  CHECK(small.most_frames() == 0);
  CHECK(small.reason(100, 0.01, "--max_frames").find("the network alone takes more") !=
        std::string::npos);
  CHECK(small.reason(100, 0.01, "--max_frames").find("--max_frames") == std::string::npos);
  CHECK(internal::memory_budget(found, "CPU", 1).has_value());
  CHECK(!internal::memory_budget(found, "Ascend", 1));
  CHECK(!internal::memory_budget(parse("null"), "CPU", 1));
  for (const char* bad : {"3", "{}", R"({"fixed_bytes": 1})",
                          R"({"fixed_bytes": 1, "bytes_per_frame": 0})",
                          R"({"fixed_bytes": -1, "bytes_per_frame": 1})",
                          R"({"fixed_bytes": "1", "bytes_per_frame": 1})"}) {
    CAPTURE(bad);
    CHECK_THROWS_AS(parse(bad), Bad);
  }
}
