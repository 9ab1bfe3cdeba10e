#include <doctest/doctest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "decoding.h"
#include "errors.h"
#include "json.h"
#include "result_writer.h"
#include "samples.h"
#include "utterance_list.h"

namespace internal = speech::internal;

using internal::Emission;
using internal::Vocabulary;

namespace {

const Vocabulary kLatin{{"_", "A", "B", " "}, 0};

// Frames of which each has one label, with its probability.
Emission spelled(const std::vector<std::pair<int, double>>& path, int labels = 4) {
  Emission emission;
  emission.frames = static_cast<std::int64_t>(path.size());
  for (const auto& [best, probability] : path)
    for (int label = 0; label < labels; ++label)
      emission.values.push_back(static_cast<float>(
          std::log(label == best ? probability : (1 - probability) / (labels - 1))));
  return emission;
}

// " A A_AB  _ _ A " as labels, with a space repeated after a blank.
const Emission kSpoken = spelled({{3, .9},
                                  {1, .5},
                                  {1, .8},
                                  {0, .9},
                                  {1, .6},
                                  {2, .7},
                                  {3, .9},
                                  {0, .9},
                                  {3, .9},
                                  {1, .4},
                                  {0, .9}});

bool near(double a, double b) { return std::fabs(a - b) < 1e-5; }

}  // namespace

TEST_CASE("tokens of the best path") {
  const auto tokens = internal::best_path(kSpoken, kLatin);
  CHECK(tokens.size() == 7);
  CHECK(tokens[1].label == 1);
  CHECK(tokens[1].begin == 1);
  CHECK(tokens[1].end == 3);
  CHECK(near(tokens[1].probability, .8));
  CHECK(tokens[2].label == 1);
  CHECK(tokens[2].begin == 4);
  CHECK(tokens[2].end == 5);
  CHECK(internal::text_of(tokens, kLatin) == "AAB A");
  const auto words = internal::words(tokens, kLatin);
  CHECK(words.size() == 2);
  CHECK(words[0].text == "AAB");
  CHECK(words[1].text == "A");
  CHECK(words[0].begin == 1);
  CHECK(words[0].end == 6);
  CHECK(near(words[0].confidence, .7));
  CHECK(words[1].begin == 9);
  CHECK(words[1].end == 10);
  CHECK(near(words[1].confidence, .4));
}

TEST_CASE("labels without a space spell one word in a script that separates words") {
  const Vocabulary single{{"A", "_", "\u00e9"}, 1};
  const auto tokens = internal::best_path(spelled({{0, .9}, {2, .5}, {1, .9}, {2, .7}}, 3), single);
  CHECK(internal::text_of(tokens, single) == "A\u00e9\u00e9");
  REQUIRE(internal::words(tokens, single).size() == 1);
  CHECK(internal::words(tokens, single)[0].text == "A\u00e9\u00e9");
}

TEST_CASE("labels without a space are words in a script that separates none") {
  const Vocabulary han{{"\u4f60", "_", "\u597d"}, 1};
  const auto tokens = internal::best_path(spelled({{0, .9}, {2, .5}, {1, .9}, {2, .7}}, 3), han);
  CHECK(internal::text_of(tokens, han) == "\u4f60\u597d\u597d");
  CHECK(internal::words(tokens, han).size() == 3);
  CHECK(internal::words(tokens, han)[2].begin == 3);
}

TEST_CASE("labels of several characters are words") {
  const Vocabulary syllables{{"ni3", "hao3", "a1", "_"}, 3};
  const Emission emission = spelled({{0, .9}, {0, .9}, {3, .9}, {1, .8}, {3, .9}, {1, .6}});
  const auto tokens = internal::best_path(emission, syllables);
  CHECK(internal::text_of(tokens, syllables) == "ni3 hao3 hao3");
  CHECK(internal::words(tokens, syllables).size() == 3);
  // The blank's own spelling does not count.
  const Vocabulary single{{"a", "b", "c", "<blank>"}, 3};
  CHECK(internal::text_of(tokens, single) == "abb");
}

TEST_CASE("nothing is recognised") {
  const auto tokens = internal::best_path(spelled({{0, .9}, {3, .9}}), kLatin);
  CHECK(internal::text_of(tokens, kLatin).empty());
  CHECK(internal::words(tokens, kLatin).empty());
  CHECK(internal::best_path(Emission{}, kLatin).empty());
}

TEST_CASE("lines of text and json") {
  internal::Utterance utterance;
  utterance.name = "a \"b\".wav";
  utterance.duration_s = 1.5;
  utterance.start_s = 0.25;
  const auto line = [&](bool json, bool alone) {
    return internal::text_line(utterance, kSpoken, kLatin, {json, alone, 0.02});
  };
  CHECK(line(false, true) == "AAB A\n");
  CHECK(line(false, false) == "a \"b\".wav\tAAB A\n");
  const internal::Json found = internal::parse_json(line(true, false));
  CHECK(found.at("path").get<std::string>() == utterance.name);
  CHECK(found.at("text").get<std::string>() == "AAB A");
  CHECK(found.at("duration").get<double>() == 1.5);
  const internal::Json& word = found.at("words").at(1);
  CHECK(word.at("word").get<std::string>() == "A");
  CHECK(near(word.at("start").get<double>(), .43));
  CHECK(near(word.at("end").get<double>(), .45));
  CHECK(near(word.at("confidence").get<double>(), .4));
  const internal::Json silent =
      internal::parse_json(internal::text_line(utterance, Emission{}, kLatin, {true, false, 1}));
  CHECK(silent.at("words").empty());
  CHECK(silent.at("confidence").is_null());
}

TEST_CASE("texts come back in their places") {
  internal::Utterance utterance;
  utterance.name = "b";
  internal::TranscriptBuffer texts(kLatin, {});
  texts.put(2, utterance, kSpoken);
  texts.put(0, utterance, Emission{});
  std::vector<std::string> lines(3);
  texts.collect(lines);
  CHECK((lines == std::vector<std::string>{"b\t\n", "", "b\tAAB A\n"}));
}

TEST_CASE("lists of recordings") {
  const samples::Folder folder;
  samples::write(folder.path / "list", std::string("a b.wav\r\n\n../c.flac"));
  samples::write(folder.path / "none", std::string("\n\n"));
  CHECK((internal::read_audio_list(folder.path / "list") ==
         std::vector<std::string>{"a b.wav", "../c.flac"}));
  // A byte order mark is no part of the first path.
  samples::write(folder.path / "marked", std::string("\xEF\xBB\xBF" "a.wav\nb.wav\n"));
  CHECK((internal::read_audio_list(folder.path / "marked") ==
         std::vector<std::string>{"a.wav", "b.wav"}));
  samples::write(folder.path / "utf16", std::string("\xFF\xFE" "a\0.\0w\0\n\0", 10));
  CHECK_THROWS_WITH_AS(static_cast<void>(internal::read_audio_list(folder.path / "utf16")),
                       doctest::Contains("not UTF-8 text"), internal::UsageError);
  CHECK_THROWS_WITH_AS(static_cast<void>(internal::read_audio_list(folder.path / "none")),
                       doctest::Contains("names no recording"), internal::UsageError);
  CHECK_THROWS_WITH_AS(static_cast<void>(internal::read_audio_list(folder.path / "x")),
                       doctest::Contains("No such file"), internal::UsageError);
}
