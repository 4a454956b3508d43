// What stands around the language model's linears when quantisation is measured: the largest
// activations that calibration needs, and a simulation of 8- and 4-bit activations on devices that
// read them as they are.
#pragma once

#include <memory>

#include "backend/backend.h"
#include "model/quantize_checkpoint.h"

namespace videre {

/// Keeps the largest magnitudes of the inputs of mixers' linears, and of keys and values.
class AmaxProbe final : public LinearProbe {
 public:
  explicit AmaxProbe(Backend& backend) : be_(backend) {}
  Operand before(const Operand& x, const Weight& weight) override;
  void after(ConstView out, const Weight& weight) override;
  const ActivationAmax& amax() const { return amax_; }

 private:
  float amax_of(ConstView view);
  Backend& be_;
  ActivationAmax amax_;
  std::vector<uint8_t> host_;
};

/// Rounds what quantised linears read to FP8 or NVFP4 and back: by the file's input_scale, or, for
/// FP8 without one, by each row's own largest magnitude. NVFP4 without one is left as it is.
std::unique_ptr<LinearProbe> make_activation_simulator(Backend& backend);

}  // namespace videre
