// `videre inspect`: what a checkpoint holds and takes (MODEL), what a request becomes before it
// runs (tokens), and the tensors of every stage (dump).
#include <CLI/App.hpp>
#include <CLI/Config.hpp>
#include <CLI/Formatter.hpp>

#include "base/error.h"
#include "base/json.h"
#include "cli/commands.h"
#include "cli/flags.h"
#include "cli/input.h"
#include "cli/model_summary.h"
#include "cli/progress.h"
#include "engine/dump.h"
#include "engine/loaded_model.h"
#include "server/openai_types.h"
#include "server/server.h"

namespace videre {
namespace {

struct InspectFlags {
  EngineFlags engine;
  std::string request, ids, rgb;
  bool json = false, template_only = false;
  DumpOptions dump;
};

// What all three share: the engine's flags, and the whole disk as media.
int run_inspect(CLI::App& app, InspectFlags& flags, const std::vector<std::string>& arguments,
                Status (*body)(InspectFlags&)) {
  flags.engine.engine.allowed_local_media_path = "/";
  flags.engine.engine.allow_private_media_hosts = true;
  add_engine_flags(app, flags.engine, ModelArgument::kPositional);
  add_foreign_flags(app);
  set_log_level(environment_log_level(LogLevel::kWarning));
  return run_app(app, arguments, [&] {
    Status done = resolve_engine_flags(flags.engine);
    if (done.ok() && flags.engine.engine.model.empty()) {
      done = invalid_argument("MODEL",
                              "no model is given; name a checkpoint's folder, or org/name "
                              "in the hub cache");
    }
    if (done.ok()) done = body(flags);
    return done.ok() ? 0 : report(done.error());
  });
}

Status inspect_model(InspectFlags& flags) {
  const EngineOptions& options = flags.engine.engine;
  Progress progress(Progress::Lines::kOnTerminalOnly);
  VIDERE_ASSIGN_OR_RETURN(const LoadedModel loaded, load_model(options, progress.loader()));
  progress.clear();
  const auto plan = plan_memory(loaded, options);
  const ModelSummary summary = summarize(loaded);
  if (flags.json) {
    json::object out = summary_json(summary);
    if (plan.ok()) out["memory_plan"] = plan_json(*plan);
    fmt::print("{}\n", to_json(out));
  } else {
    fmt::print("{}", summary_text(summary));
    if (plan.ok()) fmt::print("\n{}\n", describe(*plan));
  }
  if (!plan.ok()) return plan.error();
  return {};
}

json::object prompt_json(const PromptPlan& plan) {
  json::object out;
  out["rendered"] = json::string(plan.rendered);
  json::array& ids = out["prompt_ids"].emplace_array();
  for (const int32_t id : plan.prompt_ids) ids.push_back(id);
  json::array& images = out["images"].emplace_array();
  for (const PromptPlan::Image& image : plan.images) {
    images.push_back(json::object{{"width", image.width},
                                  {"height", image.height},
                                  {"grid", json::array{image.columns, image.rows}},
                                  {"tiles", image.tiles},
                                  {"tokens", image.tokens}});
  }
  json::array& videos = out["videos"].emplace_array();
  for (const PromptPlan::Video& video : plan.videos) {
    json::array indices, timestamps;
    for (const int64_t index : video.frames_indices) indices.push_back(index);
    for (const double time_s : video.timestamps) timestamps.push_back(time_s);
    videos.push_back(json::object{{"frames_indices", std::move(indices)},
                                  {"timestamps", std::move(timestamps)},
                                  {"tokens", video.tokens},
                                  {"pruned_tokens", video.pruned_tokens},
                                  {"fps", video.fps},
                                  {"duration_s", video.duration_s}});
  }
  out["usage"] = usage_json(plan.usage, true);
  return out;
}

void print_prompt(const PromptPlan& plan) {
  fmt::print("{}\n\n{} tokens: {} text, {} picture, {} video\n", plan.rendered,
             plan.prompt_ids.size(), plan.usage.text_tokens, plan.usage.image_tokens,
             plan.usage.video_tokens);
  for (size_t i = 0; i < plan.images.size(); ++i) {
    const PromptPlan::Image& image = plan.images[i];
    fmt::print("picture {}: {}x{} px, grid {}x{}, {} tiles, {} tokens\n", i + 1, image.width,
               image.height, image.columns, image.rows, image.tiles, image.tokens);
  }
  for (size_t i = 0; i < plan.videos.size(); ++i) {
    const PromptPlan::Video& video = plan.videos[i];
    fmt::print("clip {}: {} frames of {:.2f} s at {:.3f} fps, {} tokens, {} pruned\n", i + 1,
               video.frames_indices.size(), video.duration_s, video.fps, video.tokens,
               video.pruned_tokens);
    fmt::print("  frames {}\n  times  {:.2f}\n", fmt::join(video.frames_indices, " "),
               fmt::join(video.timestamps, " "));
  }
  fmt::print("ids: {}\n", fmt::join(plan.prompt_ids, " "));
}

Status inspect_tokens(InspectFlags& flags) {
  EngineOptions options = flags.engine.engine;
  if (!options.max_num_seqs) options.max_num_seqs = 1;
  VIDERE_ASSIGN_OR_RETURN(const Request request, read_request(flags.request, flags.template_only));
  Progress progress(Progress::Lines::kOnTerminalOnly);
  VIDERE_ASSIGN_OR_RETURN(const auto engine, Engine::load(options, progress.loader()));
  if (!flags.template_only) progress.show("reading pictures and clips");
  auto plan = engine->plan(request, flags.template_only);
  progress.clear();
  if (!plan.ok()) return plan.error();
  if (flags.json) {
    fmt::print("{}\n", to_json(prompt_json(*plan)));
  } else {
    print_prompt(*plan);
  }
  return {};
}

Status inspect_dump(InspectFlags& flags) {
  DumpOptions& dump = flags.dump;
  dump.engine = flags.engine.engine;
  if (!dump.engine.max_num_seqs) dump.engine.max_num_seqs = 1;
  if (!flags.request.empty() + !flags.ids.empty() + !flags.rgb.empty() != 1) {
    return invalid_argument("--request, --ids, --rgb", "expected exactly one of them");
  }
  if (!flags.request.empty()) {
    VIDERE_ASSIGN_OR_RETURN(dump.request, read_request(flags.request, false));
    std::optional<double>& temperature = dump.request->sampling.temperature;
    if (!temperature) temperature = 0;
  } else if (!flags.ids.empty()) {
    VIDERE_ASSIGN_OR_RETURN(const std::string text, read_input(flags.ids, "--ids"));
    VIDERE_ASSIGN_OR_RETURN(const json::value list, parse_json(text, flags.ids));
    dump.token_ids.emplace();
    bool good = list.is_array();
    for (size_t i = 0; good && i < list.get_array().size(); ++i) {
      const json::value& id = list.get_array()[i];
      good = id.is_int64() && id.get_int64() >= 0 && id.get_int64() <= INT32_MAX;
      if (good) dump.token_ids->push_back(static_cast<int32_t>(id.get_int64()));
    }
    if (!good || dump.token_ids->empty()) {
      return invalid_argument("--ids", "{} holds no JSON list of token ids", flags.ids);
    }
  } else {
    dump.rgb_path = flags.rgb;
  }
  Progress progress(Progress::Lines::kOnTerminalOnly);
  auto tensors = dump_tensors(dump, progress.loader());
  progress.clear();
  if (!tensors.ok()) return tensors.error();
  for (const DumpedTensor& tensor : *tensors) {
    fmt::print("{}  {} [{}]  {}\n", tensor.name, tensor.dtype, fmt::join(tensor.shape, ", "),
               tensor.path);
  }
  if (tensors->empty()) log_warning("--observe {} names no tensor", dump.observe);
  return {};
}

int tokens_command(const std::vector<std::string>& arguments) {
  CLI::App app("The exact prompt that a request becomes: text, ids, tiles and frames.",
               "videre inspect tokens");
  InspectFlags flags;
  app.add_option("--request", flags.request, "file with a chat-completions body; - is stdin")
      ->required()
      ->group("Request");
  app.add_flag("--template-only", flags.template_only,
               "stop after template and tokenizer: media are not read, placeholders not expanded")
      ->group("Request");
  app.add_flag("--json", flags.json, "rendered, prompt_ids, images, videos, usage")
      ->group("Request");
  return run_inspect(app, flags, arguments, inspect_tokens);
}

int dump_command(const std::vector<std::string>& arguments) {
  CLI::App app("Named tensors of every stage as .npy files.", "videre inspect dump");
  app.footer(
      "Names: prompt.ids, pixel_values [tiles,3,S,S], vision.patch_embeddings, vision.features "
      "[tiles,patches,E],\nvision.pixel_shuffled, vision.projected [tiles,tokens,H], "
      "evs.dissimilarity, evs.mask,\nllm.hidden.I (0 the merged embeddings, I after layer I, the "
      "last after the final norm), llm.logits, out.ids");
  InspectFlags flags;
  const char* group = "Input (one of)";
  app.add_option("--request", flags.request, "file with a chat-completions body; - is stdin")
      ->group(group);
  app.add_option("--ids", flags.ids, "file with a JSON list of token ids")->group(group);
  app.add_option("--rgb", flags.rgb,
                 ".npy: uint8 [tiles,3,S,S] as frames of a clip, or float32 pixels [tiles,3,H,W]")
      ->group(group);
  group = "Output";
  app.add_option("--observe", flags.dump.observe,
                 "regular expression over names; all when not given")
      ->group(group);
  app.add_option("--out", flags.dump.out_dir, "folder for the files; made when missing")
      ->required()
      ->group(group);
  app.add_option("--max-tokens", flags.dump.max_tokens, "tokens to generate; 1 when not given")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 40))
      ->group(group);
  app.add_flag("--all-logits", flags.dump.all_logits, "logits of every row, not the last 16")
      ->group(group);
  return run_inspect(app, flags, arguments, inspect_dump);
}

}  // namespace

int inspect_command(const std::vector<std::string>& arguments) {
  if (!arguments.empty() && arguments[0] == "tokens") {
    return tokens_command({arguments.begin() + 1, arguments.end()});
  }
  if (!arguments.empty() && arguments[0] == "dump") {
    return dump_command({arguments.begin() + 1, arguments.end()});
  }
  if (!arguments.empty() && arguments[0] == "init-config") {
    return init_config_command({arguments.begin() + 1, arguments.end()});
  }
  CLI::App app("Config, tensors, precision and memory plan of a checkpoint.", "videre inspect");
  app.footer(
      "videre inspect tokens MODEL --request R.json: the exact prompt of a request.\n"
      "videre inspect dump MODEL --ids I.json --out DIR: tensors of every stage.\n"
      "videre inspect init-config NAME DST: a folder with the real model's sizes.");
  InspectFlags flags;
  app.add_flag("--json", flags.json, "one JSON object");
  return run_inspect(app, flags, arguments, inspect_model);
}

}  // namespace videre
