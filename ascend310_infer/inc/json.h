// JSON (RFC 8259), as much as a description or an index holds.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace infer {

class Json {
 public:
  using Array = std::vector<Json>;
  using Object = std::vector<std::pair<std::string, Json>>;

  Json() = default;
  explicit Json(bool value) : value_(value) {}
  explicit Json(double value) : value_(value) {}
  explicit Json(std::string value) : value_(std::move(value)) {}
  explicit Json(Array value) : value_(std::move(value)) {}
  explicit Json(Object value) : value_(std::move(value)) {}

  // Throws std::invalid_argument that says what is wrong and where ("line 3: expected a value").
  static Json parse(std::string_view text);

  // Each is null where the value is of another kind.
  const std::string* text() const { return std::get_if<std::string>(&value_); }
  const bool* boolean() const { return std::get_if<bool>(&value_); }
  const double* number() const { return std::get_if<double>(&value_); }
  const Array* array() const { return std::get_if<Array>(&value_); }
  const Object* object() const { return std::get_if<Object>(&value_); }

  // The value of a key (of the last one, where a key is there twice); null where there is none.
  const Json* find(std::string_view key) const;

  // A whole number that a float64 holds exactly, or false.
  bool integer(std::int64_t& result) const;

 private:
  std::variant<std::nullptr_t, bool, double, std::string, Array, Object> value_ = nullptr;
};

// A string as JSON writes it, with its quotes.
std::string json_text(std::string_view text);

}  // namespace infer
