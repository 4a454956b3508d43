#include "model/quantize_checkpoint.h"

#include <algorithm>
#include <cmath>
#include <mutex>
#include <set>

#include "base/error.h"
#include "base/json.h"
#include "base/output_folder.h"
#include "base/thread_pool.h"
#include "model/config.h"
#include "weights/checkpoint.h"
#include "weights/quantize.h"
#include "weights/safetensors_layout.h"

namespace videre {
namespace {

constexpr size_t kMaxTextBytes = 256u << 20;
// Of the source, a thread at a time: large enough for the disk, small enough for the cache.
constexpr int64_t kPieceBytes = 1 << 20;
constexpr const char* kIndexName = "model.safetensors.index.json";
// Formats of other tools, which would hold the weights once more.
constexpr const char* kOtherWeights[] = {".safetensors", ".bin", ".pt", ".pth", ".gguf", ".onnx"};

bool is_float(DType dtype) {
  return dtype == DType::kBF16 || dtype == DType::kF16 || dtype == DType::kF32;
}

// Never below 1: what is small needs no help, and rare outliers find room.
float kv_scale(const std::map<std::string, float>& amax, const std::string& module) {
  const auto seen = amax.find(module);
  return seen == amax.end() ? 1.0f : std::max(1.0f, seen->second / kE4m3Max);
}

const char* algorithm(QuantFormat format) { return format == QuantFormat::kFp8 ? "FP8" : "NVFP4"; }

// Members of a JSON list, a line each.
std::string json_lines(const std::vector<std::string>& texts) {
  std::string lines;
  for (const std::string& text : texts) {
    lines += (lines.empty() ? "\n   " : ",\n   ") + to_json(json::string(text));
  }
  return lines;
}

// What one shard becomes.
struct Shard {
  std::string name;
  std::vector<TensorEntry> entries;
  std::set<std::string> quantized;  // names of weights; all other tensors are copied
  std::vector<std::pair<std::string, float>> scalars;  // scales that calibration gave
};

class Quantizer {
 public:
  Quantizer(const ModelFiles& source, const QuantizeOptions& options,
            const std::function<void(int64_t, int64_t)>& progress)
      : source_(source), options_(options), progress_(progress), pool_(options.num_threads) {}

  Result<QuantizeReport> run(const std::string& destination);

 private:
  bool fp8() const { return options_.format == QuantFormat::kFp8; }
  /// What the largest magnitude becomes before a tensor's scale.
  float full() const { return fp8() ? kE4m3Max : kE2m1Max * kE4m3Max; }
  Status plan();
  Status plan_shard(const std::string& name);
  Status check_patterns();
  Status write_shard(const Shard& shard, OutputFolder& folder);
  Status write_weight(const std::string& name, ConstView w, const SafetensorsLayout& layout,
                      OutputFile& file);
  Status copy_tensor(const std::string& name, ConstView view, const SafetensorsLayout& layout,
                     OutputFile& file);
  Status write_scalar(const std::string& name, float value, const SafetensorsLayout& layout,
                      OutputFile& file);
  Status for_pieces(int64_t rows, int64_t row_bytes,
                    const std::function<Status(int64_t begin, int64_t end)>& body);
  Status write_texts(OutputFolder& folder);
  Status advance(int64_t bytes) {
    done_ += bytes;
    if (progress_) progress_(done_, report_.source_bytes);
    return check_cancelled();
  }
  Status check_cancelled() const {
    if (options_.cancel && *options_.cancel) {
      return make_error(ErrorCode::kCancelled, "", "stopped; nothing was written");
    }
    return {};
  }

  const ModelFiles& source_;
  const QuantizeOptions& options_;
  const std::function<void(int64_t, int64_t)>& progress_;
  ThreadPool pool_;
  Config config_;                   // its quant_exclude is what will be declared
  std::vector<std::string> unfit_;  // modules that the format cannot hold
  std::vector<std::string> linears_;
  std::vector<Shard> shards_;
  std::map<std::string, std::string> index_;  // new tensor -> shard
  int64_t data_bytes_ = 0, file_bytes_ = 0, done_ = 0;
  QuantizeReport report_;
};

Status Quantizer::plan() {
  VIDERE_ASSIGN_OR_RETURN(config_, load_config(source_));
  if (!config_.quant_algo.empty()) {
    return invalid_argument("SRC",
                            "{} is quantised already ({}); quantising needs the checkpoint in "
                            "bfloat16",
                            source_.path(), config_.quant_algo);
  }
  config_.quant_exclude = always_excluded_modules();
  config_.quant_exclude.insert(config_.quant_exclude.end(), options_.exclude.begin(),
                               options_.exclude.end());
  // Opens every shard once, and with that checks all of them against the index.
  VIDERE_ASSIGN_OR_RETURN(const auto checkpoint, Checkpoint::open(source_));
  std::set<std::string> names;
  for (const auto& [name, tensor] : checkpoint->tensors()) {
    names.insert(tensor.file.substr(tensor.file.rfind('/') + 1));
  }
  for (const std::string& name : names) VIDERE_RETURN_IF_ERROR(plan_shard(name));
  VIDERE_RETURN_IF_ERROR(check_patterns());
  config_.quant_exclude.insert(config_.quant_exclude.end(), unfit_.begin(), unfit_.end());
  if (report_.num_modules == 0) {
    return invalid_argument("SRC", "{} has no linear left to quantise", source_.path());
  }
  return {};
}

Status Quantizer::plan_shard(const std::string& name) {
  Shard shard;
  shard.name = name;
  VIDERE_ASSIGN_OR_RETURN(const auto file, source_.map(name));
  VIDERE_ASSIGN_OR_RETURN(const auto tensors, read_safetensors(*file));
  for (const auto& [tensor_name, stored] : tensors) {
    const ConstView& view = stored.view;
    report_.source_bytes += static_cast<int64_t>(view.size_bytes());
    const auto add = [&](const std::string& entry, DType dtype, Shape shape) {
      shard.entries.push_back({entry, dtype, shape});
    };
    std::string module;
    if (tensor_name.ends_with(".weight")) {
      module = Checkpoint::canonical_name(tensor_name.substr(0, tensor_name.size() - 7));
    }
    if (!is_mixer_linear(module) || view.rank() != 2) {
      add(tensor_name, view.dtype(), view.shape());
      continue;
    }
    linears_.push_back(module);
    if (!is_float(view.dtype())) {
      return invalid_argument("SRC",
                              "tensor {} of {} is {}: it is quantised already; quantising needs "
                              "the checkpoint in bfloat16",
                              tensor_name, source_.path(), dtype_name(view.dtype()));
    }
    const std::string stem = tensor_name.substr(0, tensor_name.size() - 7);
    const auto add_scalar = [&](const std::string& entry, float value) {
      add(entry, DType::kF32, {});
      shard.scalars.emplace_back(entry, value);
    };
    if (options_.kv_cache_fp8 && module.ends_with(".k_proj")) {
      add_scalar(stem + ".k_scale", kv_scale(options_.amax.keys, module));
    } else if (options_.kv_cache_fp8 && module.ends_with(".v_proj")) {
      add_scalar(stem + ".v_scale", kv_scale(options_.amax.values, module));
    }
    bool kept = config_.excluded_from_quantization(module);
    if (!kept && !can_quantize(options_.format, view.dim(1))) {
      unfit_.push_back(module);
      kept = true;
    }
    if (kept) {
      ++report_.num_kept_modules;
      add(tensor_name, view.dtype(), view.shape());
      continue;
    }
    ++report_.num_modules;
    shard.quantized.insert(tensor_name);
    for (TensorEntry& entry : quantized_entries(stem, options_.format, view.dim(0), view.dim(1))) {
      shard.entries.push_back(std::move(entry));
    }
    const auto input = options_.amax.inputs.find(module);
    if (input != options_.amax.inputs.end()) {
      ++report_.num_static_inputs;
      add_scalar(stem + ".input_scale", input->second > 0 ? input->second / full() : 1.0f);
    }
  }
  const SafetensorsLayout layout(shard.entries);
  for (const TensorEntry& entry : shard.entries) index_[entry.name] = name;
  data_bytes_ += layout.data_bytes();
  file_bytes_ += layout.file_bytes();
  shards_.push_back(std::move(shard));
  return {};
}

// A pattern that names nothing is a slip of typing, and would cost accuracy silently.
Status Quantizer::check_patterns() {
  for (const std::string& pattern : options_.exclude) {
    Config one;
    one.quant_exclude = {pattern};
    const bool used = std::any_of(linears_.begin(), linears_.end(), [&](const auto& module) {
      return one.excluded_from_quantization(module);
    });
    if (!used) {
      return invalid_argument("--exclude",
                              "--exclude {} matches no linear; modules are called like {} (globs "
                              "with * work)",
                              pattern, linears_.empty() ? "..." : linears_.front());
    }
  }
  return {};
}

Status Quantizer::for_pieces(int64_t rows, int64_t row_bytes,
                             const std::function<Status(int64_t, int64_t)>& body) {
  std::mutex mutex;
  Status status;
  const int64_t grain = std::max<int64_t>(1, kPieceBytes / std::max<int64_t>(1, row_bytes));
  pool_.parallel_for(rows, grain, [&](int64_t begin, int64_t end, int) {
    Status done = check_cancelled();
    if (done.ok()) done = body(begin, end);
    if (done.ok()) return;
    const std::lock_guard lock(mutex);
    if (status.ok()) status = done;
  });
  return status;
}

Status Quantizer::write_scalar(const std::string& name, float value,
                               const SafetensorsLayout& layout, OutputFile& file) {
  return file.write_at(layout.offset(name), {reinterpret_cast<const uint8_t*>(&value), 4});
}

Status Quantizer::write_weight(const std::string& name, ConstView w,
                               const SafetensorsLayout& layout, OutputFile& file) {
  const QuantizeKernels& kernels = quantize_kernels();
  const DType dtype = w.dtype();
  const int64_t rows = w.dim(0), columns = w.dim(1);
  const int64_t row_bytes = columns * static_cast<int64_t>(dtype_size(dtype));
  const auto row = [&](int64_t i) { return w.data<uint8_t>() + i * row_bytes; };
  const std::string stem = name.substr(0, name.size() - 7);

  std::mutex mutex;
  float most = 0;
  VIDERE_RETURN_IF_ERROR(for_pieces(rows, row_bytes, [&](int64_t begin, int64_t end) -> Status {
    const float amax = kernels.amax(row(begin), dtype, (end - begin) * columns);
    if (!std::isfinite(amax)) {
      return invalid_model("tensor {} holds {} in rows {} to {}; it cannot be quantised", name,
                           amax, begin, end - 1);
    }
    const std::lock_guard lock(mutex);
    most = std::max(most, amax);
    return {};
  }));
  const float scale = most > 0 ? most / full() : 1.0f;
  const int64_t at = layout.offset(name);
  if (fp8()) {
    VIDERE_RETURN_IF_ERROR(for_pieces(rows, row_bytes, [&](int64_t begin, int64_t end) -> Status {
      std::vector<uint8_t> codes((end - begin) * columns);
      kernels.to_e4m3(codes.data(), row(begin), dtype, std::ssize(codes), scale);
      return file.write_at(at + begin * columns, codes);
    }));
    return write_scalar(stem + ".weight_scale", scale, layout, file);
  }
  const int64_t scales_at = layout.offset(stem + ".weight_scale"), blocks = columns / kNvfp4Block;
  VIDERE_RETURN_IF_ERROR(for_pieces(rows, row_bytes, [&](int64_t begin, int64_t end) -> Status {
    std::vector<uint8_t> codes((end - begin) * columns / 2), scales((end - begin) * blocks);
    kernels.to_nvfp4(codes.data(), scales.data(), row(begin), dtype, (end - begin) * columns,
                     scale);
    VIDERE_RETURN_IF_ERROR(file.write_at(at + begin * columns / 2, codes));
    return file.write_at(scales_at + begin * blocks, scales);
  }));
  return write_scalar(stem + ".weight_scale_2", scale, layout, file);
}

Status Quantizer::copy_tensor(const std::string& name, ConstView view,
                              const SafetensorsLayout& layout, OutputFile& file) {
  const int64_t at = layout.offset(name);
  const auto* bytes = view.data<uint8_t>();
  return for_pieces(static_cast<int64_t>(view.size_bytes()), 1, [&](int64_t begin, int64_t end) {
    return file.write_at(at + begin, {bytes + begin, static_cast<size_t>(end - begin)});
  });
}

Status Quantizer::write_shard(const Shard& shard, OutputFolder& folder) {
  const SafetensorsLayout layout(shard.entries);
  VIDERE_ASSIGN_OR_RETURN(OutputFile * file, folder.add_file(shard.name));
  const std::string& header = layout.header();
  VIDERE_RETURN_IF_ERROR(
      file->write_at(0, {reinterpret_cast<const uint8_t*>(header.data()), header.size()}));
  for (const auto& [name, value] : shard.scalars) {
    VIDERE_RETURN_IF_ERROR(write_scalar(name, value, layout, *file));
  }
  VIDERE_ASSIGN_OR_RETURN(const auto mapped, source_.map(shard.name));
  VIDERE_ASSIGN_OR_RETURN(const auto tensors, read_safetensors(*mapped));
  for (const auto& [name, stored] : tensors) {
    const ConstView& view = stored.view;
    VIDERE_RETURN_IF_ERROR(shard.quantized.count(name) != 0
                               ? write_weight(name, view, layout, *file)
                               : copy_tensor(name, view, layout, *file));
    if (!source_.embedded()) drop_pages(view.raw(), view.size_bytes());
    VIDERE_RETURN_IF_ERROR(advance(static_cast<int64_t>(view.size_bytes())));
  }
  return {};
}

Status Quantizer::write_texts(OutputFolder& folder) {
  // The config's text as it is: what Python wrote (Infinity) stays.
  VIDERE_ASSIGN_OR_RETURN(const std::string text, source_.text("config.json", kMaxTextBytes));
  const QuantDeclaration declaration{options_.format, config_.quant_exclude, options_.kv_cache_fp8,
                                     report_.num_static_inputs == report_.num_modules};
  VIDERE_RETURN_IF_ERROR(folder.write_file("config.json", with_quantization(text, declaration)));
  VIDERE_RETURN_IF_ERROR(folder.write_file("hf_quant_config.json", hf_quant_config(declaration)));
  if (source_.contains(kIndexName)) {
    VIDERE_RETURN_IF_ERROR(folder.write_file(kIndexName, safetensors_index(index_, data_bytes_)));
  }
  // The companions as they are.
  VIDERE_ASSIGN_OR_RETURN(const auto names, source_.names());
  for (const std::string& name : names) {
    const bool weights = std::any_of(std::begin(kOtherWeights), std::end(kOtherWeights),
                                     [&](const char* end) { return name.ends_with(end); });
    if (weights || name.starts_with('.') || name == "config.json" || name == kIndexName ||
        name == "hf_quant_config.json") {
      continue;
    }
    VIDERE_ASSIGN_OR_RETURN(const auto file, source_.map(name));
    const auto bytes = file->bytes();
    VIDERE_RETURN_IF_ERROR(
        folder.write_file(name, {reinterpret_cast<const char*>(bytes.data()), bytes.size()}));
  }
  return {};
}

Result<QuantizeReport> Quantizer::run(const std::string& destination) {
  VIDERE_RETURN_IF_ERROR(plan());
  VIDERE_ASSIGN_OR_RETURN(const auto folder, OutputFolder::create(destination, file_bytes_));
  for (const Shard& shard : shards_) VIDERE_RETURN_IF_ERROR(write_shard(shard, *folder));
  VIDERE_RETURN_IF_ERROR(write_texts(*folder));
  VIDERE_RETURN_IF_ERROR(check_cancelled());
  VIDERE_RETURN_IF_ERROR(folder->commit());
  report_.written_bytes = data_bytes_;
  return report_;
}

}  // namespace

bool is_mixer_linear(std::string_view module) {
  constexpr std::string_view kNames[] = {".mixer.in_proj", ".mixer.out_proj", ".mixer.q_proj",
                                         ".mixer.k_proj",  ".mixer.v_proj",   ".mixer.o_proj",
                                         ".mixer.up_proj", ".mixer.down_proj"};
  return module.starts_with("language_model.") &&
         std::any_of(std::begin(kNames), std::end(kNames),
                     [&](std::string_view name) { return module.ends_with(name); });
}

bool can_quantize(QuantFormat format, int64_t columns) {
  return format == QuantFormat::kFp8 || columns % kNvfp4Block == 0;
}

std::vector<TensorEntry> quantized_entries(const std::string& stem, QuantFormat format,
                                           int64_t rows, int64_t columns) {
  if (format == QuantFormat::kFp8) {
    return {{stem + ".weight", DType::kF8E4M3, {rows, columns}},
            {stem + ".weight_scale", DType::kF32, {}}};
  }
  return {{stem + ".weight", DType::kU8, {rows, columns / 2}},
          {stem + ".weight_scale", DType::kF8E4M3, {rows, columns / kNvfp4Block}},
          {stem + ".weight_scale_2", DType::kF32, {}}};
}

std::vector<std::string> always_excluded_modules() {
  return {"lm_head", "vision_model*", "mlp1*", "*.mixer.conv1d"};
}

std::string with_quantization(const std::string& config_json, const QuantDeclaration& declaration) {
  const bool fp8 = declaration.format == QuantFormat::kFp8;
  const auto group = [&](bool dynamic) {
    return fmt::format(R"({{"dynamic": {}, "num_bits": {}, "type": "float"{}}})", dynamic,
                       fp8 ? 8 : 4, fp8 ? "" : ", \"group_size\": 16");
  };
  const std::string member = fmt::format(
      R"("quantization_config": {{
  "quant_method": "modelopt",
  "quant_algo": "{}",
  "config_groups": {{
   "group_0": {{
    "targets": ["Linear"],
    "input_activations": {},
    "weights": {}
   }}
  }},
  "ignore": [{}
  ],{}
  "producer": {}
 }})",
      algorithm(declaration.format), group(!declaration.static_inputs), group(false),
      json_lines(declaration.exclude),
      declaration.kv_cache_fp8 ? "\n  \"kv_cache_scheme\": {\"dynamic\": false, \"num_bits\": 8, "
                                 "\"type\": \"float\"},"
                               : "",
      R"({
   "name": "modelopt",
   "version": "0.37.0",
   "written_by": "videre )" VIDERE_VERSION R"("
  })");
  std::string text = config_json;
  const size_t brace = text.find_last_of('}');
  const size_t last = brace == text.npos ? brace : text.find_last_not_of(" \t\r\n", brace - 1);
  VIDERE_CHECK(last != text.npos && text[last] != '{');  // an object with members, says the header
  return text.replace(last + 1, brace - last - 1, ",\n " + member + "\n");
}

std::string hf_quant_config(const QuantDeclaration& declaration) {
  return fmt::format(R"({{
 "producer": {{
  "name": "modelopt",
  "version": "0.37.0",
  "written_by": "videre {}"
 }},
 "quantization": {{
  "quant_algo": "{}",
  "kv_cache_quant_algo": {},{}
  "exclude_modules": [{}
  ]
 }}
}}
)",
                     VIDERE_VERSION, algorithm(declaration.format),
                     declaration.kv_cache_fp8 ? "\"FP8\"" : "null",
                     declaration.format == QuantFormat::kFp8 ? "" : "\n  \"group_size\": 16,",
                     json_lines(declaration.exclude));
}

Result<QuantizeReport> quantize_checkpoint(const ModelFiles& source, const std::string& destination,
                                           const QuantizeOptions& options,
                                           const std::function<void(int64_t, int64_t)>& progress) {
  return Quantizer(source, options, progress).run(destination);
}

}  // namespace videre
