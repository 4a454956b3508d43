#include "engine/calibrate.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "engine/activation_probe.h"
#include "engine/engine_parts.h"
#include "engine/prepare.h"

namespace videre {
namespace {

constexpr int64_t kGeneratedTokens = 32;  // of a request that does not say
constexpr size_t kTogether = 8;           // requests in one batch

Error with_place(const Error& error, size_t i, size_t all) {
  Error out = error;
  out.message = fmt::format("calibration request {} of {}: {}", i + 1, all, error.message);
  return out;
}

Status check_finite(const std::map<std::string, float>& amax, const char* what) {
  for (const auto& [module, most] : amax) {
    if (!std::isfinite(most)) {
      return invalid_model(
          "{} of {} reached {} during calibration; the checkpoint or its "
          "--dtype is at fault",
          what, module, most);
    }
  }
  return {};
}

}  // namespace

Result<Calibration> calibrate(const EngineOptions& options, const std::vector<Request>& requests,
                              const LoadProgress& load_progress,
                              const std::function<void(int64_t, int64_t)>& progress,
                              const std::atomic<bool>* cancel) {
  if (requests.empty()) return invalid_argument("--calibration", "there is no request");
  EngineOptions engine = options;
  engine.async_scheduling = false;  // no step runs past a sequence's end,
  engine.pad_steps = false;         // none has rows of padding: all that is seen counts,
  engine.enforce_eager = true;      // and all that counts is seen
  engine.max_num_seqs = static_cast<int>(kTogether);
  VIDERE_ASSIGN_OR_RETURN(EngineParts parts, make_engine_parts(engine, load_progress));
  LoadedModel& loaded = parts.loaded;
  AmaxProbe probe(*loaded.backend);
  loaded.backend->set_linear_probe(&probe);
  TaskPool pool(engine.media_threads);
  Preparer preparer(loaded, engine, parts.plan.max_model_len, parts.encoder_rows, &pool,
                    make_fetcher(fetch_options(engine)));
  Calibration out;
  for (size_t begin = 0; begin < requests.size(); begin += kTogether) {
    const size_t end = std::min(requests.size(), begin + kTogether);
    std::vector<std::shared_ptr<RequestState>> running;
    for (size_t i = begin; i < end; ++i) {
      if (cancel && *cancel) return make_error(ErrorCode::kCancelled, "", "stopped");
      if (progress) progress(static_cast<int64_t>(i), std::ssize(requests));
      Request request = requests[i];
      request.sampling.n = 1;
      if (!request.sampling.max_tokens) request.sampling.max_tokens = kGeneratedTokens;
      auto state = std::make_shared<RequestState>(std::move(request));
      const Status checked = preparer.check(state->request, false);
      if (!checked.ok()) return with_place(checked.error(), i, requests.size());
      auto prompt = preparer.prepare(state->request, cancel);
      if (!prompt.ok()) return with_place(prompt.error(), i, requests.size());
      state->prompt = std::move(*prompt);
      const int64_t num_prompt = state->prompt->usage.prompt_tokens;
      auto sampling = resolve_sampling(state->request.sampling, loaded.config, *loaded.tokenizer,
                                       num_prompt, parts.plan.max_model_len, engine.seed);
      if (!sampling.ok()) return with_place(sampling.error(), i, requests.size());
      state->sampling = std::move(*sampling);
      out.num_prompt_tokens += num_prompt;
      parts.core->add(state);
      running.push_back(std::move(state));
    }
    while (!parts.core->idle()) {
      if (cancel && *cancel) return make_error(ErrorCode::kCancelled, "", "stopped");
      parts.core->step();
    }
    for (size_t i = 0; i < running.size(); ++i) {
      std::vector<TokenEvent> events;
      Error error;
      if (!running[i]->take(events, std::chrono::milliseconds(0), error)) {
        return with_place(error, begin + i, requests.size());
      }
      out.num_generated += std::ssize(events);
    }
  }
  loaded.backend->set_linear_probe(nullptr);
  out.num_requests = std::ssize(requests);
  out.amax = probe.amax();
  VIDERE_RETURN_IF_ERROR(check_finite(out.amax.inputs, "the input"));
  VIDERE_RETURN_IF_ERROR(check_finite(out.amax.keys, "the output"));
  VIDERE_RETURN_IF_ERROR(check_finite(out.amax.values, "the output"));
  if (progress) progress(out.num_requests, out.num_requests);
  return out;
}

}  // namespace videre
