// What `videre inspect MODEL` tells of a loaded checkpoint, as values, text and JSON.
#pragma once

#include <string>
#include <vector>

#include "base/json.h"
#include "engine/loaded_model.h"

namespace videre {

struct ModelSummary {
  struct Tensors {
    std::string dtype;
    int64_t count = 0, elements = 0, bytes = 0;
  };
  /// Equal modules of several layers, as one line.
  struct Module {
    std::string name;            // "language_model.backbone.layers.*.mixer.in_proj"
    std::vector<int> layers;     // what the star stands for; empty without one
    std::string precision;       // bfloat16, fp8, nvfp4, ...
    std::vector<int64_t> shape;  // of the stored weight
  };

  ModelInfo info;
  Config config;
  int64_t size_bytes = 0;
  std::vector<Tensors> tensors;  // by dtype
  std::vector<Module> modules;
};

ModelSummary summarize(const LoadedModel& loaded);
std::string summary_text(const ModelSummary& summary);
json::object summary_json(const ModelSummary& summary);
json::object plan_json(const MemoryPlan& plan);

/// "0-3,5,7-8" of sorted numbers.
std::string number_ranges(const std::vector<int>& numbers);

}  // namespace videre
