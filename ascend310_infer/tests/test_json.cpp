#include <stdexcept>

#include "check.h"
#include "json.h"

using infer::Json;
using Bad = std::invalid_argument;

TEST(json_reads_every_kind_of_value) {
  const Json root = Json::parse("\xEF\xBB\xBF {\"a\": [1, -2.5e2, true, null], \"b\": {}} \n");
  const Json::Array& list = *root.find("a")->array();
  CHECK(list.size() == 4);
  CHECK(*list[0].number() == 1);
  CHECK(*list[1].number() == -250);
  CHECK(list[2].number() == nullptr && list[2].text() == nullptr);
  CHECK(root.find("b")->object()->empty());
  CHECK(root.find("c") == nullptr);
  CHECK(list[0].find("a") == nullptr);
}

TEST(json_reads_escapes) {
  const Json text = Json::parse(R"("\"\\\/\b\f\n\r\t\u0041\u00e9\u20ac\ud83d\ude00")");
  CHECK(*text.text() == "\"\\/\b\f\n\r\tA\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80");
}

TEST(json_takes_the_last_of_equal_keys) {
  CHECK(*Json::parse(R"({"a": 1, "a": 2})").find("a")->number() == 2);
}

TEST(json_refuses_what_is_not_json) {
  for (const char* text : {"",
                           " ",
                           "{",
                           "[1,]",
                           "[1 2]",
                           "{\"a\"}",
                           "{\"a\":}",
                           "{a: 1}",
                           "{\"a\": 1,}",
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
                           "\"\\ud800\\u0041\"",
                           "\"\t\"",
                           "1 1",
                           "NaN",
                           "Infinity"})
    CHECK_THROWS(Bad, "line 1: ", Json::parse(text));
  CHECK_THROWS(Bad, "line 3: expected a value", Json::parse("[1,\n2,\n}"));
  CHECK_THROWS(Bad, "nested too deeply", Json::parse(std::string(100000, '[')));
}

TEST(json_tells_whole_numbers) {
  std::int64_t value = 0;
  CHECK(Json::parse("9007199254740992").integer(value) && value == 9007199254740992);
  CHECK(Json::parse("-3e2").integer(value) && value == -300);
  CHECK(!Json::parse("1.5").integer(value));
  CHECK(!Json::parse("1e300").integer(value));
  CHECK(!Json::parse("1e999").integer(value));
  CHECK(!Json::parse("\"1\"").integer(value));
}

TEST(json_text_is_read_again) {
  std::string all;
  for (int code = 0; code < 128; ++code) all += static_cast<char>(code);
  CHECK(*Json::parse(infer::json_text(all)).text() == all);
}
