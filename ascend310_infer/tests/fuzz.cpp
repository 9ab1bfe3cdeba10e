// Readers on broken input: 130 000 of them, always the same ones. What counts is that each is read
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
#include "mindir.h"
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
  fuzz<std::invalid_argument>(40000, samples::kDescription, kJsonBytes,
                              [](const std::string& text) {
                                const infer::Description found = infer::parse_description(text, "");
                                CHECK(found.dimension > 0);
                                CHECK(found.labels > 1);
                                CHECK(!found.buckets.empty());
                              });
}

TEST_CASE("fuzz features") {
  fuzz<std::invalid_argument>(
      10000,
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
  fuzz<infer::InputError>(40000, kLine, kJsonBytes, [](const std::string& text) {
    const infer::Utterance found = infer::parse_index_line(text, "there");
    CHECK(found.frames > 0);
    CHECK(found.name.find('/') == std::string::npos);
  });
}

TEST_CASE("fuzz models") {
  const std::string likely("\x00\x01\x07\x08\x0A\x12\x2A\x3A\x7F\x80\xFF", 11);
  fuzz<std::invalid_argument>(
      40000, samples::mindir(-1, 161, 500, "LSTM"), likely,
      [](const std::string& bytes) {
        const auto found = infer::parse_mindir(bytes);
        CHECK(!found.operators.empty());
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
