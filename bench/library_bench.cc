// What reading a request costs its reader: CPU time of the reading thread, a token and a request,
// over the C++ API. bench/python_overhead.py measures the same through Python. First argument: a
// model; the built-in one when not given.
#include <benchmark/benchmark.h>
#include <time.h>

#include "videre/engine.h"

namespace videre {
namespace {

std::string model;

double thread_seconds() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

void read_tokens(benchmark::State& state) {
  EngineOptions options;
  options.model = model;
  options.max_model_len = 2048;
  auto engine = Engine::load(options);
  if (!engine.ok()) return state.SkipWithError(engine.error().message.c_str());
  Request request;
  request.prompt = "Hello";
  request.sampling.temperature = 0;
  request.sampling.ignore_eos = true;
  request.sampling.max_tokens = state.range(0);
  for (auto _ : state) {
    const double start = thread_seconds();
    auto generation = (*engine)->submit(request);
    while (generation.ok() && !(*generation)->done()) {
      benchmark::DoNotOptimize((*generation)->read(std::chrono::seconds(1)));
    }
    state.SetIterationTime(thread_seconds() - start);
  }
}
BENCHMARK(read_tokens)->ArgName("tokens")->Arg(1)->Arg(1001)->UseManualTime()->Iterations(20);

}  // namespace
}  // namespace videre

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (argc > 1) videre::model = argv[1];
  benchmark::RunSpecifiedBenchmarks();
}
