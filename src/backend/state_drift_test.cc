// 16-bit Mamba states over a long decode, beside a float32 one: rounding at random must leave an
// error that stays, not one that grows. On a card with the model's sizes, on the CPU with a few
// heads and, for comparison, with rounding to nearest.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "backend/testing.h"

namespace videre::testing {
namespace {

constexpr int kHeadDim = 80, kState = 128, kPeriod = 251, kSampledRows = 16;

// Root mean square of the difference over that of the reference, averaged over heads.
double head_error(const std::vector<float>& got, const std::vector<float>& want, int64_t heads) {
  const int64_t size = std::ssize(want) / heads;
  double sum = 0;
  for (int64_t head = 0; head < heads; ++head) {
    double difference = 0, norm = 0;
    for (int64_t i = head * size; i < (head + 1) * size; ++i) {
      difference += (double{got[i]} - want[i]) * (double{got[i]} - want[i]);
      norm += double{want[i]} * want[i];
    }
    sum += std::sqrt(difference / norm);
  }
  return sum / static_cast<double>(heads);
}

class StateDrift : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    const bool cuda = GetParam() == "cuda";
    if (cuda && !has_card()) GTEST_SKIP() << "no card";
    be_ = cuda ? std::move(make_cuda_backend().value()) : make_cpu_backend({.num_threads = 2});
    heads_ = cuda ? 128 : 4;
    groups_ = cuda ? 8 : 2;
    seqs_ = cuda ? 3 : 1;
  }
  Tensor on_device(DType dtype, Shape shape, const std::vector<float>& values) {
    const Tensor host = make_tensor(dtype, shape, values);
    Tensor tensor = be_->allocate(dtype, shape);
    be_->upload(tensor, host.view().raw());
    be_->wait(be_->submit());
    return tensor;
  }
  std::vector<float> on_host(ConstView view) {
    Tensor host = make_host_tensor(view.dtype(), view.shape());
    be_->download(host.view().raw(), view);
    return values_of(host);
  }

  std::unique_ptr<Backend> be_;
  int64_t heads_ = 0, groups_ = 0, seqs_ = 0;
};

TEST_P(StateDrift, ErrorsStayOverEightThousandSteps) {
  struct Kept {
    std::string name;
    DType dtype;
    bool nearest;  // float32 that is rounded after each step, on the host
    Tensor state, y;
    std::vector<double> state_errors, y_errors;
  };
  std::vector<Kept> kept;
  kept.push_back({"float32", DType::kF32, false});
  kept.push_back({"bfloat16", DType::kBF16, false});
  kept.push_back({"float16", DType::kF16, false});
  if (GetParam() == "cpu") kept.push_back({"bfloat16, to nearest", DType::kBF16, true});
  const Shape state_shape{seqs_ + 1, heads_, kHeadDim, kState};
  for (Kept& one : kept) {
    one.state = be_->allocate(one.nearest ? DType::kF32 : one.dtype, state_shape);
    one.y = be_->allocate(DType::kBF16, Shape{seqs_, heads_ * kHeadDim});
  }

  // Steps from 0.001 to 0.1 and decays from 1 to 16, as the model family starts with: the longest
  // memory is a thousand tokens.
  std::vector<float> dt_bias(heads_), a(heads_), d(heads_, 0.0f);
  for (int64_t head = 0; head < heads_; ++head) {
    const double at = static_cast<double>(head) / static_cast<double>(heads_ - 1);
    const double dt = 0.001 * std::pow(100.0, at);
    dt_bias[head] = static_cast<float>(std::log(std::expm1(dt)));
    a[head] = -static_cast<float>(1 + head * 7 % 16);
  }
  const int64_t rows = kPeriod * seqs_;
  const Tensor x = on_device(DType::kBF16, Shape{rows, heads_ * kHeadDim},
                             random_values(rows * heads_ * kHeadDim, 1));
  const Tensor b = on_device(DType::kBF16, Shape{rows, groups_ * kState},
                             random_values(rows * groups_ * kState, 2));
  const Tensor c = on_device(DType::kBF16, Shape{rows, groups_ * kState},
                             random_values(rows * groups_ * kState, 3));
  const Tensor dt =
      on_device(DType::kBF16, Shape{rows, heads_}, random_values(rows * heads_, 4, 0.3f));
  const Tensor device_bias = on_device(DType::kF32, Shape{heads_}, dt_bias);
  const Tensor device_a = on_device(DType::kF32, Shape{heads_}, a);
  const Tensor device_d = on_device(DType::kF32, Shape{heads_}, d);

  // cu_seqlens | context_lens | read_slots | write_slots
  std::vector<int32_t> arrays(4 * seqs_ + 1);
  const Tensor device_arrays = be_->allocate(DType::kI32, Shape{std::ssize(arrays)});
  const int32_t* const at = device_arrays.view().data<int32_t>();
  StepView step;
  step.num_tokens = step.num_seqs = static_cast<int>(seqs_);
  step.cu_seqlens = at;
  step.context_lens = at + seqs_ + 1;
  step.read_slots = at + 2 * seqs_ + 1;
  step.write_slots = at + 3 * seqs_ + 1;

  const std::vector<int> checkpoints{1024, 2048, 4096, 8192};
  size_t next = 0;
  std::vector<std::vector<float>> y(kept.size());
  for (int t = 0; t < checkpoints.back(); ++t) {
    for (int64_t i = 0; i < seqs_; ++i) {
      arrays[i + 1] = static_cast<int32_t>(i + 1);
      arrays[seqs_ + 1 + i] = t;
      arrays[2 * seqs_ + 1 + i] = t == 0 ? kNoSlot : static_cast<int32_t>(i + 1);
      arrays[3 * seqs_ + 1 + i] = static_cast<int32_t>(i + 1);
    }
    be_->upload(device_arrays, arrays.data());
    const int64_t row = int64_t{t % kPeriod} * seqs_;
    SsmInputs in;
    in.x = x.view().rows(row, row + seqs_);
    in.b = b.view().rows(row, row + seqs_);
    in.c = c.view().rows(row, row + seqs_);
    in.dt = dt.view().rows(row, row + seqs_);
    in.dt_bias = device_bias;
    in.a = device_a;
    in.d = device_d;
    in.num_groups = static_cast<int>(groups_);
    in.chunk_size = 128;
    in.dt_max = std::numeric_limits<float>::infinity();
    const bool sampled = t >= checkpoints[next] - kSampledRows;
    for (size_t i = 0; i < kept.size(); ++i) {
      Kept& one = kept[i];
      be_->ssm_scan(one.y, in, one.state, step);
      if (one.nearest) {
        const View used = one.state.view().rows(1, seqs_ + 1);
        for (int64_t at = 0; at < used.numel(); ++at) {
          used.data<float>()[at] = to_float(to_bf16(used.data<float>()[at]));
        }
      }
      if (sampled) {
        const std::vector<float> values = on_host(one.y);
        y[i].insert(y[i].end(), values.begin(), values.end());
      }
    }
    be_->submit();
    if (t + 1 < checkpoints[next]) continue;
    const std::vector<float> want = on_host(kept[0].state.view().rows(1, seqs_ + 1));
    // Heads lie inside of rows: each head of each row counts for itself.
    for (size_t i = 0; i < kept.size(); ++i) {
      kept[i].state_errors.push_back(
          head_error(on_host(kept[i].state.view().rows(1, seqs_ + 1)), want, seqs_ * heads_));
      kept[i].y_errors.push_back(head_error(y[i], y[0], kSampledRows * seqs_ * heads_));
    }
    for (auto& values : y) values.clear();
    ++next;
  }
  ASSERT_TRUE(be_->health().ok()) << be_->health().error().message;

  fmt::print("relative error after tokens   {:>8} {:>8} {:>8} {:>8}\n", 1024, 2048, 4096, 8192);
  for (const Kept& one : kept) {
    if (one.name == "float32") continue;
    fmt::print("{:<21} state   {:8.5f} {:8.5f} {:8.5f} {:8.5f}\n", one.name, one.state_errors[0],
               one.state_errors[1], one.state_errors[2], one.state_errors[3]);
    fmt::print("{:<21} y       {:8.5f} {:8.5f} {:8.5f} {:8.5f}\n", "", one.y_errors[0],
               one.y_errors[1], one.y_errors[2], one.y_errors[3]);
    if (one.nearest) {  // what rounding at random is for
      EXPECT_GT(one.state_errors[3], 2 * kept[1].state_errors[3]);
      continue;
    }
    EXPECT_LE(one.state_errors[3], 2 * one.state_errors[0]) << one.name;
    EXPECT_LE(one.y_errors[3], 2 * one.y_errors[0]) << one.name;
    EXPECT_LE(one.state_errors[3], one.dtype == DType::kBF16 ? 0.05 : 0.00625) << one.name;
  }
}

INSTANTIATE_TEST_SUITE_P(Devices, StateDrift, ::testing::Values("cpu", "cuda"),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace videre::testing
