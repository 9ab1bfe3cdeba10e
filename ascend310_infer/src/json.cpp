#include "json.h"

#include <cmath>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <stdexcept>

namespace speech::internal {
namespace {

// Copying a value recurses into it, so that nesting must be bounded; a description has six levels.
constexpr int kMaxDepth = 64;
constexpr std::size_t kMaxReason = 200;  // characters of a reason; it may quote the text

// Without the name of the exception ("[json.exception.parse_error.101] ") in front.
std::string reason_of(const Json::exception& error) {
  std::string reason = error.what();
  if (const auto end = reason.find("] "); end != std::string::npos) reason.erase(0, end + 2);
  if (reason.size() > kMaxReason) reason = reason.substr(0, kMaxReason) + "...";
  return reason;
}

}  // namespace

Json parse_json(std::string_view text) {
  const auto check_depth = [](int depth, Json::parse_event_t, Json&) {
    if (depth > kMaxDepth) throw std::invalid_argument("nested too deeply");
    return true;
  };
  try {
    return Json::parse(text, check_depth);
  } catch (const Json::exception& error) {
    throw std::invalid_argument(reason_of(error));
  }
}

const Json* find_member(const Json& object, std::string_view key) {
  if (!object.is_object()) return nullptr;
  const auto found = object.find(std::string(key));
  return found != object.end() ? &*found : nullptr;
}

bool to_integer(const Json& value, std::int64_t& result) {
  constexpr std::int64_t kExact = std::int64_t{1} << 53;
  if (!value.is_number()) return false;
  const auto number = value.get<double>();
  if (!(std::fabs(number) <= static_cast<double>(kExact)) || number != std::floor(number))
    return false;
  const auto whole =
      value.is_number_float() ? static_cast<std::int64_t>(number) : value.get<std::int64_t>();
  if (std::abs(whole) > kExact) return false;
  result = whole;
  return true;
}

std::string json_text(std::string_view text) {
  return Json(std::string(text)).dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace speech::internal
