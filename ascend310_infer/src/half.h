// IEEE 754 half precision, which networks for cards may take and give.
#pragma once

#include <cstdint>

namespace speech::internal {

float from_half(std::uint16_t half);

// To the nearest, ties to even; what is too large becomes infinite.
std::uint16_t to_half(float value);

}  // namespace speech::internal
