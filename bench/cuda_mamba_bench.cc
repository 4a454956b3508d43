// The Mamba-2 mixer's convolution and scan on a card, at the 12B model's sizes (128 heads of 80,
// state 128, 8 groups; 12288 channels): checked against sums in double on a sample, then timed as
// recorded steps of many calls over several layers' states and rows, more than L2 can hold. Prints
// GB/s of what must be read and written, and TFLOP/s of the chunked form's products.
// OP/STATE/SEQUENCES/ROWS, OP being conv, scan or both. OP/STATE/SEQUENCES of decode steps: three
// is convolution, scan and gated norm one after another, mix all in one kernel as the model has it,
// held against three; mix-clusters and mix-memory say how a group's blocks meet.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "cuda_bench.h"

namespace videre {
namespace {

constexpr int kHeads = 128, kHeadDim = 80, kState = 128, kGroups = 8, kChunk = 128, kTaps = 4;
constexpr int64_t kInner = kHeads * kHeadDim, kBc = kGroups * kState;
constexpr int kGroupWidth = kHeads / kGroups * kHeadDim;
constexpr float kEps = 1e-5f;
constexpr int64_t kConv = kInner + 2 * kBc, kProjected = kInner + kConv + kHeads;

/// Normal values on the card, the same ones again after some megabytes.
Tensor random_tensor(DType dtype, Shape shape, uint32_t seed) {
  constexpr int64_t kCount = 2 << 20;
  const auto make = [](DType type) {
    std::mt19937 generator(7);
    std::normal_distribution<float> normal(0, 1);
    const int64_t size = static_cast<int64_t>(dtype_size(type));
    std::vector<uint8_t> bytes(kCount * size);
    for (int64_t i = 0; i < kCount; ++i) {
      const float value = normal(generator);
      const BF16 rounded = to_bf16(value);
      const _Float16 half = static_cast<_Float16>(value);
      const void* from = &value;
      if (type == DType::kBF16) from = &rounded;
      if (type == DType::kF16) from = &half;
      std::memcpy(&bytes[i * size], from, size);
    }
    return bytes;
  };
  static const std::vector<uint8_t> floats = make(DType::kF32), bf16 = make(DType::kBF16),
                                    halves = make(DType::kF16);
  const std::vector<uint8_t>& bytes = dtype == DType::kF32    ? floats
                                      : dtype == DType::kBF16 ? bf16
                                                              : halves;
  auto& be = card();
  Tensor out = be.allocate(dtype, shape);
  const int64_t size = static_cast<int64_t>(dtype_size(dtype)), total = shape.numel();
  int64_t begin = seed * 4099 % (kCount / 2);
  for (int64_t at = 0; at < total;) {
    const int64_t part = std::min(kCount - begin, total - at);
    be.upload(View(static_cast<char*>(out.view().raw()) + at * size, dtype, Shape{part}),
              bytes.data() + begin * size);
    be.wait(be.submit());
    at += part;
    begin = 0;
  }
  return out;
}
Tensor upload(DType dtype, const void* values, int64_t count) {
  Tensor tensor = card().allocate(dtype, Shape{count});
  card().upload(tensor, values);
  card().wait(card().submit());
  return tensor;
}
// Any view, in order, as doubles.
std::vector<double> values_of(ConstView view) {
  std::vector<uint8_t> bytes(view.numel() * dtype_size(view.dtype()));
  card().download(bytes.data(), view);
  std::vector<double> out(view.numel());
  for (size_t i = 0; i < out.size(); ++i) {
    if (view.dtype() == DType::kF32) {
      float value;
      std::memcpy(&value, &bytes[4 * i], 4);
      out[i] = value;
    } else {
      uint16_t bits;
      std::memcpy(&bits, &bytes[2 * i], 2);
      out[i] = view.dtype() == DType::kBF16 ? to_float(BF16{bits}) : half_to_float(bits);
    }
  }
  return out;
}

struct Piece {
  int rows, count;  // that many sequences of so many rows
};

struct Layer {
  Tensor projected, conv_out, y, out, conv_state, ssm_state;
};

struct Case {
  DType state_dtype;
  StepView step;
  std::vector<int32_t> ends{0};
  Tensor lengths, contexts, slots;
  Tensor conv_weight, conv_bias, dt_bias, a, d, norm;
  std::vector<Layer> layers;
  double conv_bytes = 0, scan_bytes = 0, mix_bytes = 0, products = 0;

  Case(DType dtype, const std::vector<Piece>& pieces) : state_dtype(dtype) {
    auto& be = card();
    std::vector<int32_t> context, slot;
    for (const Piece& piece : pieces) {
      for (int i = 0; i < piece.count; ++i) {
        ends.push_back(ends.back() + piece.rows);
        context.push_back(256);
        slot.push_back(static_cast<int32_t>(slot.size()) + 1);
      }
    }
    std::shuffle(slot.begin(), slot.end(), std::mt19937(3));
    const int64_t rows = ends.back(), seqs = static_cast<int64_t>(slot.size());
    lengths = upload(DType::kI32, ends.data(), seqs + 1);
    contexts = upload(DType::kI32, context.data(), seqs);
    slots = upload(DType::kI32, slot.data(), seqs);
    host_slots = slot;
    step.num_tokens = static_cast<int>(rows);
    step.num_seqs = static_cast<int>(seqs);
    step.cu_seqlens = lengths.view().data<int32_t>();
    step.context_lens = contexts.view().data<int32_t>();
    step.read_slots = step.write_slots = slots.view().data<int32_t>();

    conv_weight = random_tensor(DType::kBF16, Shape{kConv, kTaps}, 1);
    conv_bias = random_tensor(DType::kBF16, Shape{kConv}, 2);
    dt_bias = random_tensor(DType::kF32, Shape{kHeads}, 3);
    d = random_tensor(DType::kF32, Shape{kHeads}, 4);
    norm = random_tensor(DType::kBF16, Shape{kInner}, 5);
    std::vector<float> a_values;
    for (int h = 0; h < kHeads; ++h) a_values.push_back(-std::exp2(static_cast<float>(h % 8) - 4));
    a = upload(DType::kF32, a_values.data(), kHeads);

    const double state_bytes = static_cast<double>(seqs * kInner * kState * dtype_size(dtype));
    const double conv_state_bytes = static_cast<double>(seqs * 3 * kConv * 2);
    conv_bytes = static_cast<double>(rows) * kConv * 4 + 2 * conv_state_bytes;
    scan_bytes = static_cast<double>(rows) * (kInner * 2 + 2 * kBc + kHeads) * 2 + 2 * state_bytes;
    mix_bytes = static_cast<double>(rows) * (kProjected + kInner) * 2 + 2 * conv_state_bytes +
                2 * state_bytes;
    products = static_cast<double>(rows) * kHeads * 2 *
               (64 * (kState + kHeadDim) * 0.625 + 2.0 * kState * kHeadDim);
    const int count = static_cast<int>(std::clamp(5e8 / (scan_bytes + conv_bytes), 2.0, 28.0));
    for (int i = 0; i < count; ++i) {
      const auto seed = static_cast<uint32_t>(10 * i);
      Layer layer;
      layer.projected = random_tensor(DType::kBF16, Shape{rows, kProjected}, seed + 11);
      layer.conv_out = be.allocate(DType::kBF16, Shape{rows, kConv});
      layer.y = be.allocate(DType::kBF16, Shape{rows, kInner});
      layer.out = be.allocate(DType::kBF16, Shape{rows, kInner});
      layer.conv_state = random_tensor(DType::kBF16, Shape{seqs + 1, kTaps - 1, kConv}, seed + 12);
      layer.ssm_state = random_tensor(dtype, Shape{seqs + 1, kHeads, kHeadDim, kState}, seed + 13);
      layers.push_back(std::move(layer));
    }
  }

  void conv(int i) {
    Layer& layer = layers[i % layers.size()];
    card().causal_conv(layer.conv_out, layer.projected.view().columns(kInner, kInner + kConv),
                       conv_weight, conv_bias, layer.conv_state, step);
  }
  void scan(int i) {
    Layer& layer = layers[i % layers.size()];
    const View rows = layer.conv_out;
    SsmInputs in;
    in.x = rows.columns(0, kInner);
    in.b = rows.columns(kInner, kInner + kBc);
    in.c = rows.columns(kInner + kBc, kConv);
    in.dt = layer.projected.view().columns(kInner + kConv, kProjected);
    in.dt_bias = dt_bias, in.a = a, in.d = d;
    in.num_groups = kGroups, in.chunk_size = kChunk, in.dt_max = INFINITY;
    card().ssm_scan(layer.y, in, layer.ssm_state, step);
  }

  void gated_norm(int i) {
    Layer& layer = layers[i % layers.size()];
    card().gated_rms_norm({layer.out}, layer.y, layer.projected.view().columns(0, kInner), norm,
                          kGroupWidth, kEps);
  }
  void three(int i) {
    conv(i);
    scan(i);
    gated_norm(i);
  }
  void mix(int i) {
    Layer& layer = layers[i % layers.size()];
    const View rows = layer.projected;
    Mamba2Inputs in;
    in.z = rows.columns(0, kInner);
    in.xbc = rows.columns(kInner, kInner + kConv);
    in.dt = rows.columns(kInner + kConv, kProjected);
    in.conv_weight = conv_weight, in.conv_bias = conv_bias;
    in.dt_bias = dt_bias, in.a = a, in.d = d, in.norm = norm;
    in.num_groups = kGroups, in.chunk_size = kChunk, in.norm_group = kGroupWidth;
    in.dt_max = INFINITY, in.eps = kEps;
    card().mamba2_mix({layer.out}, in, layer.conv_state, layer.ssm_state, layer.conv_out, layer.y,
                      step);
  }

  // Runs the mixer on the first layer both ways, several times since blocks meet in any order.
  bool mixes() {
    Layer& layer = layers[0];
    const auto copy = [](const Tensor& from) {
      Tensor to = card().allocate(from.view().dtype(), from.view().shape());
      card().copy(to, from);
      return to;
    };
    const Tensor conv_state = copy(layer.conv_state), ssm_state = copy(layer.ssm_state);
    const auto reset = [&] {
      card().copy(layer.conv_state, conv_state);
      card().copy(layer.ssm_state, ssm_state);
    };
    three(0);
    const std::vector<double> out = values_of(layer.out);
    const std::vector<uint8_t> conv_bits = bytes_of(layer.conv_state);
    const std::vector<uint8_t> ssm_bits = bytes_of(layer.ssm_state);
    for (int i = 0; i < 5; ++i) {
      reset();
      card().zero(layer.out);
      mix(0);
      const std::vector<double> got = values_of(layer.out);
      for (size_t j = 0; j < out.size(); ++j) {
        const double allowed = 1e-5 + 0x1p-7 * std::abs(out[j]);
        if (!near("mix", static_cast<int64_t>(j), got[j], out[j], allowed)) return false;
      }
      if (bytes_of(layer.conv_state) != conv_bits || bytes_of(layer.ssm_state) != ssm_bits) {
        std::fprintf(stderr, "mix: other states than the three ops'\n");
        return false;
      }
    }
    reset();
    return true;
  }

  // Runs both on the first layer and follows a few columns of some sequences.
  bool right() {
    Layer& layer = layers[0];
    struct Sample {
      int seq, head, p;
      std::vector<double> state;
      std::vector<std::vector<double>> history;  // of x's channel, B's first, C's first
    };
    std::vector<Sample> samples;
    for (int i = 0; i < 4; ++i) {
      Sample sample{i * 37 % step.num_seqs, (i * 53 + 5) % kHeads, (i * 31 + 3) % kHeadDim, {}, {}};
      const int32_t slot = host_slots[sample.seq];
      sample.state = values_of(layer.ssm_state.view()[slot][sample.head][sample.p]);
      sample.history.push_back(
          values_of(layer.conv_state.view()[slot].columns(channel(sample), channel(sample) + 1)));
      samples.push_back(std::move(sample));
    }
    conv(0);
    scan(0);
    const std::vector<double> weights = values_of(conv_weight), bias = values_of(conv_bias);
    const std::vector<double> biases = values_of(dt_bias), as = values_of(a), ds = values_of(d);
    for (Sample& sample : samples) {
      const int64_t first = ends[sample.seq], behind = ends[sample.seq + 1];
      const int64_t c0 = channel(sample), group = sample.head / (kHeads / kGroups);
      const auto column = [&](const Tensor& tensor, int64_t from, int64_t width) {
        return values_of(tensor.view().rows(first, behind).columns(from, from + width));
      };
      const std::vector<double> raw = column(layer.projected, kInner + c0, 1);
      const std::vector<double> x = column(layer.conv_out, c0, 1), y = column(layer.y, c0, 1);
      const std::vector<double> b = column(layer.conv_out, kInner + group * kState, kState);
      const std::vector<double> c = column(layer.conv_out, kInner + kBc + group * kState, kState);
      const std::vector<double> dt = column(layer.projected, kInner + kConv + sample.head, 1);
      std::vector<double>& s = sample.state;
      std::vector<double> mass(kState);
      for (int n = 0; n < kState; ++n) mass[n] = std::abs(s[n]);
      for (int64_t t = 0; t < behind - first; ++t) {
        double sum = bias[c0];
        for (int64_t j = 0; j < kTaps; ++j) {
          const int64_t from = t - kTaps + 1 + j;
          sum += weights[c0 * kTaps + j] *
                 (from >= 0 ? raw[from] : sample.history[0][from + kTaps - 1]);
        }
        const double silu = sum / (1 + std::exp(-sum));
        if (!near("conv", t, x[t], silu, 1e-5 + 0x1p-8 * std::abs(silu))) return false;
        const double v = dt[t] + biases[sample.head];
        const double delta = v > 20 ? v : std::log1p(std::exp(v));
        double out = ds[sample.head] * x[t], out_mass = 0;
        for (int n = 0; n < kState; ++n) {
          const double decay = std::exp(delta * as[sample.head]);
          const double term = delta * x[t] * b[t * kState + n];
          s[n] = decay * s[n] + term;
          mass[n] = decay * mass[n] + std::abs(term);
          out += s[n] * c[t * kState + n];
          out_mass += mass[n] * std::abs(c[t * kState + n]);
        }
        const double allowed = 1e-4 + 0x1p-8 * std::abs(out) + 0x1p-7 * out_mass;
        if (!near("scan", t, y[t], out, allowed)) return false;
      }
      const std::vector<double> got =
          values_of(layer.ssm_state.view()[host_slots[sample.seq]][sample.head][sample.p]);
      for (int n = 0; n < kState; ++n) {
        if (!near("state", n, got[n], s[n], 1e-4 + 0x1p-7 * std::abs(s[n]) + 0x1p-8 * mass[n])) {
          return false;
        }
      }
    }
    return true;
  }

 private:
  template <typename Sample>
  static int64_t channel(const Sample& sample) {
    return int64_t{sample.head} * kHeadDim + sample.p;
  }
  static bool near(const char* what, int64_t at, double got, double expected, double allowed) {
    if (std::abs(got - expected) <= allowed) return true;
    std::fprintf(stderr, "%s %lld: %g, expected %g\n", what, static_cast<long long>(at), got,
                 expected);
    return false;
  }
  std::vector<int32_t> host_slots;
};

enum class Op { kConv, kScan, kBoth, kThree, kMix };

void mamba(benchmark::State& state, Op op, DType dtype, const std::vector<Piece>& pieces) {
  Case c(dtype, pieces);
  if (!c.right()) return state.SkipWithError("wrong result");
  for (size_t i = 0; i < c.layers.size(); ++i) c.conv(static_cast<int>(i));  // rows for the scan
  const double bytes = (op == Op::kScan ? 0 : c.conv_bytes) + (op == Op::kConv ? 0 : c.scan_bytes);
  const int calls = static_cast<int>(std::clamp(8e-3 / (bytes / 3e12), 6.0, 140.0));
  const auto seconds = measure(state, calls, [&](int i) {
    if (op != Op::kScan) c.conv(i);
    if (op != Op::kConv) c.scan(i);
  });
  if (!seconds) return;
  state.counters["us"] = *seconds * 1e6;
  state.counters["GB/s"] = bytes / *seconds / 1e9;
  if (op == Op::kScan && c.step.num_tokens > c.step.num_seqs) {
    state.counters["TFLOP/s"] = c.products / *seconds / 1e12;
  }
}

void mixer(benchmark::State& state, Op op, DType dtype, int sequences, int clustered_seqs) {
  const int usual = card().clustered_seqs();
  if (clustered_seqs >= 0) card().set_clustered_seqs(clustered_seqs);
  {
    Case c(dtype, {{1, sequences}});
    if (!c.mixes()) {
      state.SkipWithError("wrong result");
    } else {
      const int calls = static_cast<int>(std::clamp(8e-3 / (c.mix_bytes / 3e12), 6.0, 140.0));
      const auto seconds =
          measure(state, calls, [&](int i) { op == Op::kMix ? c.mix(i) : c.three(i); });
      if (seconds) {
        state.counters["us"] = *seconds * 1e6;
        state.counters["GB/s"] = c.mix_bytes / *seconds / 1e9;
      }
    }
  }
  card().set_clustered_seqs(usual);
}

void register_all() {
  const auto add = [](Op op, DType dtype, const std::vector<Piece>& pieces,
                      const std::string& sizes) {
    const std::string name = std::string(op == Op::kConv   ? "conv/"
                                         : op == Op::kScan ? "scan/"
                                                           : "both/") +
                             (dtype == DType::kF32    ? "float32/"
                              : dtype == DType::kBF16 ? "bfloat16/"
                                                      : "float16/") +
                             sizes;
    benchmark::RegisterBenchmark(name.c_str(), mamba, op, dtype, pieces)
        ->UseManualTime()
        ->Unit(benchmark::kMicrosecond)
        ->Iterations(10);
  };
  for (const int sequences : {1, 8, 32, 128, 256}) {
    const std::string sizes = std::to_string(sequences) + "/1";
    const std::vector<Piece> pieces{{1, sequences}};
    add(Op::kConv, DType::kF32, pieces, sizes);
    add(Op::kScan, DType::kF32, pieces, sizes);
    add(Op::kBoth, DType::kF32, pieces, sizes);
    add(Op::kScan, DType::kBF16, pieces, sizes);
    if (sequences >= 32) add(Op::kScan, DType::kF16, pieces, sizes);
  }
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    for (const int sequences : {1, 2, 4, 8, 16, 32, 64, 128}) {
      const auto add_mixer = [&](const char* name, Op op, int clustered_seqs) {
        const std::string full = std::string(name) +
                                 (dtype == DType::kF32    ? "/float32/"
                                  : dtype == DType::kBF16 ? "/bfloat16/"
                                                          : "/float16/") +
                                 std::to_string(sequences);
        benchmark::RegisterBenchmark(full.c_str(), mixer, op, dtype, sequences, clustered_seqs)
            ->UseManualTime()
            ->Unit(benchmark::kMicrosecond)
            ->Iterations(10);
      };
      add_mixer("three", Op::kThree, -1);
      add_mixer("mix", Op::kMix, -1);
      add_mixer("mix-clusters", Op::kMix, 1 << 20);
      add_mixer("mix-memory", Op::kMix, 0);
    }
  }
  for (const auto& [rows, sequences] :
       {std::pair{8192, 1}, {8192, 4}, {2048, 1}, {512, 1}, {512, 16}, {64, 128}}) {
    const std::string sizes = std::to_string(sequences) + "/" + std::to_string(rows);
    const std::vector<Piece> pieces{{rows, sequences}};
    add(Op::kConv, DType::kF32, pieces, sizes);
    add(Op::kScan, DType::kF32, pieces, sizes);
  }
  add(Op::kScan, DType::kBF16, {{8192, 1}}, "1/8192");
  const std::vector<Piece> mixed{{1, 127}, {2048, 1}};
  add(Op::kConv, DType::kF32, mixed, "127/1+1/2048");
  add(Op::kScan, DType::kF32, mixed, "127/1+1/2048");
}

}  // namespace
}  // namespace videre

int main(int argc, char** argv) {
  videre::register_all();
  return videre::run_benchmarks(argc, argv);
}
