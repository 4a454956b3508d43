#include "model/config.h"

#include <gtest/gtest.h>

#include "base/mapped_file.h"

namespace videre {
namespace {

std::string reference_config() {
  return read_text_file(std::string(VIDERE_TEST_DATA) + "/tiny-b/checkpoint/config.json", 1 << 20)
      .value();
}

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  const size_t at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  return text.replace(at, from.size(), to);
}

std::string error_of(const std::string& config, const std::string& hf_quant = "") {
  auto parsed = parse_config(config, "", "", hf_quant);
  return parsed.ok() ? "" : parsed.error().message;
}

TEST(Config, ReadsTheReferenceFolder) {
  auto loaded = load_config(std::string(VIDERE_TEST_DATA) + "/tiny-b/checkpoint");
  ASSERT_TRUE(loaded.ok()) << loaded.error().message;
  const Config& config = *loaded;
  EXPECT_EQ(config.llm.num_layers(), 10);
  EXPECT_EQ(config.llm.count(LayerKind::kMamba2), 4);
  EXPECT_EQ(config.llm.count(LayerKind::kAttention), 2);
  EXPECT_EQ(config.llm.in_proj_rows(), 908);
  EXPECT_EQ(config.llm.conv_dim(), 704);
  EXPECT_EQ(config.llm.norm_group(), 48);
  EXPECT_EQ(config.llm.time_step_max, std::numeric_limits<float>::infinity());
  EXPECT_EQ(config.vision.hidden_size, 64);  // explicit sizes win over args.model (vit_huge)
  EXPECT_EQ(config.vision.intermediate_size, 256);
  EXPECT_EQ(config.vision.position_grid, 16);
  EXPECT_EQ(config.vision.num_prefix_tokens, 10);
  EXPECT_EQ(config.llm.intermediate_sizes, (std::vector<int>(4, 256)));
  EXPECT_EQ(config.tokens_per_tile(), 16);
  EXPECT_EQ(config.eos_token_ids, (std::set<int32_t>{2, 11, 12}));
  EXPECT_EQ(config.primary_eos_id, 12);
  EXPECT_EQ(config.max_model_len, 131072);
  EXPECT_FALSE(config.ps_v1);
  EXPECT_EQ(config.quant_algo, "");
}

TEST(Config, ReadsDeclaredQuantisation) {
  auto fp8 = load_config(std::string(VIDERE_TEST_DATA) + "/tiny-b/checkpoint-fp8");
  ASSERT_TRUE(fp8.ok()) << fp8.error().message;
  EXPECT_EQ(fp8->quant_algo, "FP8");
  EXPECT_TRUE(fp8->excluded_from_quantization("language_model.lm_head"));
  EXPECT_TRUE(fp8->excluded_from_quantization("vision_model.radio_model.model.blocks.0.attn.qkv"));
  EXPECT_TRUE(fp8->excluded_from_quantization("mlp1.1"));
  EXPECT_FALSE(fp8->excluded_from_quantization("language_model.backbone.layers.0.mixer.in_proj"));
  auto nvfp4 = load_config(std::string(VIDERE_TEST_DATA) + "/tiny-b/checkpoint-nvfp4");
  ASSERT_TRUE(nvfp4.ok()) << nvfp4.error().message;
  EXPECT_EQ(nvfp4->quant_algo, "NVFP4");
}

TEST(Config, RefusesWhatCannotRun) {
  const std::string config = reference_config();
  const struct {
    const char *from, *to, *says;
  } kCases[] = {
      {"\"NemotronH_Nano_VL_V2\"", "\"LlamaForCausalLM\"", "Videre runs NemotronH_Nano_VL_V2"},
      {"M-*-MM-*M-", "M-*-ME-*M-", "mixture-of-experts block (E)"},
      {"M-*-MM-*M-", "M-*-MX-*M-", "block 'X'"},
      {"M-*-MM-*M-", "M-*-MM-*M", "has 9 blocks"},
      {"\"hidden_size\": 96", "\"hidden_size\": -1", "hidden_size"},
      {"\"hidden_size\": 96", "\"hidden_size\": \"96\"", "hidden_size"},
      {"\"hidden_size\": 96", "\"hidden_size\": 1e30", "hidden_size"},
      {"\"vocab_size\": 1536,", "", "lacks llm_config.vocab_size"},
      {"\"num_key_value_heads\": 3", "\"num_key_value_heads\": 4", "do not divide"},
      {"\"intermediate_size\": 256", "\"intermediate_size\": [1, 2]", "intermediate_size"},
      {"\"intermediate_size\": 256", "\"intermediate_size\": [1, 2, 3, -4]", "intermediate_size"},
      {"\"n_groups\": 4", "\"n_groups\": 5", "do not divide"},
      {"\"expand\": 2", "\"sliding_window\": 4096", "sliding_window"},
      {"\"expand\": 2", "\"n_routed_experts\": 8", "n_routed_experts"},
      {"\"mlp_hidden_act\": \"relu2\"", "\"mlp_hidden_act\": \"gelu\"", "mlp_hidden_act"},
      {"\"register_multiple\": 10", "\"min_num_patches\": 10", "Omni"},
      {"\"template\": \"nemotron\"", "\"sound_config\": {}", "Omni"},
      {"\"ps_version\": \"v2\"", "\"ps_version\": \"v3\"", "ps_version"},
      {"\"force_image_size\": 128", "\"force_image_size\": 100", "no whole tokens"},
      {"\"downsample_ratio\": 0.5", "\"downsample_ratio\": 0", "downsample_ratio"},
      {"\"downsample_ratio\": 0.5", "\"downsample_ratio\": 1e-300", "downsample_ratio"},
      {"\"mlp_ratio\": 4.0", "\"mlp_ratio\": NaN", "mlp_ratio"},
      {"0.26862954", "0", "norm_std"},
  };
  for (const auto& item : kCases) {
    const std::string error = error_of(replaced(config, item.from, item.to));
    EXPECT_NE(error.find(item.says), std::string::npos) << item.to << " -> " << error;
  }
  EXPECT_NE(error_of("{"), "");
  EXPECT_NE(error_of("[]"), "");
  EXPECT_NE(error_of("{}"), "");
}

TEST(Config, RefusesContradictoryQuantisation) {
  const std::string config =
      replaced(reference_config(), "\"image_tag_type\"",
               "\"quantization_config\": {\"quant_algo\": \"FP8\"}, \"image_tag_type\"");
  EXPECT_EQ(error_of(config, R"({"quantization": {"quant_algo": "fp8"}})"), "");
  EXPECT_NE(error_of(config, R"({"quantization": {"quant_algo": "NVFP4"}})").find("FP8"),
            std::string::npos);
  EXPECT_NE(error_of(config, R"({"quantization": {"quant_algo": "MXFP8"}})").find("MXFP8"),
            std::string::npos);
}

TEST(Config, FallsBackToTheTowersTable) {
  std::string config = reference_config();
  for (const char* field : {"\"hidden_size\": 64,", "\"num_hidden_layers\": 2,",
                            "\"num_attention_heads\": 4,", "\"mlp_ratio\": 4.0,"}) {
    config = replaced(config, field, "");
  }
  auto parsed = parse_config(config, "", "", "");
  ASSERT_TRUE(parsed.ok()) << parsed.error().message;
  EXPECT_EQ(parsed->vision.hidden_size, 1280);
  EXPECT_EQ(parsed->vision.num_layers, 32);
  EXPECT_EQ(parsed->vision.num_heads, 16);
  EXPECT_EQ(parsed->vision.intermediate_size, 5120);
}

TEST(Config, ReadsWidthsOfMlpBlocks) {
  // M-*-MM-*M-: the second list counts all blocks, of which 1, 3, 6 and 9 are MLPs.
  for (const char* list : {"[10, 20, 30, 40]", "[0, 10, 0, 20, null, 0, 30, 0, 0, 40]"}) {
    const std::string config = replaced(reference_config(), "\"intermediate_size\": 256",
                                        std::string("\"intermediate_size\": ") + list);
    auto parsed = parse_config(config, "", "", "");
    ASSERT_TRUE(parsed.ok()) << parsed.error().message;
    EXPECT_EQ(parsed->llm.intermediate_sizes, (std::vector<int>{10, 20, 30, 40})) << list;
  }
}

TEST(Config, CountsPrefixTokens) {
  // What config.json says, and the rows that come of it.
  const struct {
    const char *classes, *registers, *multiple;
    int rows;
  } kCases[] = {{"\"num_cls_tokens\": 4,", "\"num_registers\": 4,", "16", 8},
                {"\"num_cls_tokens\": 4,", "", "16", 16},
                {"", "", "16", 16},  // three teachers
                {"", "", "3", 6},    // a full row of registers more
                {"", "", "0", 3},
                {"", "\"num_registers\": 0,", "16", 3}};
  for (const auto& item : kCases) {
    std::string config = reference_config();
    config = replaced(config, "\"num_cls_tokens\": 3,", item.classes);
    config = replaced(config, "\"num_registers\": 7,", item.registers);
    config = replaced(config, "\"register_multiple\": 10",
                      std::string("\"register_multiple\": ") + item.multiple);
    auto parsed = parse_config(config, "", "", "");
    ASSERT_TRUE(parsed.ok()) << parsed.error().message;
    EXPECT_EQ(parsed->vision.num_prefix_tokens, item.rows);
  }
}

TEST(Config, ReadsAliasesAndOddFloats) {
  std::string config = reference_config();
  config = replaced(
      config, "\"hybrid_override_pattern\": \"M-*-MM-*M-\"",
      R"("layers_block_type": ["mamba","mlp","attention","mlp","linear_attention","mamba","mlp","full_attention","mamba","mlp"])");
  config = replaced(config, "\"llm_config\"", "\"text_config\"");
  config = replaced(config, "\"ssm_state_size\"", "\"mamba_d_state\"");
  config = replaced(config, "Infinity", R"({"__float__": "Infinity"})");
  auto parsed = parse_config(config, R"({"eos_token_id": 7, "temperature": 0.6})",
                             R"({"max_num_tiles": 6})", "");
  ASSERT_TRUE(parsed.ok()) << parsed.error().message;
  EXPECT_EQ(parsed->llm.num_layers(), 10);
  EXPECT_EQ(parsed->llm.ssm_state_size, 64);
  EXPECT_EQ(parsed->eos_token_ids, (std::set<int32_t>{7, 12}));
  EXPECT_EQ(parsed->max_num_tiles, 6);
  EXPECT_EQ(*parsed->generation.temperature, 0.6);
}

}  // namespace
}  // namespace videre
