#include <doctest/doctest.h>
#include <sys/stat.h>

#include "errors.h"
#include "files.h"
#include "samples.h"
#include "utterance_list.h"

namespace internal = speech::internal;

using internal::InputError;
using internal::UsageError;
using internal::UtteranceList;

TEST_CASE("files are read whole or not at all") {
  const samples::Folder folder;
  const internal::fs::path path = folder.path / "a.bin";
  samples::write(path, std::vector<float>{1, 2.5, -3});
  CHECK((internal::read_floats(path, 3) == std::vector<float>{1, 2.5, -3}));
  CHECK_THROWS_WITH_AS(static_cast<void>(internal::read_floats(path, 4)),
                       doctest::Contains("12 bytes, expected 16"), InputError);
  CHECK_THROWS_WITH_AS(static_cast<void>(internal::read_int(path)),
                       doctest::Contains("12 bytes, expected 4"), InputError);
  CHECK_THROWS_WITH_AS(static_cast<void>(internal::read_int(folder.path / "b.bin")),
                       doctest::Contains("No such file"), InputError);
  CHECK_THROWS_WITH_AS(static_cast<void>(internal::bytes_of(folder.path)),
                       doctest::Contains("not a file"), InputError);
  CHECK_THROWS_WITH_AS(static_cast<void>(internal::read_int(folder.path)), doctest::Contains(""),
                       InputError);
  samples::write(path, std::vector<std::int32_t>{-7});
  CHECK(internal::read_int(path) == -7);
  CHECK_THROWS_WITH_AS(static_cast<void>(internal::read_int("/dev/null")),
                       doctest::Contains("ended after 0 bytes"), InputError);
}

TEST_CASE("checksums are CRC-32") {
  const samples::Folder folder;
  const auto crc32 = [&](const std::string& content) {
    samples::write(folder.path / "x", content);
    return internal::crc32_of(folder.path / "x");
  };
  CHECK(crc32("123456789") == 0xCBF43926);  // the check value of ISO 3309's
  CHECK(crc32("") == 0);
  CHECK(crc32("a") == 0xE8B7BE43);
  // Longer than what is read at a time, and no multiple of eight: computed bit by bit.
  std::string content;
  for (int i = 0; i < (1 << 20) + 13; ++i) content += static_cast<char>(i % 251);
  std::uint32_t expected = 0xFFFFFFFF;
  for (const char c : content) {
    expected ^= static_cast<unsigned char>(c);
    for (int bit = 0; bit < 8; ++bit)
      expected = (expected >> 1) ^ ((expected & 1) != 0 ? 0xEDB88320U : 0);
  }
  CHECK(crc32(content) == ~expected);
  CHECK_THROWS_WITH_AS(internal::crc32_of(folder.path / "none"), doctest::Contains("No such file"),
                       internal::InputError);
}

TEST_CASE("files are written whole or not at all") {
  const samples::Folder folder;
  const internal::fs::path path = folder.path / "a.bin";
  internal::write_atomically(path, "old", 3);
  internal::write_atomically(path, "newer", 5);
  CHECK(internal::read_text(path) == "newer");
  // A full disk: the temporary name is a link to a device that is always full.
  std::filesystem::create_symlink("/dev/full", folder.path / ".a.bin.partial");
  CHECK_THROWS_WITH_AS(static_cast<void>(internal::write_atomically(path, "x", 1)),
                       doctest::Contains("No space left"), internal::OutputError);
  CHECK(internal::read_text(path) == "newer");
  CHECK(!std::filesystem::exists(folder.path / ".a.bin.partial"));
  CHECK_THROWS_WITH_AS(
      static_cast<void>(internal::write_atomically(folder.path / "none" / "a", "x", 1)),
      doctest::Contains("No such file"), internal::OutputError);
  CHECK_THROWS_WITH_AS(
      static_cast<void>(internal::write_atomically(folder.path / std::string(250, 'a'), "x", 1)),
      doctest::Contains("too long"), InputError);
}

TEST_CASE("folders are listed with what is wrong") {
  const samples::Folder folder;
  const internal::fs::path features = folder.path / "0", lengths = folder.path / "1";
  CHECK_THROWS_WITH_AS(static_cast<void>(internal::list_folders(features, lengths, 2)),
                       doctest::Contains("--input0_path"), UsageError);
  std::filesystem::create_directories(features);
  CHECK_THROWS_WITH_AS(static_cast<void>(internal::list_folders(features, lengths, 2)),
                       doctest::Contains("--input1_path"), UsageError);
  std::filesystem::create_directories(lengths);
  CHECK_THROWS_WITH_AS(static_cast<void>(internal::list_folders(features, lengths, 2)),
                       doctest::Contains("no .bin file"), UsageError);
  const auto put = [&](const std::string& name, std::size_t floats, std::int32_t frames) {
    samples::write(features / (name + ".bin"), std::vector<float>(floats));
    samples::write(lengths / (name + ".bin"), std::vector<std::int32_t>{frames});
  };
  put("b.c", 6, 3);
  put("a", 2, 1);
  put("short", 5, 3);
  put("none", 2, 0);
  put("negative", 2, -1);
  samples::write(features / "alone.bin", std::vector<float>(2));
  samples::write(features / "note.txt", std::string("not an utterance"));
  const UtteranceList found = internal::list_folders(features, lengths, 2);
  CHECK(found.accepted.size() == 2);
  CHECK(found.accepted[0].name == "a");
  CHECK(found.accepted[1].name == "b.c");
  CHECK(found.accepted[1].frames == 3);
  CHECK(found.rejected.size() == 4);
  for (const internal::Rejected& bad : found.rejected) {
    const char* expected = bad.name == "alone"      ? "No such file"
                           : bad.name == "short"    ? "20 bytes, expected 24 for 3 frames of 2"
                           : bad.name == "negative" ? "has -1 frames"
                                                    : "has 0 frames";
    CHECK(bad.reason.find(expected) != std::string::npos);
  }
}

TEST_CASE("an index is listed with what is wrong") {
  const samples::Folder folder;
  const internal::fs::path index = folder.path / "index.jsonl";
  CHECK_THROWS_WITH_AS(static_cast<void>(internal::list_index(index, 2)),
                       doctest::Contains("--index"), UsageError);
  samples::write(index, std::string("\n \n"));
  CHECK_THROWS_WITH_AS(static_cast<void>(internal::list_index(index, 2)),
                       doctest::Contains("names no utterance"), UsageError);
  samples::write(folder.path / "a.bin", std::vector<float>(4));
  samples::write(index, std::string(R"({"name": "z", "features": "a.bin", "frames": 2}
{"name": "y", "features": ")" + (folder.path / "a.bin").string() +
                                    R"(", "frames": 2}
{"name": "z", "features": "a.bin", "frames": 2}
{"name": "x", "features": "a.bin", "frames": 3}
not json
{"name": "../w", "features": "a.bin", "frames": 2}
{"name": "v", "features": "a.bin", "frames": 2.5})"));
  const UtteranceList found = internal::list_index(index, 2);
  CHECK(found.accepted.size() == 2);
  CHECK(found.accepted[0].name == "y");
  CHECK(found.accepted[1].name == "z");
  CHECK(found.rejected.size() == 5);
  const char* const expected[][2] = {{"z", "twice"},
                                     {"x", "16 bytes, expected 24"},
                                     {"index.jsonl line 5", "not a line of JSON"},
                                     {"index.jsonl line 6", "cannot be that of a file"},
                                     {"index.jsonl line 7", "expected {"}};
  for (std::size_t i = 0; i < found.rejected.size(); ++i) {
    CHECK(found.rejected[i].name == expected[i][0]);
    CHECK(found.rejected[i].reason.find(expected[i][1]) != std::string::npos);
  }
}

TEST_CASE("results are finished when whole and newer") {
  const samples::Folder folder;
  const auto finished = [&](std::int64_t since) {
    return internal::finished(folder.path, "a", 5, since);
  };
  CHECK(!finished(0));
  samples::write(folder.path / "a_0.bin", std::vector<float>(15));
  CHECK(!finished(0));
  samples::write(folder.path / "a_1.bin", std::vector<std::int32_t>{3});
  CHECK(finished(0));
  const std::int64_t written = std::min(internal::modified_ns(folder.path / "a_0.bin"),
                                        internal::modified_ns(folder.path / "a_1.bin"));
  CHECK(finished(written));
  CHECK(!finished(written + 1));
  samples::write(folder.path / "a_1.bin", std::vector<std::int32_t>{4});
  CHECK(!finished(0));
  samples::write(folder.path / "a_1.bin", std::string("abc"));
  CHECK(!finished(0));
}
