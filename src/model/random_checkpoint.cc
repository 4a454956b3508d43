#include "model/random_checkpoint.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <mutex>
#include <numbers>
#include <optional>

#include "base/error.h"
#include "base/thread_pool.h"
#include "model/quantize_checkpoint.h"
#include "weights/quantize.h"

namespace videre {
namespace {

constexpr float kStd = 0.02f;
// Largest inputs that a calibration would have seen: what norms and attention give, and squares.
constexpr float kInputAmax = 8, kSquaredInputAmax = 64;
constexpr int kMaxLayers = 4096;      // of the tower; the language model's are bounded as read
constexpr int64_t kAlignBytes = 256;  // of a tensor, as device memory is aligned
constexpr int64_t kPieceElements = 1 << 15;
constexpr int64_t kWriteBytes = 4 << 20;
// Prime numbers of pages: a row of a matrix begins at another place in the pool each time. The
// table of 132,096 rows of 5120 bf16 needs 66,048 pages to have no two equal rows.
constexpr int64_t kPageBytes = 4096;
constexpr int64_t kMatrixPages = 66103, kFp8Pages = 16381;
// Eight bytes of codes go with one of scales, in the pools too.
constexpr int64_t kNvfp4ScalePages = 509, kNvfp4Pages = 8 * kNvfp4ScalePages;

uint64_t mix(uint64_t value) {  // a counter to 64 random bits
  value += 0x9E3779B97F4A7C15u;
  value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9u;
  value = (value ^ value >> 27) * 0x94D049BB133111EBu;
  return value ^ value >> 31;
}

// Of the numbers 0, 1, 2, ...; uniform in (0, 1).
class Uniform {
 public:
  explicit Uniform(uint64_t seed) : next_(seed << 32) {}
  float operator()() { return (static_cast<float>(mix(next_++) >> 41) + 0.5f) * 0x1p-23f; }
  float normal() {
    const float radius = std::sqrt(-2 * std::log((*this)()));
    return radius * std::cos(2 * std::numbers::pi_v<float> * (*this)());
  }

 private:
  uint64_t next_;
};

// Normal numbers of which 16 random bits pick one: a pool fills at the speed of memory. Each comes
// with its negative, so that the mean is zero.
class NormalTable {
 public:
  NormalTable() {
    Uniform uniform(~0u);
    for (size_t i = 0; i < values_.size(); i += 2) {
      values_[i] = to_bf16(kStd * uniform.normal());
      values_[i + 1] = to_bf16(-to_float(values_[i]));
      amax_ = std::max(amax_, std::abs(to_float(values_[i])));
    }
  }
  float amax() const { return amax_; }
  /// Elements [begin, begin + count) of the endless sequence; both multiples of four.
  void fill(BF16* out, int64_t begin, int64_t count) const {
    for (int64_t i = 0; i < count; i += 4) {
      const uint64_t bits = mix(static_cast<uint64_t>(begin + i));
      for (int j = 0; j < 4; ++j) out[i + j] = values_[bits >> 16 * j & 0xffff];
    }
  }

 private:
  std::array<BF16, 1 << 16> values_;
  float amax_ = 0;
};

// `length` bytes of addresses over a pool of at most `pages` pages, read-only once filled.
class RepeatedMemory {
 public:
  static Result<std::unique_ptr<RepeatedMemory>> create(
      int64_t length, int64_t pages, const std::function<void(uint8_t*, int64_t)>& fill) {
    std::unique_ptr<RepeatedMemory> out(new RepeatedMemory);
    length = (length + kPageBytes - 1) / kPageBytes * kPageBytes;
    const int64_t pool_bytes = std::min(length, pages * kPageBytes);
    const int descriptor = ::memfd_create("videre-random-weights", MFD_CLOEXEC);
    if (descriptor < 0) return failed("memfd_create", errno, pool_bytes);
    const Status made = out->map(descriptor, length, pool_bytes, fill);
    ::close(descriptor);
    if (!made.ok()) return made.error();
    return out;
  }
  ~RepeatedMemory() {
    if (begin_) ::munmap(begin_, static_cast<size_t>(length_));
  }
  RepeatedMemory(const RepeatedMemory&) = delete;
  RepeatedMemory& operator=(const RepeatedMemory&) = delete;
  const uint8_t* begin() const { return begin_; }

 private:
  RepeatedMemory() = default;

  static Error failed(const char* call, int error, int64_t bytes) {
    return make_error(ErrorCode::kOutOfMemory, "--load-format",
                      "random weights take {:.2f} GB of memory or addresses, and {} says {}; give "
                      "the process more memory, or load weight files (videre inspect "
                      "init-config --random-weights writes some)",
                      static_cast<double>(bytes) / 1e9, call, std::strerror(error));
  }

  Status map(int descriptor, int64_t length, int64_t pool_bytes,
             const std::function<void(uint8_t*, int64_t)>& fill) {
    void* range = ::mmap(nullptr, static_cast<size_t>(length), PROT_NONE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (range == MAP_FAILED) return failed("mmap", errno, length);
    begin_ = static_cast<uint8_t*>(range);
    length_ = length;
    // Reserved now: memory that is short is an error here, and a dead process later.
    if (const int error = ::posix_fallocate(descriptor, 0, pool_bytes); error != 0) {
      return failed("posix_fallocate", error, pool_bytes);
    }
    void* pool = ::mmap(nullptr, static_cast<size_t>(pool_bytes), PROT_READ | PROT_WRITE,
                        MAP_SHARED, descriptor, 0);
    if (pool == MAP_FAILED) return failed("mmap", errno, pool_bytes);
    fill(static_cast<uint8_t*>(pool), pool_bytes);
    ::munmap(pool, static_cast<size_t>(pool_bytes));
    for (int64_t at = 0; at < length; at += pool_bytes) {
      const int64_t size = std::min(pool_bytes, length - at);
      if (::mmap(begin_ + at, static_cast<size_t>(size), PROT_READ, MAP_SHARED | MAP_FIXED,
                 descriptor, 0) == MAP_FAILED) {
        return failed("mmap", errno, length);
      }
    }
    return {};
  }

  uint8_t* begin_ = nullptr;
  int64_t length_ = 0;
};

int64_t bytes_of(const TensorEntry& entry) {
  return entry.shape.numel() * static_cast<int64_t>(dtype_size(entry.dtype));
}

// Which memory holds a tensor.
enum class Place { kMatrices, kFp8, kNvfp4, kNvfp4Scales, kOwn };
constexpr int kNumPlaces = 5;

Place place_of(RandomValues values) {
  switch (values) {
    case RandomValues::kMatrix:
      return Place::kMatrices;
    case RandomValues::kFp8Codes:
      return Place::kFp8;
    case RandomValues::kNvfp4Codes:
      return Place::kNvfp4;
    case RandomValues::kNvfp4Scales:
      return Place::kNvfp4Scales;
    default:
      return Place::kOwn;
  }
}

int64_t pool_pages(Place place) {
  switch (place) {
    case Place::kMatrices:
      return kMatrixPages;
    case Place::kFp8:
      return kFp8Pages;
    case Place::kNvfp4:
      return kNvfp4Pages;
    case Place::kNvfp4Scales:
      return kNvfp4ScalePages;
    case Place::kOwn:
      break;
  }
  return int64_t{1} << 40;  // all of it: no value is seen twice
}

class Layout {
 public:
  explicit Layout(const Config& config) : config_(config), llm_(config.llm) {}

  Result<std::vector<LayoutTensor>> run() {
    if (config_.quant_algo == "FP8") {
      format_ = QuantFormat::kFp8;
    } else if (config_.quant_algo == "NVFP4" || config_.quant_algo == "W4A16_NVFP4") {
      format_ = QuantFormat::kNvfp4;
    } else if (!config_.quant_algo.empty()) {
      return invalid_model(
          "the config declares quant_algo {}, whose tensors only the files tell; random weights "
          "need none, FP8 or NVFP4",
          config_.quant_algo);
    }
    if (llm_.count(LayerKind::kMlp) != std::ssize(llm_.intermediate_sizes)) {
      return invalid_model(
          "config.json lacks llm_config.intermediate_size; without weights it is "
          "the only place that says how wide the MLP blocks are");
    }
    if (config_.vision.num_prefix_tokens < 1) {
      return invalid_model(
          "config.json says neither vision_config.num_cls_tokens nor vision_config.args.teachers; "
          "without weights these alone tell how many prefix rows the tower has");
    }
    if (config_.vision.num_layers > kMaxLayers) {
      return invalid_model("vision_config.num_hidden_layers is {}; at most {} are made up",
                           config_.vision.num_layers, kMaxLayers);
    }
    language_model();
    tower();
    projector();
    return std::move(out_);
  }

 private:
  void add(std::string name, DType dtype, Shape shape, RandomValues values) {
    out_.push_back({{std::move(name), dtype, shape}, values});
  }
  void bf16(std::string name, Shape shape, RandomValues values) {
    add(std::move(name), DType::kBF16, shape, values);
  }

  void linear(const std::string& module, int64_t rows, int64_t columns) {
    const bool stays = !format_ || !is_mixer_linear(module) ||
                       config_.excluded_from_quantization(module) ||
                       !can_quantize(*format_, columns);
    if (stays) {
      bf16(module + ".weight", {rows, columns}, RandomValues::kMatrix);
      return;
    }
    const bool fp8 = *format_ == QuantFormat::kFp8;
    for (TensorEntry& entry : quantized_entries(module, *format_, rows, columns)) {
      const RandomValues values = entry.name.ends_with(".weight")
                                      ? (fp8 ? RandomValues::kFp8Codes : RandomValues::kNvfp4Codes)
                                  : entry.name.ends_with("_scale_2") ? RandomValues::kGlobalScale
                                  : fp8                              ? RandomValues::kWeightScale
                                                                     : RandomValues::kNvfp4Scales;
      out_.push_back({std::move(entry), values});
    }
    add(module + ".input_scale", DType::kF32, {}, RandomValues::kInputScale);
  }

  void language_model() {
    const std::string backbone = "language_model.backbone.";
    const int64_t hidden = llm_.hidden_size, heads = llm_.mamba_num_heads;
    bf16(backbone + "embeddings.weight", {llm_.vocab_size, hidden}, RandomValues::kMatrix);
    size_t mlp_idx = 0;
    for (int i = 0; i < llm_.num_layers(); ++i) {
      const std::string block = fmt::format("{}layers.{}.", backbone, i), mixer = block + "mixer.";
      bf16(block + "norm.weight", {hidden}, RandomValues::kNorm);
      switch (llm_.layer_kinds[i]) {
        case LayerKind::kMamba2:
          linear(mixer + "in_proj", llm_.in_proj_rows(), hidden);
          bf16(mixer + "conv1d.weight", {llm_.conv_dim(), 1, llm_.conv_kernel},
               RandomValues::kConv);
          if (llm_.use_conv_bias) {
            bf16(mixer + "conv1d.bias", {llm_.conv_dim()}, RandomValues::kBias);
          }
          add(mixer + "A_log", DType::kF32, {heads}, RandomValues::kALog);
          add(mixer + "D", DType::kF32, {heads}, RandomValues::kNorm);
          add(mixer + "dt_bias", DType::kF32, {heads}, RandomValues::kDtBias);
          bf16(mixer + "norm.weight", {llm_.d_inner()}, RandomValues::kNorm);
          linear(mixer + "out_proj", hidden, llm_.d_inner());
          break;
        case LayerKind::kAttention: {
          const int64_t q = int64_t{llm_.num_attention_heads} * llm_.head_dim;
          const int64_t kv = int64_t{llm_.num_key_value_heads} * llm_.head_dim;
          linear(mixer + "q_proj", q, hidden);
          linear(mixer + "k_proj", kv, hidden);
          linear(mixer + "v_proj", kv, hidden);
          linear(mixer + "o_proj", hidden, q);
          if (config_.kv_cache_quant_algo == "FP8") {
            add(mixer + "k_proj.k_scale", DType::kF32, {}, RandomValues::kUnit);
            add(mixer + "v_proj.v_scale", DType::kF32, {}, RandomValues::kUnit);
          }
          break;
        }
        case LayerKind::kMlp: {
          const int64_t width = llm_.intermediate_sizes[mlp_idx++];
          linear(mixer + "up_proj", width, hidden);
          linear(mixer + "down_proj", hidden, width);
          break;
        }
      }
    }
    bf16(backbone + "norm_f.weight", {hidden}, RandomValues::kNorm);
    if (!llm_.tie_word_embeddings) {
      bf16("language_model.lm_head.weight", {llm_.vocab_size, hidden}, RandomValues::kMatrix);
    }
  }

  void norm(const std::string& name, int64_t width) {
    bf16(name + ".weight", {width}, RandomValues::kNorm);
    bf16(name + ".bias", {width}, RandomValues::kBias);
  }
  void biased(const std::string& name, int64_t rows, int64_t columns) {
    linear(name, rows, columns);
    bf16(name + ".bias", {rows}, RandomValues::kBias);
  }

  void tower() {
    const VisionConfig& vision = config_.vision;
    const std::string model = "vision_model.radio_model.model.";
    const std::string generator = model + "patch_generator.";
    const int64_t width = vision.hidden_size, mlp = vision.intermediate_size;
    const int64_t grid = vision.position_grid;
    linear(generator + "embedder", width, 3 * int64_t{vision.patch_size} * vision.patch_size);
    bf16(generator + "pos_embed", {1, grid * grid, width}, RandomValues::kMatrix);
    bf16(generator + "cls_token.token", {vision.num_prefix_tokens, width}, RandomValues::kMatrix);
    for (int i = 0; i < vision.num_layers; ++i) {
      const std::string block = fmt::format("{}blocks.{}.", model, i);
      norm(block + "norm1", width);
      biased(block + "attn.qkv", 3 * width, width);
      biased(block + "attn.proj", width, width);
      norm(block + "norm2", width);
      biased(block + "mlp.fc1", mlp, width);
      biased(block + "mlp.fc2", width, mlp);
    }
    if (vision.model_norm) norm(model + "norm", width);
  }

  void projector() {
    const int64_t shuffled =
        int64_t{config_.vision.hidden_size} * config_.shuffle_factor * config_.shuffle_factor;
    bf16("mlp1.0.weight", {shuffled}, RandomValues::kNorm);
    linear("mlp1.1", config_.projector_hidden_size, shuffled);
    linear("mlp1.3", llm_.hidden_size, config_.projector_hidden_size);
  }

  const Config& config_;
  const LanguageConfig& llm_;
  std::optional<QuantFormat> format_;
  std::vector<LayoutTensor> out_;
};

float draw(RandomValues values, const TensorEntry& entry, float weight_amax, Uniform& uniform) {
  switch (values) {
    case RandomValues::kNorm:
      return 1 + 0.1f * uniform.normal();
    case RandomValues::kBias:
      return kStd * uniform.normal();
    case RandomValues::kConv:
      return (2 * uniform() - 1) / std::sqrt(static_cast<float>(entry.shape[2]));
    case RandomValues::kALog:
      return std::log(1 + 15 * uniform());
    case RandomValues::kDtBias: {
      const float dt = 0.001f * std::pow(100.0f, uniform());
      return dt + std::log(-std::expm1(-dt));  // softplus of it is dt
    }
    case RandomValues::kWeightScale:
      return weight_amax / kE4m3Max;
    case RandomValues::kGlobalScale:
      return weight_amax / (kE2m1Max * kE4m3Max);
    case RandomValues::kInputScale: {
      const bool squared = entry.name.find(".down_proj.") != entry.name.npos;
      return squared ? kSquaredInputAmax : kInputAmax;  // over the format's largest, below
    }
    default:
      return 1;
  }
}

class RandomWeights {
 public:
  RandomWeights(const Config& config, std::vector<LayoutTensor> layout)
      : nvfp4_(config.quant_algo.find("NVFP4") != std::string::npos), layout_(std::move(layout)) {}

  Result<std::unique_ptr<Checkpoint>> run() {
    // Places first: one range of addresses for each kind of memory.
    std::array<int64_t, kNumPlaces> sizes{};
    for (const LayoutTensor& tensor : layout_) {
      const Place place = place_of(tensor.values);
      int64_t& size = sizes[static_cast<int>(place)];
      offsets_.push_back(size);
      const int64_t align = place == Place::kNvfp4 ? 8 * kAlignBytes : kAlignBytes;
      size += (bytes_of(tensor.entry) + align - 1) / align * align;
    }
    const auto memory = std::make_shared<std::array<std::unique_ptr<RepeatedMemory>, kNumPlaces>>();
    for (int i = 0; i < kNumPlaces; ++i) {
      if (sizes[i] == 0) continue;
      const auto place = static_cast<Place>(i);
      VIDERE_ASSIGN_OR_RETURN(
          (*memory)[i],
          RepeatedMemory::create(sizes[i], pool_pages(place), [&](uint8_t* pool, int64_t bytes) {
            if (place == Place::kOwn) {
              fill_own(pool);
            } else {
              fill(place, pool, bytes);
            }
          }));
    }
    std::map<std::string, StoredTensor> tensors;
    for (size_t i = 0; i < layout_.size(); ++i) {
      const TensorEntry& entry = layout_[i].entry;
      const uint8_t* begin = (*memory)[static_cast<int>(place_of(layout_[i].values))]->begin();
      tensors[entry.name] = {ConstView(begin + offsets_[i], entry.dtype, entry.shape),
                             "random weights"};
    }
    return Checkpoint::of_tensors(std::move(tensors), memory);
  }

 private:
  void fill(Place place, uint8_t* pool, int64_t bytes) {
    const QuantizeKernels& kernels = quantize_kernels();
    const float amax = table_.amax();
    const int64_t per_element = place == Place::kMatrices ? 2 : 1;
    // Elements that a byte, or two, of the pool stands for.
    const int64_t elements = place == Place::kNvfp4         ? bytes * 2
                             : place == Place::kNvfp4Scales ? bytes * kNvfp4Block
                                                            : bytes / per_element;
    threads_.parallel_for(elements, kPieceElements, [&](int64_t begin, int64_t end, int) {
      const int64_t count = end - begin;
      if (place == Place::kMatrices) {
        table_.fill(reinterpret_cast<BF16*>(pool) + begin, begin, count);
        return;
      }
      std::vector<BF16> values(count);
      table_.fill(values.data(), begin, count);
      if (place == Place::kFp8) {
        kernels.to_e4m3(pool + begin, values.data(), DType::kBF16, count, amax / kE4m3Max);
        return;
      }
      std::vector<uint8_t> unused(count / 2);
      const bool codes = place == Place::kNvfp4;
      kernels.to_nvfp4(codes ? pool + begin / 2 : unused.data(),
                       codes ? unused.data() : pool + begin / kNvfp4Block, values.data(),
                       DType::kBF16, count, amax / (kE2m1Max * kE4m3Max));
    });
  }

  void fill_own(uint8_t* memory) {
    threads_.parallel_for(std::ssize(layout_), 16, [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i) {
        if (place_of(layout_[i].values) == Place::kOwn) fill_own(i, memory + offsets_[i]);
      }
    });
  }
  void fill_own(int64_t i, uint8_t* out) const {
    const auto& [entry, values] = layout_[i];
    Uniform uniform(static_cast<uint64_t>(i));
    const float full = nvfp4_ ? kE2m1Max * kE4m3Max : kE4m3Max;
    for (int64_t at = 0; at < entry.shape.numel(); ++at) {
      float value = draw(values, entry, table_.amax(), uniform);
      if (values == RandomValues::kInputScale) value /= full;
      if (entry.dtype == DType::kF32) {
        std::memcpy(out + at * 4, &value, 4);
      } else {
        const BF16 rounded = to_bf16(value);
        std::memcpy(out + at * 2, &rounded, 2);
      }
    }
  }

  const bool nvfp4_;
  const std::vector<LayoutTensor> layout_;
  std::vector<int64_t> offsets_;  // within the tensor's kind of memory
  const NormalTable table_;
  ThreadPool threads_;
};

}  // namespace

Result<std::vector<LayoutTensor>> checkpoint_layout(const Config& config) {
  return Layout(config).run();
}

Result<std::unique_ptr<Checkpoint>> random_checkpoint(const Config& config) {
  VIDERE_ASSIGN_OR_RETURN(auto layout, checkpoint_layout(config));
  // The table alone is 128 KiB.
  return std::make_unique<RandomWeights>(config, std::move(layout))->run();
}

Status write_checkpoint(const Checkpoint& checkpoint, OutputFolder& folder, int64_t shard_bytes,
                        const WriteProgress& progress) {
  std::vector<std::vector<TensorEntry>> shards(1);
  int64_t filled = 0, all = 0, done = 0;
  for (const auto& [name, tensor] : checkpoint.tensors()) {
    const auto bytes = static_cast<int64_t>(tensor.view.size_bytes());
    if (filled > 0 && filled + bytes > shard_bytes) {
      shards.emplace_back();
      filled = 0;
    }
    shards.back().push_back({name, tensor.view.dtype(), tensor.view.shape()});
    filled += bytes;
    all += bytes;
  }
  ThreadPool threads;
  std::map<std::string, std::string> shard_of;
  for (size_t i = 0; i < shards.size(); ++i) {
    const std::string file_name =
        shards.size() == 1 ? "model.safetensors"
                           : fmt::format("model-{:05}-of-{:05}.safetensors", i + 1, shards.size());
    const SafetensorsLayout layout(shards[i]);
    VIDERE_ASSIGN_OR_RETURN(OutputFile * file, folder.add_file(file_name));
    const std::string& header = layout.header();
    VIDERE_RETURN_IF_ERROR(
        file->write_at(0, {reinterpret_cast<const uint8_t*>(header.data()), header.size()}));
    for (const TensorEntry& entry : shards[i]) {
      shard_of[entry.name] = file_name;
      const ConstView view = checkpoint.tensors().at(entry.name).view;
      const auto* bytes = view.data<uint8_t>();
      const int64_t at = layout.offset(entry.name);
      std::mutex mutex;
      Status status;
      threads.parallel_for(bytes_of(entry), kWriteBytes, [&](int64_t begin, int64_t end, int) {
        Status written = file->write_at(at + begin, {bytes + begin, bytes + end});
        const std::lock_guard lock(mutex);
        if (!written.ok() && status.ok()) status = std::move(written);
      });
      VIDERE_RETURN_IF_ERROR(status);
      drop_pages(bytes, view.size_bytes());
      done += bytes_of(entry);
      if (progress) progress(done, all);
    }
  }
  if (shards.size() == 1) return {};
  return folder.write_file("model.safetensors.index.json", safetensors_index(shard_of, all));
}

}  // namespace videre
