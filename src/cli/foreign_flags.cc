// Flags of the engine that users come from, which have no work to do here. Most are harmless and
// give one warning line; those that would change what the user gets are refused with a sentence.
#include <CLI/App.hpp>

#include "cli/flags.h"

namespace videre {
namespace {

enum class Shape { kSwitch, kValue, kList };

struct ForeignFlag {
  const char* name;
  Shape shape;
  const char* what_we_do = "";  // the value that asks for what is done anyway: nothing is said
  const char* refusal = "";     // said when any other value is given; "" = warn and go on
};

constexpr Shape kSwitch = Shape::kSwitch, kValue = Shape::kValue, kList = Shape::kList;
constexpr const char* kNotYet = "it is known, but this version does not have it; leave it out";

constexpr ForeignFlag kForeign[] = {
    // Refused: ignoring them would give the user something else than was asked for.
    {"api-key", kList, "",
     "this version checks no API keys, so the server would be open to all; leave it out and bind "
     "--host 127.0.0.1 behind a proxy that checks them"},
    {"uds", kValue, "", "listening on a Unix socket is not supported; use --host and --port"},
    {"ssl-keyfile", kValue, "", "TLS is not supported; put a proxy in front and leave it out"},
    {"ssl-certfile", kValue, "", "TLS is not supported; put a proxy in front and leave it out"},
    {"ssl-ca-certs", kValue, "", "TLS is not supported; put a proxy in front and leave it out"},
    {"ssl-cert-reqs", kValue, "0", "TLS is not supported; put a proxy in front and leave it out"},
    {"root-path", kValue, "", kNotYet},
    {"enable-mm-embeds", kSwitch, "", kNotYet},
    {"enable-lora", kSwitch, "", kNotYet},
    {"lora-modules", kList, "", kNotYet},
    {"speculative-config", kValue, "", kNotYet},
    {"kv-transfer-config", kValue, "", kNotYet},
    {"hf-overrides", kValue, "{}", kNotYet},
    {"scheduling-policy", kValue, "fcfs", "requests run first come, first served; use fcfs"},
    {"logprobs-mode", kValue, "raw_logprobs",
     "log-probabilities are those of the raw logits; use "
     "raw_logprobs"},
    // Asked for, and always so.
    {"enable-request-id-headers", kSwitch, "true"},
    {"api-server-count", kValue, "1"},
    {"stream-interval", kValue, "1"},
    {"mamba-cache-mode", kValue, "none"},
    {"mm-encoder-tp-mode", kValue, "weights"},
    {"disable-log-requests", kSwitch, "true"},
    // Ignored with a warning.
    {"reasoning-parser", kValue},
    {"reasoning-parser-plugin", kValue},
    {"tool-parser-plugin", kValue},
    {"tool-server", kValue},
    {"enable-prefix-caching", kSwitch},
    {"prefix-caching-hash-algo", kValue},
    {"disable-chunked-mm-input", kSwitch},
    {"skip-mm-profiling", kSwitch},
    {"disable-fastapi-docs", kSwitch},
    {"disable-uvicorn-access-log", kSwitch},
    {"disable-access-log-for-endpoints", kValue},
    {"disable-frontend-multiprocessing", kSwitch},
    {"headless", kSwitch},
    {"enable-log-outputs", kSwitch},
    {"enable-log-deltas", kSwitch},
    {"max-log-len", kValue},
    {"log-config-file", kValue},
    {"log-error-stack", kSwitch},
    {"enable-server-load-tracking", kSwitch},
    {"enable-tokenizer-info-endpoint", kSwitch},
    {"enable-per-request-metrics", kSwitch},
    {"enable-ssl-refresh", kSwitch},
    {"ssl-ciphers", kValue},
    {"fingerprint-mode", kValue},
    {"fingerprint-value", kValue},
    {"interleave-mm-strings", kSwitch},
    {"linear-backend", kValue},
    {"attention-backend", kValue},
    {"mm-encoder-attn-backend", kValue},
    {"mm-encoder-attn-dtype", kValue},
    {"mm-tensor-ipc", kValue},
    {"mm-ipc-gpu-memory-gb", kValue},
    {"mm-processor-cache-type", kValue},
    {"mamba-cache-dtype", kValue},
    {"mamba-block-size", kValue},
    {"performance-mode", kValue},
    {"optimization-level", kValue},
    {"compilation-config", kValue},
    {"structured-outputs-config", kValue},
    {"guided-decoding-backend", kValue},
    {"kv-events-config", kValue},
    {"max-num-partial-prefills", kValue},
    {"long-prefill-token-threshold", kValue},
    {"tokenizer-revision", kValue},
    {"tokenizer-mode", kValue, "auto"},
    {"hf-config-path", kValue},
    {"code-revision", kValue},
    {"middleware", kValue},
    {"distributed-executor-backend", kValue},
    {"data-parallel-backend", kValue},
    {"enable-expert-parallel", kSwitch},
    {"disable-custom-all-reduce", kSwitch},
    {"disable-hybrid-kv-cache-manager", kSwitch},
    {"max-parallel-loading-workers", kValue},
    {"swap-space", kValue},
    {"cpu-offload-gb", kValue, "0"},
    {"max-seq-len-to-capture", kValue},
};

void judge(const ForeignFlag& flag, const std::string& value) {
  if (*flag.what_we_do && value == flag.what_we_do) return;
  if (*flag.refusal) throw CLI::ValidationError(std::string("--") + flag.name, flag.refusal);
  log_warning("--{} has no effect here and is ignored", flag.name);
}

}  // namespace

void add_foreign_flags(CLI::App& app) {
  for (const ForeignFlag& flag : kForeign) {
    const std::string name = flag.name;
    if (flag.shape == Shape::kSwitch) {
      app.add_flag_function("--" + name + ",!--no-" + name,
                            [&flag](int64_t count) {
                              if (count > 0) judge(flag, "true");
                            })
          ->group("");
      continue;
    }
    auto* option = app.add_option_function<std::vector<std::string>>(
        "--" + name,
        [&flag](const std::vector<std::string>& values) { judge(flag, values.back()); });
    option->group("");
    if (flag.shape == Shape::kValue) option->allow_extra_args(false);
  }
}

}  // namespace videre
