// `videre inspect dump`: runs one request, one list of ids or raw tiles through the same path as
// serving, and writes the named tensors that leave each stage as .npy files, to find the first
// wrong one.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "videre/engine.h"

namespace videre {

/// Exactly one of `request`, `token_ids` and `rgb_path` is set.
struct DumpOptions {
  EngineOptions engine;
  std::optional<Request> request;  // greedy unless it says otherwise
  std::optional<std::vector<int32_t>> token_ids;
  std::string rgb_path;  // .npy: uint8 [tiles, 3, S, S] as frames of one clip, or float32
                         // normalised pixels [tiles, 3, H, W] of any H, W that the patch divides
  std::string observe = ".*";  // regular expression over tensor names
  std::string out_dir;         // made when missing
  int64_t max_tokens = 1;
  bool all_logits = false;  // all rows of the prompt, else its last 16
};

struct DumpedTensor {
  std::string name, path, dtype;
  std::vector<int64_t> shape;
};

/// Names: prompt.ids, pixel_values, vision.patch_embeddings, vision.features,
/// vision.pixel_shuffled, vision.projected, evs.dissimilarity, evs.mask, llm.hidden.{i},
/// llm.logits, out.ids. Blocks. Errors: kInvalidArgument for a wrong expression or input file, else
/// as Engine::load and read.
Result<std::vector<DumpedTensor>> dump_tensors(const DumpOptions& options,
                                               const LoadProgress& progress = {});

}  // namespace videre
