// Pictures: libjpeg-turbo's decoder alone, Videre's, tiles alone, and the whole way from JPEG bytes
// to 13 normalised tiles, all on one core and in one run. `ratio` is the whole way, less one pass
// that normalises the tiles, over libjpeg-turbo's decoding; the target is 2 or less.
#include <benchmark/benchmark.h>
#include <turbojpeg.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <ctime>
#include <random>
#include <vector>

#include "media/image.h"
#include "media/resize_kernels.h"
#include "media/tiles.h"

namespace videre {
namespace {

// Seconds that this thread has computed: what else the machine does counts little.
double cpu_seconds() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + values.size() / 2, values.end());
  return values[values.size() / 2];
}

// Shapes, gradients and some grain: about two bits a pixel at quality 90, like a photograph.
Image photograph(int width, int height) {
  Image image{width, height, {}};
  image.rgb.resize(3 * static_cast<size_t>(width) * height);
  std::mt19937 random(1);
  size_t i = 0;
  for (int y = 0; y < height; ++y) {
    for (int x = 0; x < width; ++x) {
      const double u = 9.0 * x / width, v = 9.0 * y / height;
      const double shape = std::sin(u * u + v) * std::cos(v * v - u) > 0.3 ? 60 : 0;
      const int grain = static_cast<int>(random() % 17) - 8;
      for (int c = 0; c < 3; ++c, ++i) {
        const double value = 110 + 50 * std::sin(u + c) * std::cos(v - c) + shape + grain;
        image.rgb[i] = static_cast<uint8_t>(std::clamp(value, 0.0, 255.0));
      }
    }
  }
  return image;
}

std::vector<uint8_t> encode(const Image& image) {
  const tjhandle codec = tjInitCompress();
  unsigned char* bytes = nullptr;
  unsigned long size = 0;  // NOLINT: the library's type
  tjCompress2(codec, image.rgb.data(), image.width, 0, image.height, TJPF_RGB, &bytes, &size,
              TJSAMP_420, 90, 0);
  std::vector<uint8_t> result(bytes, bytes + size);
  tjFree(bytes);
  tjDestroy(codec);
  return result;
}

void decode_with_turbojpeg(const std::vector<uint8_t>& jpeg, Image& out) {
  const tjhandle codec = tjInitDecompress();
  if (tjDecompress2(codec, jpeg.data(), jpeg.size(), out.rgb.data(), out.width, 0, out.height,
                    TJPF_RGB, 0) != 0) {
    std::abort();
  }
  tjDestroy(codec);
}

// The pass that the backend makes over the tiles' pixels.
void normalise(const PixelTiles& tiles, std::vector<float>& out) {
  constexpr float kMean[3] = {0.48145466f, 0.4578275f, 0.40821073f};
  constexpr float kStd[3] = {0.26862954f, 0.26130258f, 0.27577711f};
  const size_t plane = static_cast<size_t>(tiles.tile_size) * tiles.tile_size;
  for (int p = 0; p < 3 * tiles.num_tiles; ++p) {
    const float scale = 1 / (255 * kStd[p % 3]), shift = -kMean[p % 3] / kStd[p % 3];
    const uint8_t* in = tiles.data.data() + p * plane;
    float* to = out.data() + p * plane;
#pragma GCC ivdep
    for (size_t i = 0; i < plane; ++i) to[i] = static_cast<float>(in[i]) * scale + shift;
  }
}

void jpeg_to_tiles(benchmark::State& state) {
  const int width = static_cast<int>(state.range(0)), height = static_cast<int>(state.range(1));
  const std::vector<uint8_t> jpeg = encode(photograph(width, height));
  Image reference{width, height, std::vector<uint8_t>(3 * static_cast<size_t>(width) * height)};
  decode_with_turbojpeg(jpeg, reference);
  const auto first = decode_jpeg(jpeg, {});
  if (!first.ok() || first->rgb != reference.rgb) return state.SkipWithError("pixels differ");
  const PixelTiles tiles = make_tiles(*first, {});
  if (tiles.num_tiles != 13) return state.SkipWithError("expected 13 tiles");
  std::vector<float> pixels(tiles.data.size());

  std::vector<double> turbo_s, decode_s, tiles_s, pass_s;
  for (auto _ : state) {
    double start = cpu_seconds();
    decode_with_turbojpeg(jpeg, reference);
    turbo_s.push_back(cpu_seconds() - start);

    start = cpu_seconds();
    const auto image = decode_jpeg(jpeg, {});
    decode_s.push_back(cpu_seconds() - start);
    const double middle = cpu_seconds();
    const PixelTiles result = make_tiles(*image, {});
    tiles_s.push_back(cpu_seconds() - middle);
    const double last = cpu_seconds();
    normalise(result, pixels);
    pass_s.push_back(cpu_seconds() - last);
    state.SetIterationTime(cpu_seconds() - start);
    benchmark::DoNotOptimize(pixels.data());
  }
  const double turbo = median(turbo_s), decode = median(decode_s), cut = median(tiles_s);
  state.counters["turbojpeg_ms"] = 1e3 * turbo;
  state.counters["decode_ms"] = 1e3 * decode;
  state.counters["tiles_ms"] = 1e3 * cut;
  state.counters["pass_ms"] = 1e3 * median(pass_s);
  state.counters["ratio"] = (decode + cut) / turbo;
}
BENCHMARK(jpeg_to_tiles)
    ->Args({640, 480})
    ->Args({1024, 768})
    ->Args({1600, 1200})
    ->Args({2048, 1536})
    ->Args({4000, 3000})
    ->UseManualTime()
    ->Unit(benchmark::kMillisecond);

// Each instruction set on one mosaic; MB/s of result.
void resize(benchmark::State& state, const internal::ResizeKernels* kernels) {
  const Image image =
      photograph(static_cast<int>(state.range(0)), static_cast<int>(state.range(1)));
  const Image expected = internal::resize_bicubic(image, 200, 150, internal::kPlainResize);
  if (internal::resize_bicubic(image, 200, 150, *kernels).rgb != expected.rgb) {
    return state.SkipWithError("pixels differ from the plain loops");
  }
  std::vector<uint8_t> out(size_t{3} * 2048 * 1536);
  for (auto _ : state) {
    internal::resize_planar(image, 4, 3, 512, 512, *kernels, out.data());
    benchmark::DoNotOptimize(out.data());
  }
  state.SetBytesProcessed(static_cast<int64_t>(state.iterations() * out.size()));
}

void add_resize_benches() {
  for (auto* kernels = internal::resize_kernels(); *kernels; ++kernels) {
    benchmark::RegisterBenchmark((std::string("resize/") + (*kernels)->name).c_str(), resize,
                                 *kernels)
        ->Args({640, 480})
        ->Args({1600, 1200})
        ->Args({4000, 3000})
        ->Unit(benchmark::kMillisecond);
  }
}

}  // namespace
}  // namespace videre

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  videre::add_resize_benches();
  benchmark::RunSpecifiedBenchmarks();
}
