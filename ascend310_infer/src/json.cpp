#include "json.h"

#include <algorithm>
#include <cctype>
#include <cmath>
#include <cstdlib>
#include <stdexcept>

namespace infer {
namespace {

constexpr int kDeepest = 64;  // levels of nesting: a description has six

class Parser {
 public:
  explicit Parser(std::string_view text) : text_(text) {}

  Json document() {
    if (text_.substr(0, 3) == "\xEF\xBB\xBF") at_ = 3;  // a byte order mark
    Json result = value(0);
    space();
    if (at_ != text_.size()) fail("expected nothing more");
    return result;
  }

 private:
  [[noreturn]] void fail(const std::string& what) const {
    const auto line = std::count(text_.begin(), text_.begin() + static_cast<long>(at_), '\n') + 1;
    throw std::invalid_argument("line " + std::to_string(line) + ": " + what);
  }

  bool next_is(char wanted) const { return at_ < text_.size() && text_[at_] == wanted; }

  bool take(char wanted) {
    if (!next_is(wanted)) return false;
    ++at_;
    return true;
  }

  void space() {
    while (next_is(' ') || next_is('\t') || next_is('\n') || next_is('\r')) ++at_;
  }

  bool word(std::string_view wanted) {
    if (text_.substr(at_, wanted.size()) != wanted) return false;
    at_ += wanted.size();
    return true;
  }

  Json value(int depth) {
    if (depth > kDeepest) fail("nested too deeply");
    space();
    if (take('{')) return object(depth);
    if (take('[')) return array(depth);
    if (take('"')) return Json(string());
    if (word("true")) return Json(true);
    if (word("false")) return Json(false);
    if (word("null")) return Json();
    return Json(number());
  }

  Json object(int depth) {
    Json::Object members;
    space();
    if (take('}')) return Json(std::move(members));
    do {
      space();
      if (!take('"')) fail("expected a key in quotes");
      std::string key = string();
      space();
      if (!take(':')) fail("expected a colon after " + json_text(key));
      members.emplace_back(std::move(key), value(depth + 1));
      space();
    } while (take(','));
    if (!take('}')) fail("expected a comma or }");
    return Json(std::move(members));
  }

  Json array(int depth) {
    Json::Array items;
    space();
    if (take(']')) return Json(std::move(items));
    do {
      items.push_back(value(depth + 1));
      space();
    } while (take(','));
    if (!take(']')) fail("expected a comma or ]");
    return Json(std::move(items));
  }

  std::string string() {
    std::string result;
    while (at_ < text_.size()) {
      const char c = text_[at_++];
      if (c == '"') return result;
      if (static_cast<unsigned char>(c) < 0x20) fail("a control character in a string");
      if (c == '\\') {
        escape(result);
      } else {
        result += c;
      }
    }
    fail("a string has no end");
  }

  void escape(std::string& result) {
    if (at_ >= text_.size()) fail("a string has no end");
    const char c = text_[at_++];
    static constexpr std::string_view kNames = "\"\\/bfnrt", kMeanings = "\"\\/\b\f\n\r\t";
    if (const auto found = kNames.find(c); found != std::string_view::npos) {
      result += kMeanings[found];
    } else if (c == 'u') {
      unsigned code = hex();
      if (code >= 0xD800 && code < 0xDC00) {  // the first half of a pair (UTF-16)
        if (!word("\\u")) fail("half of a surrogate pair");
        const unsigned low = hex();
        if (low < 0xDC00 || low > 0xDFFF) fail("half of a surrogate pair");
        code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
      } else if (code >= 0xDC00 && code < 0xE000) {
        fail("half of a surrogate pair");
      }
      append_utf8(result, code);
    } else {
      fail("an unknown escape in a string");
    }
  }

  unsigned hex() {
    unsigned code = 0;
    for (int digit = 0; digit < 4; ++digit, ++at_) {
      if (at_ >= text_.size() || !std::isxdigit(static_cast<unsigned char>(text_[at_])))
        fail("expected four hexadecimal digits after \\u");
      const char c = text_[at_];
      code = code * 16 + static_cast<unsigned>(c <= '9' ? c - '0' : (c | 0x20) - 'a' + 10);
    }
    return code;
  }

  static void append_utf8(std::string& result, unsigned code) {
    if (code < 0x80) {
      result += static_cast<char>(code);
      return;
    }
    const int more = code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
    const unsigned lead = more == 1 ? 0xC0 : more == 2 ? 0xE0 : 0xF0;
    result += static_cast<char>(lead | (code >> (6 * more)));
    for (int i = more - 1; i >= 0; --i)
      result += static_cast<char>(0x80 | ((code >> (6 * i)) & 0x3F));
  }

  bool digits() {
    const std::size_t start = at_;
    while (at_ < text_.size() && text_[at_] >= '0' && text_[at_] <= '9') ++at_;
    return at_ > start;
  }

  double number() {
    const std::size_t start = at_;
    take('-');
    const bool zero = next_is('0');
    const std::size_t first = at_;
    if (!digits() || (zero && at_ - first > 1)) fail("expected a value");
    if (take('.') && !digits()) fail("expected digits after the point");
    if (take('e') || take('E')) {
      if (!take('+')) take('-');
      if (!digits()) fail("expected digits in the exponent");
    }
    return std::strtod(std::string(text_.substr(start, at_ - start)).c_str(), nullptr);
  }

  std::string_view text_;
  std::size_t at_ = 0;
};

}  // namespace

Json Json::parse(std::string_view text) { return Parser(text).document(); }

const Json* Json::find(std::string_view key) const {
  const Object* members = object();
  if (members == nullptr) return nullptr;
  for (auto member = members->rbegin(); member != members->rend(); ++member)
    if (member->first == key) return &member->second;
  return nullptr;
}

bool Json::integer(std::int64_t& result) const {
  constexpr double kExact = 9007199254740992.0;  // 2^53
  const double* value = number();
  if (value == nullptr || !(std::fabs(*value) <= kExact) || *value != std::floor(*value))
    return false;
  result = static_cast<std::int64_t>(*value);
  return true;
}

std::string json_text(std::string_view text) {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string result = "\"";
  for (const char c : text) {
    const auto code = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      result += '\\';
      result += c;
    } else if (code < 0x20) {
      result += "\\u00";
      result += kDigits[code >> 4];
      result += kDigits[code & 15];
    } else {
      result += c;
    }
  }
  return result + '"';
}

}  // namespace infer
