// Fuzzes the readers with 30 000 broken inputs, the same in every run. Each must be read or
// rejected with the documented error; a build with SANITIZE also finds invalid memory accesses.

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
#include "utterance_list.h"

namespace internal = speech::internal;

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

// At least 1 % of the inputs must be accepted, and 1 % rejected.
template <class Error, class Reader>
void fuzz(int count, const std::string& sample, const std::string& likely, Reader reader) {
  int read = 0, rejected = 0;
  for (int i = 0; i < count; ++i) {
    const std::string input = damaged(sample, likely);
    try {
      reader(input);
      ++read;
    } catch (const Error& error) {
      ++rejected;
      CHECK(error.what()[0] != '\0');
    }
  }
  CHECK(read > count / 100);
  CHECK(rejected > count / 100);
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
      const internal::Description found = internal::parse_description(text, "");
      CHECK(found.dimension > 0);
      CHECK(found.labels > 1);
      CHECK(found.vocabulary.blank < found.vocabulary.labels.size());
      CHECK(!found.buckets.empty());
    });
}

// Replaces every value by values of all other types, leaves out every key, and cuts the text at
// every byte.
TEST_CASE("descriptions with wrong types and missing keys") {
  const internal::Json root = internal::parse_json(samples::kDescription);
  const internal::Json flat = root.flatten();
  const std::vector<internal::Json> values{
      nullptr,
      true,
      -1,
      1.5,
      1e300,
      "text",
      "",
      internal::Json::array(),
      internal::Json::object(),
      internal::Json::array({nullptr, nullptr}),
      internal::parse_json(std::string(60, '[') + std::string(60, ']'))};
  int rejected = 0;
  const auto read = [&rejected](const internal::Json& document) {
    try {
      internal::parse_description(document.dump(), "");
    } catch (const std::invalid_argument& error) {
      ++rejected;
      CHECK(error.what()[0] != '\0');
    }
  };
  for (const auto& [path, unused] : flat.items())
    for (const internal::Json& value : values) {
      internal::Json document = root;
      document.at(internal::Json::json_pointer(path)) = value;
      read(document);
    }
  CHECK(rejected > static_cast<int>(flat.size()));
  for (const char* key : {"model", "labels", "device", "inputs", "file"}) {
    internal::Json document = root;
    document.erase(key);
    CHECK_THROWS_WITH_AS(internal::parse_description(document.dump(), ""),
                         (std::string("has no \"") + key + '"').c_str(), std::invalid_argument);
  }
  const std::string text = samples::kDescription;
  for (std::size_t end = 0; end < text.rfind('}'); ++end)
    CHECK_THROWS_AS(internal::parse_description(text.substr(0, end), ""), std::invalid_argument);
}

TEST_CASE("fuzz features") {
  fuzz<std::invalid_argument>(
      5000,
      R"({"kind": "logmel", "sample_rate": 16000, "window_size": 0.02, "window_stride": 0.01,
          "window": "hann", "bands": 64, "convention": "jasper-nvidia", "preemphasis": 0.97,
          "frame_splicing": 3, "trim_silence": true})",
      kJsonBytes, [](const std::string& text) {
        const auto found = internal::parse_features(internal::parse_json(text));
        CHECK(found.dimension() > 0);
        CHECK(found.window_length() > 1);
        CHECK(found.hop_length() > 0);
      });
}

TEST_CASE("fuzz index lines") {
  fuzz<internal::InputError>(15000, kLine, kJsonBytes, [](const std::string& text) {
    const internal::Utterance found = internal::parse_index_line(text, "there");
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
      internal::check_name(name);
    } catch (const internal::InputError&) {
      continue;
    }
    // A file of an accepted name can be written and read again, in this folder.
    const internal::fs::path path = internal::result_file(folder.path, name, 1);
    const std::int32_t value = i;
    internal::write_atomically(path, &value, sizeof value);
    CHECK(internal::read_int(path) == i);
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
    const internal::UtteranceList found =
        internal::list_folders(folder.path / "0", folder.path / "1", 2);
    const bool good = header == 4 && bytes > 0 && bytes % 8 == 0 &&
                      lengths == std::string{static_cast<char>(bytes / 8), 0, 0, 0};
    CHECK(found.accepted.size() == (good ? 1U : 0U));
    CHECK(found.rejected.size() == (good ? 0U : 1U));
  }
}
