"""Sizes of the built-in model, and the JSON files beside its weights."""
import json
import math
import pathlib

from . import draw

SIZES = {"vision_width": 256, "vision_depth": 9, "vision_heads": 4, "prefix": (3, 5), "grid": 24, "projector": 640,
         "hidden": 256, "pattern": "M-M*-M-M*-M-M*-", "mlp": 1024, "heads": 4, "kv_heads": 2, "head_dim": 64,
         "mamba_heads": 16, "mamba_dim": 32, "groups": 2, "state": 64}
MEAN, STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]


def build(tokenizer, sizes=SIZES):
    """config.json for a tokenizer file."""
    added = {t["content"]: t["id"] for t in tokenizer["added_tokens"]}
    vocab = -(-(max(added.values()) + 1) // 16) * 16
    s = sizes
    return {
        "architectures": ["NemotronH_Nano_VL_V2"], "model_type": "NemotronH_Nano_VL_V2", "torch_dtype": "bfloat16",
        "force_image_size": draw.TILE, "patch_size": draw.PATCH, "downsample_ratio": 0.5, "ps_version": "v2",
        "image_tag_type": "internvl", "use_thumbnail": True, "max_num_tiles": draw.MAX_TILES,
        "vit_hidden_size": s["vision_width"], "projector_hidden_size": s["projector"], "norm_mean": MEAN, "norm_std": STD,
        "img_context_token": "<image>", "img_context_token_id": added["<image>"], "img_start_token": "<img>",
        "img_end_token": "</img>", "video_context_token": "<video>", "video_context_token_id": added["<video>"],
        "video_pruning_rate": 0.0, "max_sequence_length": 8192,
        "vision_config": {
            "model_type": "radio", "version": "radio_v2.5-h", "patch_size": draw.PATCH, "max_resolution": s["grid"] * draw.PATCH,
            "preferred_resolution": [draw.TILE, draw.TILE], "hidden_size": s["vision_width"], "num_hidden_layers": s["vision_depth"],
            "num_attention_heads": s["vision_heads"], "mlp_ratio": 4.0, "layer_norm_eps": 1e-6,
            "num_cls_tokens": s["prefix"][0], "num_registers": s["prefix"][1], "torch_dtype": "bfloat16",
            "args": {"model": "vit_huge_patch16_224", "cpe_max_size": s["grid"] * draw.PATCH,
                     "register_multiple": sum(s["prefix"]), "cls_token_per_teacher": True, "model_norm": False,
                     "teachers": [{"name": f"t{i}", "use_summary": False} for i in range(s["prefix"][0])]}},
        "llm_config": {
            "architectures": ["NemotronHForCausalLM"], "model_type": "nemotron_h", "torch_dtype": "bfloat16", "vocab_size": vocab,
            "hidden_size": s["hidden"], "num_hidden_layers": len(s["pattern"]), "hybrid_override_pattern": s["pattern"],
            "intermediate_size": s["mlp"], "num_attention_heads": s["heads"], "num_key_value_heads": s["kv_heads"],
            "head_dim": s["head_dim"], "mamba_num_heads": s["mamba_heads"], "mamba_head_dim": s["mamba_dim"],
            "n_groups": s["groups"], "ssm_state_size": s["state"], "conv_kernel": 4, "chunk_size": 64, "expand": 2,
            "use_conv_bias": True, "use_bias": False, "mlp_bias": False, "attention_bias": False, "mamba_proj_bias": False,
            "mamba_hidden_act": "silu", "mlp_hidden_act": "relu2", "layer_norm_epsilon": 1e-5, "residual_in_fp32": False,
            "rescale_prenorm_residual": True, "time_step_limit": [0.0, math.inf], "time_step_min": 0.001, "time_step_max": 0.1,
            "time_step_floor": 1e-4, "tie_word_embeddings": False, "sliding_window": None, "max_position_embeddings": 8192,
            "bos_token_id": 1, "eos_token_id": 12, "pad_token_id": 0}}


def write_side_files(folder, tokenizer, config, template):
    """Everything of a checkpoint folder but the weights."""
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    dump = lambda name, value: (folder / name).write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n")
    dump("config.json", config)
    dump("tokenizer.json", tokenizer)
    dump("tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "<SPECIAL_12>",
                                   "unk_token": "<unk>", "model_max_length": config["max_sequence_length"],
                                   "clean_up_tokenization_spaces": False})
    dump("preprocessor_config.json", {
        "image_processor_type": "NemotronNanoVLV2ImageProcessor", "processor_class": "NemotronNanoVLV2Processor",
        "image_size": config["force_image_size"], "max_num_tiles": config["max_num_tiles"], "use_thumbnail": True,
        "norm_mean": MEAN, "norm_std": STD, "do_rescale": True, "patch_size": config["patch_size"], "downsample_ratio": 0.5})
    dump("generation_config.json", {"bos_token_id": 1, "eos_token_id": 12, "pad_token_id": 0, "do_sample": False})
    (folder / "chat_template.jinja").write_text(template)
