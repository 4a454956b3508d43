// A checkpoint of a config's sizes with random values, where weights are not at hand: for speed,
// memory plans and tests. Its big tensors are windows into one long range of addresses that shows a
// few hundred megabytes of memory again and again, so the 12B is there in a blink.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "base/output_folder.h"
#include "model/config.h"
#include "weights/checkpoint.h"
#include "weights/safetensors_layout.h"

namespace videre {

/// How a tensor's values are drawn. Activations stay finite and alive through all blocks.
enum class RandomValues {
  kMatrix,       // normal, std 0.02, the family's initializer_range
  kFp8Codes,     // the same through e4m3
  kNvfp4Codes,   // the same through e2m1 in blocks of 16
  kNvfp4Scales,  // and the blocks' e4m3 scales
  kWeightScale,  // the one scale of all kFp8Codes
  kGlobalScale,  // the one of all kNvfp4Codes
  kInputScale,   // as if calibrated
  kUnit,         // KV scales
  kNorm,         // around 1
  kBias,         // around 0
  kConv,         // uniform within +-1 / sqrt(taps)
  kALog,         // log of uniform 1..16, as Mamba-2 begins
  kDtBias,       // softplus of it is 0.001 to 0.1, evenly in the logarithm
};

struct LayoutTensor {
  TensorEntry entry;
  RandomValues values = RandomValues::kMatrix;
};

/// Every tensor of a checkpoint with these sizes, as ModelOpt's formats lay it out when the config
/// declares one. Errors: kInvalidModel names what the config does not say.
Result<std::vector<LayoutTensor>> checkpoint_layout(const Config& config);

/// The same tensors with values, which depend on nothing but the layout. Errors: also
/// kOutOfMemory.
Result<std::unique_ptr<Checkpoint>> random_checkpoint(const Config& config);

/// Bytes of weights, done and in all.
using WriteProgress = std::function<void(int64_t done, int64_t all)>;

/// Writes all tensors, which must be mapped as files' and random ones are, as safetensors files of
/// about `shard_bytes` and, of several, the index.
Status write_checkpoint(const Checkpoint& checkpoint, OutputFolder& folder, int64_t shard_bytes,
                        const WriteProgress& progress = {});

}  // namespace videre
