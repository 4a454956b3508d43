// The engine: load a model, submit requests, read what they generate.
#pragma once

#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <variant>

#include "videre/request.h"
#include "videre/result.h"

namespace videre {

/// Every front end's flags; the names are the flags' names.
struct EngineOptions {
  std::string model;  ///< folder, org/name in the hub cache, or "builtin"; "" = builtin
  std::string revision;
  std::string download_dir;
  std::string tokenizer;      ///< folder of tokenizer files; "" = the model's
  std::string chat_template;  ///< file or text; "" = the checkpoint's
  std::string chat_template_content_format = "auto";
  std::string dtype = "auto";  ///< auto, bfloat16, float32 (float, half and float16 are refused)
  std::string load_format =
      "auto";                ///< auto, safetensors; dummy: random weights of the config's sizes
  std::string quantization;  ///< "", modelopt, modelopt_fp4; must agree with the checkpoint
  /// Round what FP8 and NVFP4 linears read as tensor cores do; the CPU otherwise reads it as it is.
  bool quantized_activations = false;
  std::string device = "auto";             ///< auto, cpu, cuda
  std::string generation_config = "auto";  ///< auto, vllm, or a folder
  std::string override_generation_config_json;
  std::optional<int64_t> max_model_len;  ///< unset = the config's limit; -1 = the largest that fits
  std::optional<int> max_num_seqs;
  std::optional<int> max_num_batched_tokens;
  std::optional<int64_t> kv_cache_memory_bytes;
  double gpu_memory_utilization = 0.92;
  int block_size = 0;  ///< 0 = the device's choice
  std::string kv_cache_dtype = "auto";
  std::string mamba_ssm_cache_dtype = "auto";
  bool enable_chunked_prefill = true;
  bool async_scheduling = true;  ///< launch step n before the values of step n-1 are read
  bool pad_steps = false;  ///< pad decode steps to a few sizes, as on a device that records them
  bool enforce_eager = false;    ///< CUDA: never record steps into graphs
  int max_waiting_requests = 0;  ///< 0 = 4 * max_num_seqs
  int max_logprobs = 20;
  uint64_t seed = 0;
  int num_threads = 0;    ///< compute threads; 0 = one a core
  int media_threads = 8;  ///< decoding and preparing
  double mm_processor_cache_gb = 4;
  double encoder_cache_gb = 0;                     ///< 0 = planned from the limits
  std::map<std::string, int> limit_mm_per_prompt;  ///< "image", "video"
  bool language_model_only = false;
  MediaIoOptions media_io;
  ProcessorOptions processor;
  double video_pruning_rate = 0;
  std::string video_prompt_style = "vb";  ///< vb, vx, trtllm: text around frames (docs/model.md)
  std::string allowed_local_media_path;
  std::vector<std::string> allowed_media_domains;
  bool allow_private_media_hosts = false;
};

enum class FinishReason { kNone, kStop, kLength, kAbort, kError };

struct TokenLogprob {
  int32_t token_id = 0;
  std::string text;  ///< the token's own bytes
  float logprob = 0;
  int32_t rank = 0;  ///< 1 is the most likely
  std::vector<TokenLogprob> top;
};

/// A piece of one choice's output, in order. `text` never splits a UTF-8 character; text that may
/// become a stop string is held back. `token_ids` may come before the text they belong to.
struct OutputDelta {
  int index = 0;
  std::string text;
  std::vector<int32_t> token_ids;
  std::vector<TokenLogprob> logprobs;  ///< one a token when asked for
  FinishReason finish_reason =
      FinishReason::kNone;  ///< set exactly once a choice, on its last delta
  std::variant<std::monostate, int32_t, std::string>
      stop_reason;  ///< stop token id or stop string; none for EOS
};

struct Usage {
  int64_t prompt_tokens = 0;  ///< after media expansion
  int64_t completion_tokens = 0;
  int64_t text_tokens = 0, image_tokens = 0,
          video_tokens = 0;  ///< of the prompt; spans with their tags and labels
  int64_t cached_tokens = 0;
  int64_t total_tokens() const { return prompt_tokens + completion_tokens; }
};

/// The exact prompt before the run (`videre inspect tokens`).
struct PromptPlan {
  struct Image {
    int width = 0, height = 0, columns = 0, rows = 0, tiles = 0;
    int64_t tokens = 0;  ///< vision rows, without <img> and </img>
  };
  struct Video {
    std::vector<int64_t> frames_indices;
    std::vector<double> timestamps;
    int64_t tokens = 0, pruned_tokens = 0;
    double fps = 0, duration_s = 0;
  };
  std::string rendered;
  std::vector<int32_t>
      prompt_ids;  ///< kept video tokens all in frame 1: which stay is known after encoding
  std::vector<Image> images;
  std::vector<Video> videos;
  Usage usage;
};

/// One running request, on the reader's side: it detokenizes and watches stop strings in the
/// reader's thread. One thread at a time may read; `cancel` may come from any.
class Generation {
 public:
  virtual ~Generation() = default;
  /// What has arrived; waits up to `timeout` for the first piece (zero: never waits). Empty when
  /// nothing came. An error ends the request. After all choices have finished, `done()` is true.
  virtual Result<std::vector<OutputDelta>> read(std::chrono::milliseconds timeout) = 0;
  virtual bool done() const = 0;
  /// Called, from the engine's threads, whenever `read` may have something; must not block. Set
  /// once, before reading.
  virtual void set_listener(std::function<void()> on_readable) = 0;
  /// Frees the request's memory at the next step; `read` then gives kAbort for unfinished choices.
  virtual void cancel() = 0;
  /// Prompt counts are valid after the first read that returned something.
  virtual Usage usage() const = 0;
  /// The rendered prompt's text; valid as `usage`.
  virtual const std::string& rendered_prompt() const = 0;
  /// The prompt's ids with media expanded, as in `PromptPlan`; valid as `usage`.
  virtual const std::vector<int32_t>& prompt_token_ids() const = 0;
};

struct ModelInfo {
  std::string name;  ///< the string given as model
  std::string path;
  int64_t max_model_len = 0;
  std::string dtype, quantization, device;
  int64_t num_parameters = 0;
  int vocab_size = 0;
};

/// Bytes, for the device the engine runs on.
struct MemoryPlan {
  int64_t weights = 0, vision_weights = 0, kv_cache = 0, state_slots = 0, activations = 0,
          encoder_cache = 0, device_scratch = 0;
  int64_t kv_bytes_per_token = 0, state_bytes_per_slot = 0;
  int64_t num_kv_blocks = 0, num_state_slots = 0, block_size = 0, max_model_len = 0,
          max_num_seqs = 0;
  int64_t max_num_batched_tokens = 0;
  int64_t total() const {
    return weights + vision_weights + kv_cache + state_slots + activations + encoder_cache +
           device_scratch;
  }
};

struct EngineStats {
  int64_t num_running = 0, num_waiting = 0, num_preparing = 0;
  int64_t kv_blocks_used = 0, kv_blocks_total = 0, state_slots_used = 0, state_slots_total = 0;
  int64_t num_preemptions = 0, prompt_tokens = 0, generation_tokens = 0, num_steps = 0;
  int64_t encoder_cache_queries = 0, encoder_cache_hits = 0;
  int64_t finished_stop = 0, finished_length = 0, finished_abort = 0, finished_error = 0;
  int64_t device_memory_change =
      0;  ///< bytes of a GPU's free memory gone since ready, to any program
};

using LoadProgress = std::function<void(const std::string& stage, double fraction)>;

/// Thread-safe: any thread may submit, plan, or read statistics.
class Engine {
 public:
  /// Reads the checkpoint, plans memory and starts the engine's threads. Blocks until ready.
  static Result<std::unique_ptr<Engine>> load(const EngineOptions& options,
                                              const LoadProgress& progress = {});
  virtual ~Engine() = default;

  /// Queues a request and returns at once. Errors that show without fetching media come back here
  /// (kInvalidArgument names the field; kOverloaded when the queue is full); later ones through
  /// `read`.
  virtual Result<std::shared_ptr<Generation>> submit(Request request) = 0;
  /// Renders, tokenizes and reads the media's headers and frames as a run would, without running.
  /// Blocks. `template_only` stops after template and tokenizer, placeholders unexpanded, media not
  /// touched.
  virtual Result<PromptPlan> plan(const Request& request, bool template_only = false) = 0;

  virtual std::vector<int32_t> tokenize(const std::string& text, bool add_special_tokens) const = 0;
  virtual std::string detokenize(const std::vector<int32_t>& token_ids,
                                 bool skip_special_tokens = false) const = 0;
  /// What requests that leave sampling open get: the checkpoint's generation config.
  virtual SamplingParams default_sampling() const = 0;

  virtual const ModelInfo& info() const = 0;
  virtual const MemoryPlan& memory_plan() const = 0;
  virtual EngineStats stats() const = 0;
  virtual bool healthy() const = 0;
  /// Forgets prepared and encoded media that no running request needs. Returns at once; done before
  /// the next step.
  virtual void reset_mm_cache() = 0;
  /// Stops taking requests, waits up to `timeout` for running ones, aborts the rest. Called by the
  /// destructor with zero.
  virtual void shutdown(std::chrono::milliseconds timeout) = 0;
};

/// Reads a request to its end: one entry a choice, with its whole text, tokens and
/// log-probabilities. Blocks; nothing else may read meanwhile.
Result<std::vector<OutputDelta>> read_all(Generation& generation);

/// "0.1.0"
const char* version();

}  // namespace videre
