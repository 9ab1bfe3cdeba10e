// Conversion to and from IEEE 754 half precision, which models for Ascend cards may use.
#pragma once

#include <cstdint>

namespace speech::internal {

float from_half(std::uint16_t half);

// Rounds to nearest, ties to even; larger values become infinite.
std::uint16_t to_half(float value);

}  // namespace speech::internal
