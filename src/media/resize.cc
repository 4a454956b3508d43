#include "media/resize.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

#include "base/check.h"
#include "media/resize_kernels.h"

namespace videre {
namespace internal {
namespace {

// Pillow's cubic, a = -0.5. The order of operations decides the last bit.
double cubic(double t) {
  constexpr double a = -0.5;
  if (t < 0) t = -t;
  if (t < 1) return ((a + 2) * t - (a + 3)) * t * t + 1;
  if (t < 2) return (((t - 5) * t + 8) * t - 4) * a;
  return 0;
}

// Weights of one axis and the memory behind them.
struct AxisTable {
  ResizeAxis axis;
  std::vector<int32_t> first, weights;

  AxisTable(int in, int out) {
    const double scale = static_cast<double>(in) / out;
    const double filter_scale = std::max(scale, 1.0);
    const double support = 2.0 * filter_scale;
    const double step = 1.0 / filter_scale;
    axis.in = in;
    axis.out = out;
    const auto begin_of = [&](double centre) {
      return std::max(static_cast<int>(centre - support + 0.5), 0);
    };
    const auto end_of = [&](double centre) {
      return std::min(static_cast<int>(centre + support + 0.5), in);
    };
    int longest = 0;
    for (int o = 0; o < out; ++o) {
      const double centre = (o + 0.5) * scale;
      longest = std::max(longest, end_of(centre) - begin_of(centre));
    }
    axis.taps = (longest + 3) / 4 * 4;
    first.resize(out);
    weights.resize(static_cast<size_t>(out) * axis.taps);
    std::vector<double> parts(longest);
    for (int o = 0; o < out; ++o) {
      const double centre = (o + 0.5) * scale;
      const int begin = begin_of(centre), count = end_of(centre) - begin;
      double total = 0;
      for (int k = 0; k < count; ++k) {
        total += parts[k] = cubic((begin + k - centre + 0.5) * step);
      }
      int32_t* row = weights.data() + static_cast<size_t>(o) * axis.taps;
      for (int k = 0; k < count; ++k) {
        const double weight = (total != 0 ? parts[k] / total : parts[k]) * (1 << kWeightBits);
        row[k] = static_cast<int32_t>(weight < 0 ? weight - 0.5 : weight + 0.5);
      }
      first[o] = begin;
    }
    axis.first = first.data();
    axis.weights = weights.data();
  }
};

uint8_t rounded(int32_t sum) {
  return static_cast<uint8_t>(std::clamp(sum >> kWeightBits, 0, 255));
}

void split_plain(const uint8_t* rgb, int width, uint8_t* const planes[3]) {
  for (int x = 0; x < width; ++x) {
    for (int c = 0; c < 3; ++c) planes[c][x] = rgb[3 * x + c];
  }
}

size_t no_bytes(const ResizeAxis&) { return 0; }
void no_packing(const ResizeAxis&, void*) {}

void horizontal_plain(const ResizeAxis& axis, const void*, const uint8_t* const planes[3],
                      uint8_t* const out[3]) {
  for (int c = 0; c < 3; ++c) {
    for (int o = 0; o < axis.out; ++o) {
      const int32_t* weights = axis.weights + static_cast<size_t>(o) * axis.taps;
      const uint8_t* in = planes[c] + axis.first[o];
      int32_t sum = kRoundHalf;
      for (int t = 0; t < axis.taps; ++t) sum += weights[t] * in[t];
      out[c][o] = rounded(sum);
    }
  }
}

void vertical_plain(const ResizeAxis& axis, const void*, int o, const uint8_t* const* rows,
                    int count, uint8_t* out) {
  const int32_t* weights = axis.weights + static_cast<size_t>(o) * axis.taps;
  for (int x = 0; x < count; ++x) {
    int32_t sum = kRoundHalf;
    for (int t = 0; t < axis.taps; ++t) sum += weights[t] * rows[t][x];
    out[x] = rounded(sum);
  }
}

// Zeroed memory on cache lines.
class AlignedBytes {
 public:
  explicit AlignedBytes(size_t size)
      : data_(static_cast<uint8_t*>(::operator new(size + 64, std::align_val_t{64}))) {
    std::memset(data_.get(), 0, size + 64);
  }
  uint8_t* data() { return data_.get(); }

 private:
  struct Free {
    void operator()(uint8_t* p) const { ::operator delete(p, std::align_val_t{64}); }
  };
  std::unique_ptr<uint8_t, Free> data_;
};

size_t round_up_64(size_t n) { return (n + 63) / 64 * 64; }

}  // namespace

const ResizeKernels kPlainResize = {"plain",          split_plain, no_bytes,   no_packing,
                                    horizontal_plain, no_bytes,    no_packing, vertical_plain};

const ResizeKernels* const* resize_kernels() {
  static const ResizeKernels* kernels[4] = {&kPlainResize};
#if defined(__x86_64__)
  [[maybe_unused]] static const bool found = [] {
    const ResizeKernels** next = kernels + 1;
    if (__builtin_cpu_supports("avx2")) *next++ = &kAvx2Resize;
    if (__builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vbmi") &&
        __builtin_cpu_supports("avx512vnni")) {
      *next++ = &kAvx512Resize;
    }
    return true;
  }();
#endif
  return kernels;
}

// Both passes, a ring of horizontally resized rows between them: as many as one output row needs.
void resize_planar(const Image& image, int columns, int rows, int tile_width, int tile_height,
                   const ResizeKernels& kernels, uint8_t* out) {
  const int width = columns * tile_width, height = rows * tile_height;
  VIDERE_CHECK(width > 0 && height > 0 && image.width > 0 && image.height > 0);
  const bool resize_x = width != image.width, resize_y = height != image.height;
  const AxisTable across(resize_x ? image.width : 1, resize_x ? width : 1);
  const AxisTable down(resize_y ? image.height : 1, resize_y ? height : 1);
  AlignedBytes packed_x(kernels.horizontal_bytes(across.axis));
  kernels.pack_horizontal(across.axis, packed_x.data());
  AlignedBytes packed_y(kernels.vertical_bytes(down.axis));
  kernels.pack_vertical(down.axis, packed_y.data());

  const int slots = resize_y ? down.axis.taps : 1;
  const size_t source_stride = round_up_64(image.width + across.axis.taps + kRowPadding);
  const size_t stride = round_up_64(width + kRowPadding);
  AlignedBytes source(resize_x ? 3 * source_stride : 0);
  AlignedBytes ring(3 * stride * slots);
  uint8_t* const planes[3] = {source.data(), source.data() + source_stride,
                              source.data() + 2 * source_stride};
  const auto ring_row = [&](int y, int channel) {
    return ring.data() + (3 * static_cast<size_t>(y % slots) + channel) * stride;
  };

  std::vector<const uint8_t*> taps(down.axis.taps);
  int ready = 0;  // source rows below this one have been through the ring
  for (int y = 0; y < height; ++y) {
    const int first = resize_y ? down.first[y] : y;
    const int end = resize_y ? std::min(first + down.axis.taps, image.height) : y + 1;
    for (ready = std::max(ready, first); ready < end; ++ready) {
      uint8_t* const row[3] = {ring_row(ready, 0), ring_row(ready, 1), ring_row(ready, 2)};
      const uint8_t* rgb = image.rgb.data() + 3 * static_cast<size_t>(ready) * image.width;
      kernels.split(rgb, image.width, resize_x ? planes : row);
      if (resize_x) kernels.horizontal(across.axis, packed_x.data(), planes, row);
    }
    for (int column = 0; column < columns; ++column) {
      for (int channel = 0; channel < 3; ++channel) {
        const size_t tile = static_cast<size_t>(y / tile_height) * columns + column;
        uint8_t* to = out + ((3 * tile + channel) * tile_height + y % tile_height) * tile_width;
        const size_t offset = static_cast<size_t>(column) * tile_width;
        if (!resize_y) {
          std::memcpy(to, ring_row(y, channel) + offset, tile_width);
          continue;
        }
        for (int t = 0; t < down.axis.taps; ++t) {
          taps[t] = ring_row(std::min(first + t, end - 1), channel) + offset;
        }
        kernels.vertical(down.axis, packed_y.data(), y, taps.data(), tile_width, to);
      }
    }
  }
}

Image resize_bicubic(const Image& image, int width, int height, const ResizeKernels& kernels) {
  if (width == image.width && height == image.height) return image;
  const size_t pixels = static_cast<size_t>(width) * height;
  std::vector<uint8_t> planes(3 * pixels);
  resize_planar(image, 1, 1, width, height, kernels, planes.data());
  Image result;
  result.width = width;
  result.height = height;
  result.rgb.resize(3 * pixels);
  for (size_t i = 0; i < pixels; ++i) {
    for (int c = 0; c < 3; ++c) result.rgb[3 * i + c] = planes[c * pixels + i];
  }
  return result;
}

const ResizeKernels& fastest() {
  static const ResizeKernels* const best = [] {
    const ResizeKernels* const* kernels = resize_kernels();
    while (kernels[1]) ++kernels;
    return *kernels;
  }();
  return *best;
}

}  // namespace internal

Image resize_bicubic(const Image& image, int width, int height) {
  return internal::resize_bicubic(image, width, height, internal::fastest());
}

void resize_to_tiles(const Image& image, int columns, int rows, int tile, uint8_t* out) {
  internal::resize_planar(image, columns, rows, tile, tile, internal::fastest(), out);
}

}  // namespace videre
