// C-RADIO tower, pixel shuffle and projector: tiles in, rows of the language model's width out.
#pragma once

#include <map>
#include <memory>
#include <vector>

#include "backend/backend.h"
#include "model/config.h"
#include "weights/checkpoint.h"

namespace videre {

struct VisionBlockWeights {
  ConstView norm1_weight, norm1_bias, norm2_weight, norm2_bias;  // [E]
  Weight qkv, proj, fc1, fc2;
  ConstView ls1, ls2;  // LayerScale [E]; empty when absent or all ones
};

/// Scratch of one slice of tiles, for the largest.
struct VisionWorkspace {
  Tensor scratch;  // what the views below share, unless it was given
  int64_t max_tiles = 0;
  int rows = 0, cols = 0;          // patch grid
  View pixels;                     // [tiles, 3, H, W]
  View patches, embedded;          // [tiles, rows*cols, 3*p*p], [tiles, rows*cols, E]
  View residual, normed, delta;    // [tiles, prefix + rows*cols, E]
  View qkv;                        // [tiles, prefix + rows*cols, 3E]
  View hidden, activated;          // [tiles, prefix + rows*cols, F]
  View shuffled, shuffled_normed;  // [tiles, tokens, f*f*E]
  View up, up_activated;           // [tiles, tokens, projector_hidden]
  ConstView positions;             // [rows*cols, E] of T, for this grid
};

class VisionEncoder {
 public:
  static Result<VisionEncoder> load(const Checkpoint& checkpoint, const Config& config,
                                    Backend& backend, DType dtype);

  /// For tiles of height x width pixels (multiples of the patch); normally force_image_size
  /// squared. In `scratch` of at least scratch_bytes, else in memory of its own.
  VisionWorkspace make_workspace(Backend& be, int64_t max_tiles, int height, int width,
                                 View scratch = {});

  /// Tower over normalised pixels [n, 3, H, W]: leaves `ws.residual` [n, prefix + patches, E] and
  /// returns the patch rows of it (strided view [n, patches, E]).
  View encode(Backend& be, ConstView pixels, VisionWorkspace& ws) const;
  /// features [n, patches, E] -> out [n * tokens, hidden]; rows and cols must divide by the shuffle
  /// factor.
  void project(Backend& be, ConstView features, VisionWorkspace& ws, View out) const;
  /// The whole way for uint8 tiles [n, 3, S, S].
  void encode_tiles(Backend& be, ConstView rgb, VisionWorkspace& ws, View out) const;

  int64_t scratch_bytes(int64_t num_tiles) const;
  /// What `make_workspace` allocates, scratch included.
  int64_t workspace_bytes(int64_t num_tiles) const;
  int num_prefix() const { return static_cast<int>(prefix_.dim(0)); }

 private:
  ConstView positions_for(Backend& be, int rows, int cols);
  /// Lays the views of `ws` out from `start` on and returns how many elements they take.
  int64_t place(VisionWorkspace& ws, int height, int width, void* start) const;

  Config config_;
  DType dtype_ = DType::kF32;
  Weight patch_embedder_;     // [E, 3*p*p]
  ConstView position_table_;  // [G*G, E]
  ConstView prefix_;          // [R, E]
  std::vector<VisionBlockWeights> blocks_;
  ConstView final_norm_weight_, final_norm_bias_;  // only with model_norm
  ConstView projector_norm_;                       // [f*f*E]
  Weight projector_up_, projector_down_;
  std::map<std::pair<int, int>, std::shared_ptr<Tensor>> positions_;  // resized tables by grid
};

}  // namespace videre
