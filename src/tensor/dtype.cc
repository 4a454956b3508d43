#include "tensor/dtype.h"

namespace videre {

uint8_t float_to_e4m3(float value) {
  if (std::isnan(value)) return 0x7f;
  const uint8_t sign = std::signbit(value) ? 0x80 : 0;
  const float magnitude = std::fabs(value);
  if (magnitude >= 464.0f)
    return sign | 0x7e;       // halfway to the code after 448 and beyond: saturate
  if (magnitude < 0x1p-6f) {  // subnormal: steps of 2^-9
    return sign | static_cast<uint8_t>(std::nearbyint(magnitude * 0x1p9f));
  }
  int exponent;
  std::frexp(magnitude, &exponent);  // magnitude in [2^(e-1), 2^e)
  const float step = std::ldexp(1.0f, exponent - 4);
  const float rounded = std::nearbyint(magnitude / step) * step;
  if (rounded >= 448.0f) return sign | 0x7e;
  const uint32_t bits = std::bit_cast<uint32_t>(rounded);
  return sign | static_cast<uint8_t>((((bits >> 23) - 120) << 3) | ((bits >> 20) & 7));
}

uint8_t float_to_e2m1(float value) {
  const uint8_t sign = std::signbit(value) ? 8 : 0;
  const float magnitude = std::fabs(value);
  // Thresholds between neighbours; a value exactly on one goes to the even code.
  uint8_t code = 0;
  if (magnitude > 5.0f)
    code = 7;
  else if (magnitude >= 3.5f)
    code = 6;
  else if (magnitude > 2.5f)
    code = 5;
  else if (magnitude >= 1.75f)
    code = 4;
  else if (magnitude > 1.25f)
    code = 3;
  else if (magnitude >= 0.75f)
    code = 2;
  else if (magnitude > 0.25f)
    code = 1;
  return sign | code;
}

}  // namespace videre
