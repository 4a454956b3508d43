// `videre quantize`: a checkpoint to FP8 or NVFP4 in ModelOpt's layout.
#include <CLI/App.hpp>
#include <CLI/Config.hpp>
#include <CLI/Formatter.hpp>
#include <chrono>
#include <csignal>

#include "base/error.h"
#include "cli/commands.h"
#include "cli/flags.h"
#include "cli/progress.h"
#include "cli/request_folder.h"
#include "engine/calibrate.h"

namespace videre {
namespace {

struct QuantizeFlags {
  std::string source, destination, format, calibration, kv_cache, revision, download_dir;
  std::string dtype = "auto";
  QuantizeOptions options;
};

std::atomic<bool> stopped{false};
std::atomic<int> stop_signal{0};

void on_stop(int signal) {
  stop_signal = signal;
  stopped = true;
}

Status quantize(QuantizeFlags& flags) {
  QuantizeOptions& options = flags.options;
  options.format = flags.format == "fp8" ? QuantFormat::kFp8 : QuantFormat::kNvfp4;
  options.kv_cache_fp8 = flags.kv_cache == "fp8";
  options.cancel = &stopped;
  VIDERE_ASSIGN_OR_RETURN(const ModelFiles source,
                          open_model(flags.source, flags.revision, flags.download_dir));
  Progress progress(Progress::Lines::kEverywhere);
  const bool own = flags.calibration.empty() && source.embedded() &&
                   ModelFiles(builtin_evaluation()).contains(kCalibrationName);
  if (!flags.calibration.empty() || own) {
    VIDERE_ASSIGN_OR_RETURN(
        const std::vector<Request> requests,
        read_calibration(own ? ModelFiles(builtin_evaluation()) : ModelFiles(flags.calibration),
                         "--calibration"));
    EngineOptions engine;
    engine.model = flags.source;
    engine.revision = flags.revision;
    engine.download_dir = flags.download_dir;
    engine.dtype = flags.dtype;
    engine.num_threads = options.num_threads;
    engine.allowed_local_media_path = "/";
    engine.allow_private_media_hosts = true;
    VIDERE_ASSIGN_OR_RETURN(
        const Calibration calibration,
        calibrate(
            engine, requests, progress.loader(),
            [&](int64_t done, int64_t all) {
              progress.show("calibrating", static_cast<double>(done) / static_cast<double>(all));
            },
            &stopped));
    options.amax = calibration.amax;
    progress.note(fmt::format("calibrated with {} requests: {} prompt tokens, {} generated",
                              calibration.num_requests, calibration.num_prompt_tokens,
                              calibration.num_generated));
  }
  const auto start = std::chrono::steady_clock::now();
  VIDERE_ASSIGN_OR_RETURN(
      const QuantizeReport report,
      quantize_checkpoint(source, flags.destination, options, [&](int64_t done, int64_t all) {
        progress.show("quantising", static_cast<double>(done) / static_cast<double>(all));
      }));
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
  progress.clear();
  fmt::print("{}: {} of {} linears in {}, {:.3f} GB of weights became {:.3f} GB ({:.2f} GB/s)\n",
             flags.destination, report.num_modules, report.num_modules + report.num_kept_modules,
             flags.format, static_cast<double>(report.source_bytes) / 1e9,
             static_cast<double>(report.written_bytes) / 1e9,
             static_cast<double>(report.source_bytes) / 1e9 / elapsed.count());
  if (report.num_static_inputs < report.num_modules) {
    progress.note(fmt::format(
        "{} linears have no static scale for their input: engines that compute in {} want one. "
        "Give --calibration DIR with a few typical requests",
        report.num_modules - report.num_static_inputs, flags.format == "fp8" ? "FP8" : "FP4"));
  }
  return {};
}

}  // namespace

int quantize_command(const std::vector<std::string>& arguments) {
  CLI::App app("A checkpoint in bfloat16 to FP8 or NVFP4, in ModelOpt's layout.",
               "videre quantize");
  app.footer(
      "The language model's projections are quantised; embeddings, lm_head, convolutions, norms, "
      "vision tower\nand projector stay. DST appears when all is done, or not at all. "
      "docs/quantize.md tells more.\n\nFor example:\n  videre quantize MODEL model-fp8 --format "
      "fp8 --calibration requests/\n  videre serve model-fp8");
  QuantizeFlags flags;
  app.add_option("SRC", flags.source,
                 "folder of a checkpoint, org/name in the hub cache, or builtin")
      ->required();
  app.add_option("DST", flags.destination, "the new folder; it may not exist yet")->required();
  app.add_option("--format", flags.format, "fp8 or nvfp4")
      ->required()
      ->check(CLI::IsMember({"fp8", "nvfp4"}));
  app.add_option("--calibration", flags.calibration,
                 "folder of chat-completions bodies (.json, .jsonl) and their media, run first for "
                 "static activation scales; the built-in model brings its own");
  app.add_option("--exclude", flags.options.exclude,
                 "module, or glob with *, that stays as it is; may be repeated")
      ->allow_extra_args(false);
  app.add_option("--kv-cache", flags.kv_cache, "fp8: declares an FP8 cache, and writes its scales")
      ->check(CLI::IsMember({"fp8"}));
  app.add_option("--dtype", flags.dtype, "of the calibration run: auto, bfloat16 or float32");
  app.add_option("--num-threads", flags.options.num_threads, "threads; 0 = one a core")
      ->check(CLI::Range(0, 4096));
  app.add_option("--revision", flags.revision, "branch or commit in the hub cache");
  app.add_option("--download-dir", flags.download_dir, "folder of the hub cache");
  set_log_level(environment_log_level(LogLevel::kWarning));
  return run_app(app, arguments, [&] {
    struct sigaction action{};
    action.sa_handler = on_stop;
    action.sa_flags = static_cast<int>(SA_RESETHAND);  // a second one ends at once
    for (const int signal : {SIGINT, SIGTERM, SIGHUP}) sigaction(signal, &action, nullptr);
    const Status done = quantize(flags);
    if (done.ok()) return 0;
    const int code = report(done.error());
    return stop_signal != 0 ? 128 + stop_signal : code;
  });
}

}  // namespace videre
