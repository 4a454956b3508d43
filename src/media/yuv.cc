#include "media/yuv.h"

#include <algorithm>
#include <array>

namespace videre {
namespace {

// ITU-R BT.601 in 16.16 fixed point: V to red, U to blue, U to green, V to green.
constexpr std::array<int64_t, 4> kBt601 = {104597, 132201, -25675, -53279};
constexpr int64_t kOne = 1 << 16;

/// Products are (sample * 8 * coefficient) >> 16, so coefficients are in units of 2^-13.
constexpr int16_t coefficient(int64_t value) {
  return static_cast<int16_t>((value * (1 << 13) + (1 << 15)) >> 16);
}

struct Coefficients {
  int y, y_offset, v_red, u_blue, u_green, v_green;
};

constexpr Coefficients make_coefficients(bool full_range) {
  std::array<int64_t, 4> c = kBt601;
  int64_t y = kOne;
  if (full_range) {
    for (int64_t& value : c) value = value * 224 / 255;
  } else {
    y = y * 255 / 219;
  }
  return {coefficient(y),    full_range ? 0 : 16 * 8, coefficient(c[0]),
          coefficient(c[1]), coefficient(c[2]),       coefficient(c[3])};
}

constexpr Coefficients kFull = make_coefficients(true);
constexpr Coefficients kLimited = make_coefficients(false);

uint8_t clip(int value) { return static_cast<uint8_t>(std::clamp(value, 0, 255)); }

void convert_row(const Coefficients& c, const uint8_t* y, const uint8_t* u, const uint8_t* v,
                 int width, int shift, uint8_t* rgb) {
  for (int x = 0; x < width; ++x) {
    const int cu = u[x >> shift] * 8 - 1024;
    const int cv = v[x >> shift] * 8 - 1024;
    const int luma = ((y[x] * 8 - c.y_offset) * c.y) >> 16;
    rgb[3 * x] = clip(luma + ((cv * c.v_red) >> 16));
    rgb[3 * x + 1] = clip(luma + ((cu * c.u_green) >> 16) + ((cv * c.v_green) >> 16));
    rgb[3 * x + 2] = clip(luma + ((cu * c.u_blue) >> 16));
  }
}

}  // namespace

bool yuv_is_exact(const YuvFrame& frame) {
  if (!frame.planes[1]) return true;
  return frame.chroma_shift_x == 1 &&
         (frame.chroma_shift_y == 0 || (frame.chroma_shift_y == 1 && frame.height % 2 == 0));
}

Image yuv_to_rgb(const YuvFrame& frame) {
  Image image;
  image.width = frame.width;
  image.height = frame.height;
  image.rgb.resize(static_cast<size_t>(frame.width) * static_cast<size_t>(frame.height) * 3);
  const Coefficients& c = frame.full_range ? kFull : kLimited;
  for (int row = 0; row < frame.height; ++row) {
    uint8_t* rgb =
        image.rgb.data() + static_cast<size_t>(row) * static_cast<size_t>(frame.width) * 3;
    const uint8_t* y = frame.planes[0] + row * frame.strides[0];
    if (!frame.planes[1]) {
      for (int x = 0; x < frame.width; ++x) rgb[3 * x] = rgb[3 * x + 1] = rgb[3 * x + 2] = y[x];
      continue;
    }
    const int64_t chroma_row = row >> frame.chroma_shift_y;
    convert_row(c, y, frame.planes[1] + chroma_row * frame.strides[1],
                frame.planes[2] + chroma_row * frame.strides[2], frame.width, frame.chroma_shift_x,
                rgb);
  }
  return image;
}

}  // namespace videre
