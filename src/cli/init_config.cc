// `videre inspect init-config`: a folder with the real model's sizes, for measuring speed without
// its files. Values are those of docs/model.md; tokenizer and weights are made up.
#include <CLI/App.hpp>
#include <CLI/Config.hpp>
#include <CLI/Formatter.hpp>
#include <chrono>

#include "base/error.h"
#include "base/output_folder.h"
#include "cli/commands.h"
#include "cli/flags.h"
#include "cli/made_up_tokenizer.h"
#include "cli/progress.h"
#include "model/quantize_checkpoint.h"
#include "model/random_checkpoint.h"

namespace videre {
namespace {

constexpr const char* kReal = "nemotron-nano-12b-v2-vl";
constexpr const char* kTiny = "tiny";
constexpr int64_t kShardBytes = 5'000'000'000;

// The same file that the built-in model has; from models/, by CMake.
constexpr const char* kChatTemplate =
#include "chat_template.inc"
    ;

constexpr const char* kConfig = R"({
 "architectures": ["NemotronH_Nano_VL_V2"],
 "model_type": "NemotronH_Nano_VL_V2",
 "torch_dtype": "bfloat16",
 "force_image_size": 512,
 "patch_size": 16,
 "downsample_ratio": 0.5,
 "ps_version": "v2",
 "image_tag_type": "internvl",
 "use_thumbnail": true,
 "vit_hidden_size": 1280,
 "projector_hidden_size": 20480,
 "norm_mean": [0.48145466, 0.4578275, 0.40821073],
 "norm_std": [0.26862954, 0.26130258, 0.27577711],
 "img_context_token": "<image>",
 "img_context_token_id": 131072,
 "img_start_token": "<img>",
 "img_end_token": "</img>",
 "video_context_token": "<video>",
 "video_context_token_id": 131081,
 "video_pruning_rate": 0.7,
 "max_sequence_length": 131072,
 "vision_config": {
  "version": "radio_v2.5-h",
  "patch_size": 16,
  "max_resolution": 2048,
  "preferred_resolution": [768, 768],
  "adaptor_names": null,
  "adaptor_configs": {},
  "feature_normalizer_config": null,
  "inter_feature_normalizer_config": null,
  "vitdet_window_size": null,
  "torch_dtype": "bfloat16",
  "args": {
   "model": "vit_huge_patch16_224",
   "cpe_max_size": 2048,
   "register_multiple": 16,
   "cls_token_per_teacher": true,
   "teachers": [
    {"name": "clip", "use_summary": true},
    {"name": "siglip", "use_summary": true},
    {"name": "dino_v2", "use_summary": true},
    {"name": "sam", "use_summary": false}
   ],
   "model_norm": false
  }
 },
 "llm_config": {
  "architectures": ["NemotronHForCausalLM"],
  "model_type": "nemotron_h",
  "torch_dtype": "bfloat16",
  "vocab_size": 132096,
  "hybrid_override_pattern": "M-M-M-M*-M-M-M-M*-M-M-M-M*-M-M-M-M*-M-M-M-M*-M-M-M-M*-M-M-M-M-",
  "num_hidden_layers": 62,
  "hidden_size": 5120,
  "intermediate_size": 20480,
  "num_attention_heads": 40,
  "num_key_value_heads": 8,
  "head_dim": 128,
  "mamba_num_heads": 128,
  "mamba_head_dim": 80,
  "ssm_state_size": 128,
  "n_groups": 8,
  "conv_kernel": 4,
  "chunk_size": 128,
  "expand": 2,
  "time_step_limit": [0.0, Infinity],
  "time_step_min": 0.001,
  "time_step_max": 0.1,
  "time_step_floor": 0.0001,
  "mamba_hidden_act": "silu",
  "mlp_hidden_act": "relu2",
  "use_conv_bias": true,
  "use_bias": false,
  "mlp_bias": false,
  "attention_bias": false,
  "mamba_proj_bias": false,
  "layer_norm_epsilon": 1e-05,
  "residual_in_fp32": false,
  "rescale_prenorm_residual": true,
  "initializer_range": 0.02,
  "num_logits_to_keep": 1,
  "use_cache": true,
  "use_mamba_kernels": true,
  "tie_word_embeddings": false,
  "max_position_embeddings": 131072,
  "sliding_window": null,
  "bos_token_id": 1,
  "eos_token_id": 12,
  "pad_token_id": 0
 }
}
)";

constexpr const char* kPreprocessor = R"({
 "image_processor_type": "NemotronNanoVLV2ImageProcessor",
 "processor_class": "NemotronNanoVLV2Processor",
 "image_size": 512,
 "max_num_tiles": 12,
 "use_thumbnail": true,
 "norm_mean": [0.48145466, 0.4578275, 0.40821073],
 "norm_std": [0.26862954, 0.26130258, 0.27577711],
 "do_rescale": true,
 "patch_size": 16,
 "downsample_ratio": 0.5
}
)";

// The tiny variant: few blocks, few heads, but heads, states and groups of the real sizes, so that
// the same kernels run; and the same vocabulary.
constexpr std::pair<std::string_view, std::string_view> kTinyConfig[] = {
    {"\"force_image_size\": 512", "\"force_image_size\": 128"},
    {"\"vit_hidden_size\": 1280", "\"vit_hidden_size\": 160"},
    {"\"projector_hidden_size\": 20480", "\"projector_hidden_size\": 512"},
    {"\"max_resolution\": 2048", "\"max_resolution\": 512"},
    {"\"adaptor_names\": null",
     "\"hidden_size\": 160,\n  \"num_hidden_layers\": 2,\n  \"num_attention_heads\": 2,\n"
     "  \"intermediate_size\": 320,\n  \"adaptor_names\": null"},
    {"\"cpe_max_size\": 2048", "\"cpe_max_size\": 512"},
    {"M-M-M-M*-M-M-M-M*-M-M-M-M*-M-M-M-M*-M-M-M-M*-M-M-M-M*-M-M-M-M-", "M-M*-M-"},
    {"\"num_hidden_layers\": 62", "\"num_hidden_layers\": 7"},
    {"\"hidden_size\": 5120", "\"hidden_size\": 128"},
    {"\"intermediate_size\": 20480", "\"intermediate_size\": 512"},
    {"\"num_attention_heads\": 40", "\"num_attention_heads\": 5"},
    {"\"num_key_value_heads\": 8", "\"num_key_value_heads\": 1"},
    {"\"mamba_num_heads\": 128", "\"mamba_num_heads\": 16"},
    {"\"n_groups\": 8", "\"n_groups\": 1"},
};

std::string sized(std::string text, bool tiny) {
  if (!tiny) return text;
  for (const auto& [real, small] : kTinyConfig) {
    const size_t at = text.find(real);
    VIDERE_CHECK(at != text.npos) << real;
    text.replace(at, real.size(), small);
  }
  return text;
}

struct InitFlags {
  std::string name, destination, quantization;
  bool random_weights = false;
};

Status init_config(const InitFlags& flags) {
  const auto start = std::chrono::steady_clock::now();
  const bool tiny = flags.name == kTiny;
  std::vector<std::pair<const char*, std::string>> texts;
  std::string config_text = sized(kConfig, tiny), hf_quant;
  if (!flags.quantization.empty()) {
    const QuantDeclaration declaration{
        flags.quantization == "modelopt" ? QuantFormat::kFp8 : QuantFormat::kNvfp4,
        always_excluded_modules(), false, true};
    config_text = with_quantization(config_text, declaration);
    hf_quant = hf_quant_config(declaration);
    texts.emplace_back("hf_quant_config.json", hf_quant);
  }
  std::string preprocessor = kPreprocessor;
  if (tiny) preprocessor.replace(preprocessor.find("512"), 3, "128");
  VIDERE_ASSIGN_OR_RETURN(const Config config,
                          parse_config(config_text, "", preprocessor, hf_quant));
  texts.emplace_back("config.json", config_text);
  texts.emplace_back("preprocessor_config.json", preprocessor);
  texts.emplace_back("generation_config.json",
                     "{\n \"bos_token_id\": 1,\n \"eos_token_id\": 12,\n \"pad_token_id\": 0\n}\n");
  texts.emplace_back("tokenizer.json", made_up_tokenizer_json());
  texts.emplace_back("tokenizer_config.json", made_up_tokenizer_config_json());
  texts.emplace_back("chat_template.jinja", kChatTemplate);
  texts.emplace_back(
      "README.md",
      fmt::format("Made by `videre inspect init-config {}` {}, for measuring speed and memory:\n"
                  "{}; the tokenizer's words{} made up.\n",
                  flags.name, VIDERE_VERSION,
                  tiny ? "few blocks of the real kinds" : "the sizes of the real model",
                  flags.random_weights ? " and the weights are" : " are"));

  std::unique_ptr<Checkpoint> checkpoint;
  if (flags.random_weights) {
    VIDERE_ASSIGN_OR_RETURN(checkpoint, random_checkpoint(config));
  }
  int64_t size_bytes = checkpoint ? checkpoint->size_bytes() : 0;
  for (const auto& [name, text] : texts) size_bytes += std::ssize(text);
  VIDERE_ASSIGN_OR_RETURN(const auto folder, OutputFolder::create(flags.destination, size_bytes));
  for (const auto& [name, text] : texts) VIDERE_RETURN_IF_ERROR(folder->write_file(name, text));
  if (checkpoint) {
    Progress progress(Progress::Lines::kEverywhere);
    const auto show = [&](int64_t done, int64_t all) {
      progress.show("writing weights", static_cast<double>(done) / static_cast<double>(all));
    };
    VIDERE_RETURN_IF_ERROR(write_checkpoint(*checkpoint, *folder, kShardBytes, show));
  }
  VIDERE_RETURN_IF_ERROR(folder->commit());
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
  if (checkpoint) {
    fmt::print("{}: {}, {} random tensors, {:.3f} GB in {:.1f} s\n", flags.destination, flags.name,
               checkpoint->tensors().size(), static_cast<double>(size_bytes) / 1e9,
               elapsed.count());
  } else {
    fmt::print("{}: {} without weights; run it with --load-format dummy\n", flags.destination,
               flags.name);
  }
  return {};
}

}  // namespace

int init_config_command(const std::vector<std::string>& arguments) {
  CLI::App app("A folder with the real model's sizes, for measuring speed without its files.",
               "videre inspect init-config");
  app.footer(
      "config.json and its companions, the chat template, a tokenizer with the real one's size and "
      "special\ntokens but words of its own. Weights are random: made at load time, or written "
      "with "
      "--random-weights.\nDST appears when all is done, or not at all.\n\nFor example:\n"
      "  videre inspect init-config nemotron-nano-12b-v2-vl sizes\n"
      "  videre inspect sizes --load-format dummy\n"
      "  videre bench latency sizes --load-format dummy");
  InitFlags flags;
  app.add_option("NAME", flags.name,
                 "nemotron-nano-12b-v2-vl, or tiny: its parts with few blocks and heads")
      ->required()
      ->check(CLI::IsMember({kReal, kTiny}));
  app.add_option("DST", flags.destination, "the new folder; it may not exist yet")->required();
  app.add_option("--quantization,-q", flags.quantization,
                 "modelopt (FP8) or modelopt_fp4 (NVFP4); bfloat16 when not given")
      ->check(CLI::IsMember({"modelopt", "modelopt_fp4"}));
  app.add_flag(
      "--random-weights", flags.random_weights,
      "writes safetensors files too (26 GB in bfloat16), with the values that --load-format "
      "dummy makes");
  set_log_level(environment_log_level(LogLevel::kWarning));
  return run_app(app, arguments, [&] {
    const Status done = init_config(flags);
    return done.ok() ? 0 : report(done.error());
  });
}

}  // namespace videre
