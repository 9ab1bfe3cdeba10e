#include <doctest/doctest.h>

#include <nlohmann/json.hpp>
#include <stdexcept>

#include "json.h"

namespace internal = speech::internal;

using internal::Json;
using internal::parse_json;

TEST_CASE("a JSON document may start with a byte order mark") {
  const Json root = parse_json("\xEF\xBB\xBF {\"a\": [1, -2.5e2, true, null], \"b\": {}} \n");
  CHECK(internal::find_member(root, "a")->at(1) == -250);
  CHECK(internal::find_member(root, "b")->empty());
  CHECK(internal::find_member(root, "c") == nullptr);
  CHECK(internal::find_member(root.at("a"), "a") == nullptr);
}

TEST_CASE("the last of equal JSON keys counts") {
  CHECK(parse_json(R"({"a": 1, "a": 2})").at("a") == 2);
}

TEST_CASE("what is not JSON is rejected with its line") {
  for (const char* text : {"",
                           " ",
                           "{",
                           "[1,]",
                           "[1 2]",
                           "{\"a\"}",
                           "{\"a\":}",
                           "{a: 1}",
                           "{\"a\":1,}",
                           "01",
                           "+1",
                           "1.",
                           ".5",
                           "1e",
                           "-",
                           "nul",
                           "tru",
                           "\"",
                           "\"\\x\"",
                           "\"\\u12\"",
                           "\"\\ud800\"",
                           "\"\\udc00\"",
                           "\"\t\"",
                           "1 1",
                           "NaN",
                           "Infinity",
                           "\"\xFF\"",
                           "\"\\ud800\\u0041\""}) {
    CAPTURE(text);
    CHECK_THROWS_WITH_AS(parse_json(text), doctest::Contains("line 1"), std::invalid_argument);
  }
  CHECK_THROWS_WITH_AS(parse_json("[1,\n2,\n}"), doctest::Contains("line 3, column 1"),
                       std::invalid_argument);
}

TEST_CASE("JSON beyond all bounds is rejected in one short line") {
  const std::string brackets(100000, '['), braces = [] {
    std::string text;
    for (int i = 0; i < 100000; ++i) text += "{\"a\":";
    return text;
  }();
  for (const std::string& text : {brackets, braces})
    CHECK_THROWS_WITH_AS(parse_json(text), "nested too deeply", std::invalid_argument);
  CHECK(parse_json(std::string(64, '[') + std::string(64, ']')).size() == 1);
  CHECK_THROWS_WITH_AS(parse_json("1e999"), doctest::Contains("1e999"), std::invalid_argument);
  CHECK_THROWS_WITH_AS(parse_json(std::string(400, '9')), doctest::Contains("overflow"),
                       std::invalid_argument);
  try {
    parse_json('"' + std::string(100000, 'x') + '\n');
    FAIL("nothing was thrown");
  } catch (const std::invalid_argument& error) {
    CHECK(std::string(error.what()).size() < 300);
    CHECK(std::string(error.what()).find('\n') == std::string::npos);
  }
}

TEST_CASE("whole numbers are told from others") {
  std::int64_t value = 0;
  const auto whole = [&value](const char* text) {
    return internal::to_integer(parse_json(text), value);
  };
  CHECK(whole("9007199254740992"));
  CHECK(value == 9007199254740992);
  CHECK(whole("-3e2"));
  CHECK(value == -300);
  for (const char* other : {"9007199254740993", "18446744073709551615", "-9223372036854775808",
                            "1.5", "1e300", "\"1\"", "null", "true", "[1]"}) {
    CAPTURE(other);
    CHECK(!whole(other));
  }
}

TEST_CASE("a string that is written as JSON is read again") {
  std::string all;
  for (int code = 0; code < 128; ++code) all += static_cast<char>(code);
  CHECK(parse_json(internal::json_text(all)) == all);
  CHECK(internal::json_text("\xC3\xA9\xFF") == "\"\xC3\xA9\xEF\xBF\xBD\"");
}
