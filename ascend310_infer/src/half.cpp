#include "half.h"

#include <cmath>
#include <cstring>

namespace speech::internal {

float from_half(std::uint16_t half) {
  const float sign = (half & 0x8000) != 0 ? -1.0F : 1.0F;
  const int exponent = (half >> 10) & 31;
  const auto fraction = static_cast<float>(half & 1023);
  if (exponent == 31) return fraction != 0 ? NAN : sign * INFINITY;
  if (exponent == 0) return sign * std::ldexp(fraction, -24);
  return sign * std::ldexp(1024 + fraction, exponent - 25);
}

std::uint16_t to_half(float value) {
  const auto sign = static_cast<std::uint16_t>(std::signbit(value) ? 0x8000 : 0);
  if (std::isnan(value)) return static_cast<std::uint16_t>(sign | 0x7E00);
  const float size = std::fabs(value);
  if (size >= 65520) return static_cast<std::uint16_t>(sign | 0x7C00);  // halfway to 2^16
  if (size < 6.103515625e-5F)  // 2^-14: below, steps of 2^-24
    return static_cast<std::uint16_t>(sign | std::lrint(std::ldexp(size, 24)));
  int exponent = 0;
  const float fraction = std::frexp(size, &exponent);        // in [0.5, 1)
  const long digits = std::lrint(std::ldexp(fraction, 11));  // 1024 to 2048; 2048 carries over
  return static_cast<std::uint16_t>(sign | (((exponent + 13) << 10) + digits));
}

}  // namespace speech::internal
