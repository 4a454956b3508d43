// Norms, pointwise ops, rows, vision's movers and sampling on a card, at the 12B model's sizes:
// each is held against the CPU on a few rows first, then timed as a recorded step of many calls. Up
// to 64 rows stay where L2 has them, as between two ops of a decode step; more rows turn over
// buffers that L2 cannot hold. Prints GB/s of what must be read and written, and its share of what
// copying a gigabyte reaches in the same run. OP/ROWS, or tiles, frames.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "cuda_bench.h"

namespace videre {
namespace {

constexpr int64_t kHidden = 5120, kFfn = 20480, kInner = 10240, kProjection = 22656;
constexpr int64_t kVocab = 132096, kTower = 1280, kTowerTokens = 1034;
constexpr DType kBF16 = DType::kBF16, kF32 = DType::kF32;

Backend& cpu() {
  static const std::unique_ptr<Backend> be = make_cpu_backend();
  return *be;
}

// Bytes a second, both directions counted.
double copy_ceiling() {
  static const double rate = [] {
    const int64_t bytes = int64_t{1} << 30;
    const Tensor from = card().allocate(DType::kU8, Shape{bytes});
    const Tensor to = card().allocate(DType::kU8, Shape{bytes});
    double best = 1e30;
    for (int i = 0; i < 10; ++i) {
      card().wait(card().submit());
      const auto start = std::chrono::steady_clock::now();
      for (int j = 0; j < 4; ++j) {
        card().launcher().copy(to.view().raw(), from.view().raw(), bytes);
      }
      card().wait(card().submit());
      best = std::min(best, seconds_since(start) / 4);
    }
    std::printf("copying a gigabyte: %.0f GB/s\n", 2e-9 * static_cast<double>(bytes) / best);
    return 2 * static_cast<double>(bytes) / best;
  }();
  return rate;
}

// What an op works on. Integers count up in steps of `stride` below `limit`.
struct Array {
  DType dtype;
  Shape shape;
  int64_t limit = 0;
  float scale = 1;
};
struct Op {
  std::function<std::vector<Array>(int64_t count)> arrays;
  std::function<void(Backend&, const std::vector<View>&)> call;
  double bytes_each;  // a row, tile or frame
};

std::vector<uint8_t> contents(const Array& array, uint32_t seed) {
  const int64_t total = array.shape.numel(), distinct = std::min<int64_t>(total, 3000017);
  std::vector<uint8_t> out(static_cast<size_t>(total) * dtype_size(array.dtype));
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal(0, array.scale);
  std::vector<float> values(distinct);
  for (float& value : values) value = normal(generator);
  for (int64_t i = 0; i < total; ++i) {
    const float value = values[i % distinct];
    if (array.dtype == kBF16) {
      reinterpret_cast<BF16*>(out.data())[i] = to_bf16(value);
    } else if (array.dtype == kF32) {
      reinterpret_cast<float*>(out.data())[i] = value;
    } else if (array.dtype == DType::kI32) {
      reinterpret_cast<int32_t*>(out.data())[i] = static_cast<int32_t>(i * 7919 % array.limit);
    } else {
      out[i] = static_cast<uint8_t>(i * 37 + i / 251);
    }
  }
  return out;
}

std::vector<Tensor> make(Backend& be, const std::vector<Array>& arrays, uint32_t seed) {
  std::vector<Tensor> out;
  for (const Array& array : arrays) {
    out.push_back(be.allocate(array.dtype, array.shape));
    be.upload(out.back(), contents(array, ++seed).data());
    be.wait(be.submit());
  }
  return out;
}
std::vector<View> views(const std::vector<Tensor>& tensors) {
  return {tensors.begin(), tensors.end()};
}

// The op on few rows leaves the same everywhere as on the CPU.
bool right(const Op& op) {
  const std::vector<Array> arrays = op.arrays(2);
  const std::vector<Tensor> here = make(cpu(), arrays, 1), there = make(card(), arrays, 1);
  op.call(cpu(), views(here));
  op.call(card(), views(there));
  for (size_t i = 0; i < arrays.size(); ++i) {
    std::vector<uint8_t> got(here[i].size_bytes());
    card().download(got.data(), there[i]);
    const auto* expected = here[i].view().data<uint8_t>();
    const auto value = [&](const uint8_t* bytes, int64_t at) {
      if (arrays[i].dtype == kBF16) return to_float(reinterpret_cast<const BF16*>(bytes)[at]);
      if (arrays[i].dtype == kF32) return reinterpret_cast<const float*>(bytes)[at];
      return 0.0f;
    };
    for (int64_t at = 0; at < arrays[i].shape.numel(); ++at) {
      const float a = value(got.data(), at), b = value(expected, at);
      if (!(std::abs(a - b) <= 1e-5f + 0.01f * std::abs(b))) {
        std::printf("array %zu, element %lld: %g, expected %g\n", i, static_cast<long long>(at), a,
                    b);
        return false;
      }
    }
  }
  return true;
}

// Times `call(i)` and counts `bytes` a call.
template <typename Call>
void time_bytes(benchmark::State& state, double bytes, int calls, Call&& call) {
  const auto seconds = measure(state, calls, call);
  if (!seconds) return;
  state.counters["GB/s"] = bytes / *seconds / 1e9;
  state.counters["share"] = bytes / *seconds / copy_ceiling();
}

void timed(const std::string& name, int64_t count, const Op& op) {
  benchmark::RegisterBenchmark(
      (name + "/" + std::to_string(count)).c_str(),
      [=](benchmark::State& state) {
        if (!right(op)) return state.SkipWithError("wrong result");
        const std::vector<Array> arrays = op.arrays(count);
        const double bytes = op.bytes_each * static_cast<double>(count);
        const int copies = bytes < 4e6 ? 1 : static_cast<int>(std::clamp(4e8 / bytes, 2.0, 16.0));
        std::vector<std::vector<Tensor>> sets;
        for (int i = 0; i < copies; ++i) sets.push_back(make(card(), arrays, 10 * i + 1));
        std::vector<std::vector<View>> all;
        for (const auto& set : sets) all.push_back(views(set));
        const int calls = bytes < 4e6 ? 200 : 4 * copies;
        time_bytes(state, bytes, calls, [&](int i) { op.call(card(), all[i % copies]); });
      })
      ->UseManualTime()
      ->Unit(benchmark::kMicrosecond)
      ->Iterations(10);
}

void register_ops() {
  using Views = std::vector<View>;
  const Op add_rms{
      [](int64_t n) {
        return std::vector<Array>{{kBF16, {n, kHidden}},
                                  {kBF16, {n, kHidden}},
                                  {kBF16, {n, kHidden}, 0, 1e-3f},
                                  {kBF16, {kHidden}}};
      },
      [](Backend& be, const Views& v) { be.add_rms_norm({v[0]}, v[1], v[2], v[3], 1e-5f); },
      4 * 2.0 * kHidden};
  const Op rms{[](int64_t n) {
                 return std::vector<Array>{
                     {kBF16, {n, kHidden}}, {kBF16, {n, kHidden}}, {kBF16, {kHidden}}};
               },
               [](Backend& be, const Views& v) { be.rms_norm({v[0]}, v[1], v[2], 1e-5f); },
               2 * 2.0 * kHidden};
  const Op gated{[](int64_t n) {
                   return std::vector<Array>{{kBF16, {n, kInner}},
                                             {kBF16, {n, kInner}},
                                             {kBF16, {n, kProjection}},
                                             {kBF16, {kInner}}};
                 },
                 [](Backend& be, const Views& v) {
                   be.gated_rms_norm({v[0]}, v[1], v[2].columns(0, kInner), v[3], kInner / 8,
                                     1e-5f);
                 },
                 3 * 2.0 * kInner};
  const Op relu2{
      [](int64_t n) { return std::vector<Array>{{kBF16, {n, kFfn}}, {kBF16, {n, kFfn}}}; },
      [](Backend& be, const Views& v) { be.relu2({v[0]}, v[1]); }, 2 * 2.0 * kFfn};
  const Op embed{[](int64_t n) {
                   return std::vector<Array>{{kBF16, {n, kHidden}},
                                             {kBF16, {20011, kHidden}},
                                             {DType::kI32, {n}, 20011},
                                             {DType::kI32, {4}, 4}};
                 },
                 [](Backend& be, const Views& v) { be.embed(v[0], v[1], v[2], v[3]); },
                 2 * 2.0 * kHidden};
  for (const int64_t rows : {1, 8, 64, 256, 2048, 8192}) {
    timed("add_rms_norm", rows, add_rms);
    timed("rms_norm", rows, rms);
    timed("gated_rms_norm", rows, gated);
    timed("relu2", rows, relu2);
    timed("embed", rows, embed);
  }
  timed("copy_logits", 256,
        {[](int64_t n) { return std::vector<Array>{{kF32, {n, kVocab}}, {kF32, {n, kVocab}}}; },
         [](Backend& be, const Views& v) { be.copy(v[0], v[1]); }, 8.0 * kVocab});

  const auto rows_of = [](int64_t tiles) { return tiles * kTowerTokens; };
  const Op add_layer{
      [=](int64_t n) {
        const Shape rows{rows_of(n), kTower};
        return std::vector<Array>{{kBF16, rows},
                                  {kBF16, rows},
                                  {kBF16, rows, 0, 1e-3f},
                                  {kBF16, {kTower}},
                                  {kBF16, {kTower}}};
      },
      [](Backend& be, const Views& v) { be.add_layer_norm({v[0]}, v[1], v[2], v[3], v[4], 1e-6f); },
      4 * 2.0 * kTowerTokens * kTower};
  const Op gelu{[=](int64_t n) {
                  const Shape rows{rows_of(n), 4 * kTower};
                  return std::vector<Array>{{kBF16, rows}, {kBF16, rows}};
                },
                [](Backend& be, const Views& v) { be.gelu({v[0]}, v[1]); },
                2 * 2.0 * kTowerTokens * 4 * kTower};
  const Op normalize{
      [](int64_t n) {
        return std::vector<Array>{{kBF16, {n, 3, 512, 512}}, {DType::kU8, {n, 3, 512, 512}}};
      },
      [](Backend& be, const Views& v) {
        be.normalize_pixels(v[0], v[1], {0.48f, 0.46f, 0.41f}, {0.27f, 0.26f, 0.28f});
      },
      3.0 * 3 * 512 * 512};
  const Op patchify{[](int64_t n) {
                      return std::vector<Array>{{kBF16, {n, 1024, 768}}, {kBF16, {n, 3, 512, 512}}};
                    },
                    [](Backend& be, const Views& v) { be.patchify(v[0], v[1], 16); },
                    4.0 * 3 * 512 * 512};
  const Op assemble{[](int64_t n) {
                      return std::vector<Array>{{kBF16, {n, kTowerTokens, kTower}},
                                                {kBF16, {n, 1024, kTower}},
                                                {kBF16, {1024, kTower}},
                                                {kBF16, {kTowerTokens - 1024, kTower}}};
                    },
                    [](Backend& be, const Views& v) { be.assemble_tokens(v[0], v[1], v[2], v[3]); },
                    4.0 * 1024 * kTower};
  const Op shuffle{[](int64_t n) {
                     return std::vector<Array>{{kBF16, {n, 256, 4 * kTower}},
                                               {kBF16, {n, kTowerTokens, kTower}}};
                   },
                   [](Backend& be, const Views& v) {
                     be.pixel_shuffle(v[0], v[1].slice(1, kTowerTokens - 1024, kTowerTokens), 32,
                                      32, 2, false);
                   },
                   4.0 * 1024 * kTower};
  for (const int64_t tiles : {1, 13}) {
    timed("add_layer_norm", tiles, add_layer);
    timed("gelu", tiles, gelu);
    timed("normalize_pixels", tiles, normalize);
    timed("patchify", tiles, patchify);
    timed("assemble_tokens", tiles, assemble);
    timed("pixel_shuffle", tiles, shuffle);
  }
  for (const auto arithmetic : {EvsArithmetic::kFloat32, EvsArithmetic::kBFloat16}) {
    timed(
        arithmetic == EvsArithmetic::kFloat32 ? "dissimilarity_float32" : "dissimilarity_bfloat16",
        64,
        {[](int64_t n) {
           return std::vector<Array>{
               {kF32, {n, 256}}, {kBF16, {n * 256, kHidden}}, {kBF16, {256, kHidden}}};
         },
         [=](Backend& be, const Views& v) {
           be.frame_dissimilarity(v[0], v[1], v[2], 256, arithmetic);
         },
         2.0 * 256 * kHidden});
  }
}

// --- Sampling ---

void sampled(const std::string& name, int64_t rows, const SampleRow& parameters) {
  benchmark::RegisterBenchmark(
      ("sample/" + name + "/" + std::to_string(rows)).c_str(),
      [=](benchmark::State& state) {
        // Like a model's: most tokens far below a few.
        const Array array{kF32, {rows, kVocab}, 0, 2.5f};
        std::vector<uint8_t> bytes = contents(array, 5);
        auto* logits = reinterpret_cast<float*>(bytes.data());
        for (int64_t i = 0; i < rows; ++i) {
          for (int64_t j = 0; j < 30; ++j) {
            logits[i * kVocab + (i * 31 + j * 4391) % kVocab] = 16 - 0.3f * static_cast<float>(j);
          }
        }
        std::vector<SampleRow> tasks(rows, parameters);
        for (int64_t i = 0; i < rows; ++i) {
          tasks[i].row = tasks[i].slot = static_cast<int32_t>(i);
          tasks[i].seed = static_cast<uint64_t>(i) * 12345;
        }
        std::vector<SampledToken> out(rows), expected(rows);
        const auto sample = [&](Backend& be, const Tensor& x, const Tensor& last,
                                std::vector<SampledToken>& to) {
          be.sample(x, x, tasks, last, to);
        };
        {
          const Tensor x = cpu().allocate(kF32, array.shape),
                       last = cpu().allocate(DType::kI32, Shape{rows});
          cpu().upload(x, bytes.data());
          sample(cpu(), x, last, expected);
        }
        const int copies =
            static_cast<int>(std::clamp(2e8 / static_cast<double>(bytes.size()), 2.0, 16.0));
        std::vector<Tensor> sets;
        for (int i = 0; i < copies; ++i) {
          sets.push_back(card().allocate(kF32, array.shape));
          card().upload(sets.back(), bytes.data());
          card().wait(card().submit());
        }
        const Tensor last = card().allocate(DType::kI32, Shape{rows});
        sample(card(), sets[0], last, out);
        card().wait(card().submit());
        int64_t equal = 0;
        for (int64_t i = 0; i < rows; ++i) {
          equal += out[i].token == expected[i].token && out[i].rank == expected[i].rank ? 1 : 0;
        }
        if (equal < rows) {
          std::printf("%lld of %lld tokens are the CPU's\n", static_cast<long long>(equal),
                      static_cast<long long>(rows));
        }
        if (equal * 100 < rows * 99) return state.SkipWithError("wrong result");
        // Parameters and results stay in the step's memory, so the calls can be recorded.
        time_bytes(state, static_cast<double>(bytes.size()), 2 * copies,
                   [&](int i) { sample(card(), sets[i % copies], last, out); });
      })
      ->UseManualTime()
      ->Unit(benchmark::kMicrosecond)
      ->Iterations(10);
}

void register_sampling() {
  for (const int64_t rows : {1, 8, 32, 128, 256}) {
    sampled("greedy", rows, {});
    sampled("plain", rows, {.temperature = 1});
    sampled("top_p", rows, {.temperature = 0.6f, .top_p = 0.95f});
    sampled("top_k_top_p", rows, {.temperature = 1, .top_k = 50, .top_p = 0.95f});
    sampled("min_p", rows, {.temperature = 1, .min_p = 0.05f});
    sampled("flat_top_p", rows, {.temperature = 20, .top_p = 0.9f});  // tens of thousands stay
    sampled("logprobs", rows, {.num_logprobs = 20});
  }
  // What a row that is not edited in the step costs too: the host's part and the way to the card.
  for (const int64_t count : {int64_t{10}, kVocab}) {
    benchmark::RegisterBenchmark(
        ("edit_logits/" + std::to_string(count)).c_str(),
        [=](benchmark::State& state) {
          const Tensor x = card().allocate(kF32, Shape{1, kVocab});
          std::vector<LogitEdit> edits;
          std::vector<TokenCount> tokens;
          for (int64_t i = 0; i < count; ++i) {
            edits.push_back({0, static_cast<int32_t>(i), -1, true});
            tokens.push_back({static_cast<int32_t>(i), 1});
          }
          const std::vector<PenaltyRow> penalties{{0, 1.1f, 0.1f, 0.1f, tokens}};
          for (auto _ : state) {
            const auto start = std::chrono::steady_clock::now();
            card().edit_logits(x, edits);
            card().penalize(x, penalties);
            card().wait(card().submit());
            state.SetIterationTime(seconds_since(start));
          }
        })
        ->UseManualTime()
        ->Unit(benchmark::kMicrosecond)
        ->Iterations(20);
  }
}

}  // namespace
}  // namespace videre

int main(int argc, char** argv) {
  videre::register_ops();
  videre::register_sampling();
  return videre::run_benchmarks(argc, argv);
}
