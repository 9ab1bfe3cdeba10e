// JSON (RFC 8259) through nlohmann/json. Its parser is compiled once, in json.cpp; a source file
// that looks at values includes <nlohmann/json.hpp> itself, a header never does.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

namespace speech::internal {

using Json = nlohmann::json;

// Parses a whole document; a byte order mark is skipped, the last of equal keys counts.
// Throws std::invalid_argument for what is no JSON, or nested deeper than 64 levels.
Json parse_json(std::string_view text);

// The value of a key; null where `object` has no such key or is no object.
const Json* find_member(const Json& object, std::string_view key);

// A whole number of at most 2^53, which a float64 holds exactly ("3", "3.0", "3e2"); else false.
bool to_integer(const Json& value, std::int64_t& result);

// A string as JSON writes it, with its quotes; bytes that are no UTF-8 become U+FFFD.
std::string json_text(std::string_view text);

}  // namespace speech::internal
