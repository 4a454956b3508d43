// How 16-bit states are stored: rounded up or down with the probability that keeps the mean right,
// so that an update smaller than half a step is not lost for ever and long decodes do not drift.
// The coin is a hash of where a value lies in its head and of the position whose state it is: the
// same request gives the same bits in any slot, batch and process. Devices share these lines
// (constexpr, so that kernels may call them).
#pragma once

#include <bit>
#include <cstdint>

namespace videre {

/// One for a head's state after the row at `position`; goes into `rounding_noise`.
constexpr uint32_t rounding_seed(uint32_t head, uint32_t position) {
  uint32_t x = position * 0x9e3779b9u ^ (head + 1) * 0x85ebca6bu;
  x ^= x >> 16;
  x *= 0x21f0aaadu;
  return x ^ x >> 15;
}
/// 32 random bits for the elements 2 * pair (low half) and 2 * pair + 1 (high half) of a head.
constexpr uint32_t rounding_noise(uint32_t seed, uint32_t pair) {
  uint32_t x = seed + pair * 0x9e3779b9u;
  x ^= x >> 16;
  x *= 0x21f0aaadu;
  x ^= x >> 15;
  x *= 0x735a2d97u;
  return x ^ x >> 15;
}

/// bfloat16 bits of `value`, one of its two neighbours by 16 bits of noise. NaN stays NaN, and what
/// is past the largest becomes infinite, as with rounding to nearest.
constexpr uint16_t noisy_bf16(float value, uint32_t noise) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7f800000u) == 0x7f800000u) {
    return static_cast<uint16_t>(bits >> 16 | ((bits & 0x7fffffu) != 0 ? 0x40 : 0));
  }
  return static_cast<uint16_t>((bits + noise) >> 16);
}
/// The same for float16, which ends at 65504: larger values are held there.
constexpr uint16_t noisy_half(float value, uint32_t noise) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u);
  uint32_t half = 0;
  if (magnitude >= 0x38800000u) {  // 2^-14, the least normal: 13 bits go
    half = ((magnitude < 0x47800000u ? magnitude : 0x47800000u) - 0x38000000u + (noise >> 3)) >> 13;
  } else if (magnitude >=
             0x2f800000u) {  // 2^-32; below, the chance of a step of 2^-24 is as good as none
    const uint32_t shift = 126 - (magnitude >> 23);  // 14 to 31
    const uint32_t mantissa = (magnitude & 0x7fffffu) | 0x800000u;
    half = (mantissa + (shift >= 16 ? noise << (shift - 16) : noise >> (16 - shift))) >> shift;
  }
  return static_cast<uint16_t>(sign | (half < 0x7bffu ? half : 0x7bffu));
}

}  // namespace videre
