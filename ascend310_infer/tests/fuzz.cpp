// Readers on broken input: 30 000 of them, always the same ones. What counts is that each is read
// or refused with the error that its reader promises, and, in a build with SANITIZE, that no byte
// is touched that is not theirs.

#include <doctest/doctest.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <random>

#include "description.h"
#include "errors.h"
#include "feature_config.h"
#include "files.h"
#include "json.h"
#include "samples.h"
#include "utterances.h"

namespace {

std::mt19937 g_random(20261121);

std::size_t below(std::size_t end) {
  return std::uniform_int_distribution<std::size_t>(0, end - 1)(g_random);
}

char any_byte() { return static_cast<char>(below(256)); }

// One to four changes: a byte replaced, inserted, or left out, a piece repeated, or the end cut
// off.
std::string damaged(std::string bytes, const std::string& likely) {
  for (std::size_t change = below(4) + 1; change > 0; --change) {
    const std::size_t at = below(bytes.size() + 1);
    const char byte = below(2) == 0 ? any_byte() : likely[below(likely.size())];
    switch (below(5)) {
      case 0:
        if (at < bytes.size()) bytes[at] = byte;
        break;
      case 1:
        bytes.insert(at, 1, byte);
        break;
      case 2:
        bytes.erase(at, below(8));
        break;
      case 3:
        bytes.insert(below(bytes.size() + 1), bytes.substr(at, below(32)));
        break;
      default:
        if (below(8) == 0) bytes.resize(at);
    }
  }
  return bytes;
}

// Both happen, or the test says nothing.
template <class Error, class Reader>
void fuzz(int count, const std::string& sample, const std::string& likely, Reader reader) {
  int read = 0, refused = 0;
  for (int i = 0; i < count; ++i) {
    const std::string input = damaged(sample, likely);
    try {
      reader(input);
      ++read;
    } catch (const Error& error) {
      ++refused;
      CHECK(error.what()[0] != '\0');
    }
  }
  CHECK(read > count / 100);
  CHECK(refused > count / 100);
}

const char* const kJsonBytes = "{}[]\",:0123456789-+.eE\\u\n tfn";
const char* const kLine =
    R"({"name": "an406-fcaw-b", "features": "00_data/a\u00e9.bin", "frames": 371})";

}  // namespace

TEST_CASE("fuzz descriptions") {
  std::string buckets =
      R"("blank": 4, "buckets": [{"file": "b.mindir", "batch_size": 8, "frames": 500, )";
  buckets += samples::graph(samples::inputs("[8, 4, 500]", "[8]")) + "}], \"device\"";
  std::string described = samples::kDescription;
  described.replace(described.find("\"device\""), 8, buckets);
  for (const std::string& sample : {std::string(samples::kDescription), described})
    fuzz<std::invalid_argument>(6000, sample, kJsonBytes, [](const std::string& text) {
      const infer::Description found = infer::parse_description(text, "");
      CHECK(found.dimension > 0);
      CHECK(found.labels > 1);
      CHECK(found.alphabet.blank < found.alphabet.labels.size());
      CHECK(!found.buckets.empty());
    });
}

// Each part of a document takes the place of each other one, and each is left out, so that every
// value has every wrong type and every key is missing once.
TEST_CASE("descriptions with wrong types and missing keys") {
  const infer::Json root = infer::parse_json(samples::kDescription);
  const infer::Json flat = root.flatten();
  const std::vector<infer::Json> values{
      nullptr,
      true,
      -1,
      1.5,
      1e300,
      "text",
      "",
      infer::Json::array(),
      infer::Json::object(),
      infer::Json::array({nullptr, nullptr}),
      infer::parse_json(std::string(60, '[') + std::string(60, ']'))};
  int refused = 0;
  const auto read = [&refused](const infer::Json& document) {
    try {
      infer::parse_description(document.dump(), "");
    } catch (const std::invalid_argument& error) {
      ++refused;
      CHECK(error.what()[0] != '\0');
    }
  };
  for (const auto& [path, unused] : flat.items())
    for (const infer::Json& value : values) {
      infer::Json document = root;
      document.at(infer::Json::json_pointer(path)) = value;
      read(document);
    }
  CHECK(refused > static_cast<int>(flat.size()));
  for (const char* key : {"model", "labels", "device", "inputs", "file"}) {
    infer::Json document = root;
    document.erase(key);
    CHECK_THROWS_WITH_AS(infer::parse_description(document.dump(), ""),
                         (std::string("has no \"") + key + '"').c_str(), std::invalid_argument);
  }
  const std::string text = samples::kDescription;
  for (std::size_t end = 0; end < text.rfind('}'); ++end)
    CHECK_THROWS_AS(infer::parse_description(text.substr(0, end), ""), std::invalid_argument);
}

TEST_CASE("fuzz features") {
  fuzz<std::invalid_argument>(
      5000,
      R"({"kind": "logmel", "sample_rate": 16000, "window_size": 0.02, "window_stride": 0.01,
          "window": "hann", "bands": 64, "convention": "jasper-nvidia", "preemphasis": 0.97,
          "frame_splicing": 3, "trim_silence": true})",
      kJsonBytes, [](const std::string& text) {
        const auto found = infer::parse_features(infer::parse_json(text));
        CHECK(found.dimension() > 0);
        CHECK(found.window_length() > 1);
        CHECK(found.hop_length() > 0);
      });
}

TEST_CASE("fuzz index lines") {
  fuzz<infer::InputError>(15000, kLine, kJsonBytes, [](const std::string& text) {
    const infer::Utterance found = infer::parse_index_line(text, "there");
    CHECK(found.frames > 0);
    CHECK(found.name.find('/') == std::string::npos);
  });
}

TEST_CASE("fuzz names") {
  const samples::Folder folder;
  for (int i = 0; i < 2000; ++i) {
    std::string name;
    for (std::size_t count = below(6); count > 0; --count)
      name += below(2) == 0 ? any_byte() : "./\\\"a _0"[below(8)];
    try {
      infer::check_name(name);
    } catch (const infer::InputError&) {
      continue;
    }
    // A name that is accepted is that of a file in this folder, which is found again.
    const infer::fs::path path = infer::result_file(folder.path, name, 1);
    const std::int32_t value = i;
    infer::write_atomically(path, &value, sizeof value);
    CHECK(infer::read_int(path) == i);
    CHECK(path.parent_path() == folder.path);
  }
}

TEST_CASE("fuzz sizes") {
  const samples::Folder folder;
  std::filesystem::create_directories(folder.path / "0");
  std::filesystem::create_directories(folder.path / "1");
  for (int i = 0; i < 2000; ++i) {
    const std::size_t bytes = below(40), header = below(8) == 0 ? below(8) : 4;
    std::string lengths(header, '\0');
    for (char& c : lengths) c = below(3) == 0 ? any_byte() : static_cast<char>(below(3));
    if (header == 4 && below(2) == 0) lengths = {static_cast<char>(bytes / 8), 0, 0, 0};
    samples::write(folder.path / "0" / "a.bin", std::string(bytes, 'x'));
    samples::write(folder.path / "1" / "a.bin", lengths);
    const infer::Listing found = infer::list_folders(folder.path / "0", folder.path / "1", 2);
    const bool good = header == 4 && bytes > 0 && bytes % 8 == 0 &&
                      lengths == std::string{static_cast<char>(bytes / 8), 0, 0, 0};
    CHECK(found.good.size() == (good ? 1U : 0U));
    CHECK(found.bad.size() == (good ? 0U : 1U));
  }
}
