#include "engine/activation_probe.h"

#include <cmath>
#include <cstring>

#include "weights/quantize.h"

namespace videre {
namespace {

// A view's elements in host memory, row by row where it is strided.
void to_host(Backend& be, ConstView view, std::vector<uint8_t>& out) {
  out.resize(view.size_bytes());
  if (view.contiguous()) return be.download(out.data(), view);
  const size_t row_bytes = out.size() / static_cast<size_t>(view.dim(0));
  for (int64_t i = 0; i < view.dim(0); ++i) be.download(out.data() + i * row_bytes, view[i]);
}

class ActivationSimulator final : public LinearProbe {
 public:
  explicit ActivationSimulator(Backend& backend) : be_(backend) {}

  Operand before(const Operand& x, const Weight& weight) override {
    const bool fp8 = weight.format == WeightFormat::kFp8;
    if (weight.format == WeightFormat::kPlain || (!fp8 && weight.input_scale == 0)) return x;
    const int64_t rows = x.data.dim(0), columns = x.data.dim(1);
    const DType dtype = x.data.dtype();
    to_host(be_, x.data, host_);
    values_.resize(rows * columns);
    if (dtype == DType::kF32) {
      std::memcpy(values_.data(), host_.data(), host_.size());
    } else {
      const auto* from = reinterpret_cast<const BF16*>(host_.data());
      for (size_t i = 0; i < values_.size(); ++i) values_[i] = to_float(from[i]);
    }
    const QuantizeKernels& kernels = quantize_kernels();
    for (int64_t i = 0; i < rows; ++i) {
      float* row = values_.data() + i * columns;
      if (!fp8) {
        kernels.through_nvfp4(row, row, columns, weight.input_scale);
        continue;
      }
      float scale = weight.input_scale;
      if (scale == 0) scale = kernels.amax(row, DType::kF32, columns) / kE4m3Max;
      if (scale > 0) kernels.through_e4m3(row, row, columns, scale);
    }
    if (room_.empty() || room_.view().dtype() != dtype || room_.view().numel() < rows * columns) {
      room_ = be_.allocate(dtype, Shape{rows * columns});
    }
    const View out(room_.view().raw(), dtype, Shape{rows, columns});
    if (dtype == DType::kF32) {
      be_.upload(out, values_.data());
    } else {
      auto* to = reinterpret_cast<BF16*>(host_.data());
      for (size_t i = 0; i < values_.size(); ++i) to[i] = to_bf16(values_[i]);
      be_.upload(out, host_.data());
    }
    Operand rounded = x;
    rounded.data = out;
    return rounded;
  }
  void after(ConstView, const Weight&) override {}

 private:
  Backend& be_;
  std::vector<uint8_t> host_;
  std::vector<float> values_;
  Tensor room_;
};

// The larger, where NaN is larger than all: a calibration that met one must not hide it.
float larger(float a, float b) { return std::isnan(a) || a > b ? a : b; }

}  // namespace

float AmaxProbe::amax_of(ConstView view) {
  to_host(be_, view, host_);
  return quantize_kernels().amax(host_.data(), view.dtype(), view.numel());
}

Operand AmaxProbe::before(const Operand& x, const Weight& weight) {
  if (weight.name.find(".mixer.") == weight.name.npos) return x;
  float& most = amax_.inputs[weight.name];
  most = larger(amax_of(x.data), most);
  return x;
}

void AmaxProbe::after(ConstView out, const Weight& weight) {
  for (const auto& [end, amax] :
       {std::pair(".k_proj", &amax_.keys), std::pair(".v_proj", &amax_.values)}) {
    if (!weight.name.ends_with(end)) continue;
    float& most = (*amax)[weight.name];
    most = larger(amax_of(out), most);
  }
}

std::unique_ptr<LinearProbe> make_activation_simulator(Backend& backend) {
  return std::make_unique<ActivationSimulator>(backend);
}

}  // namespace videre
