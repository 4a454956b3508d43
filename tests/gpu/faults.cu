// A card that fails, for real: `cuda_faults MODEL WAY`, each way in a process of its own, since a
// failed context stays so. Exits 0 when the failure was seen, named and survived; 77 where there is
// no card.
//   spin       a kernel outlives step_timeout_ms: `wait` ends in time, the backend's health says so
//   illegal    a kernel writes where nothing is: health names the call and what CUDA said
//   engine-spin, engine-illegal    the same under a running engine (MODEL: a folder): its requests
//   end with an error,
//              it is not healthy and takes no more, and its destructor returns
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>

#include "backend/cuda/cuda_backend.h"
#include "engine/engine_parts.h"

namespace videre {
namespace {

using cuda::Stream;
using std::chrono::milliseconds;
using Clock = std::chrono::steady_clock;

constexpr int64_t kSpinNs = 2'000'000'000, kEngineSpinNs = 20'000'000'000;

__global__ void spin_kernel(int64_t nanoseconds) {
  int64_t begin = 0, now = 0;
  asm volatile("mov.u64 %0, %globaltimer;" : "=l"(begin));
  do {
    asm volatile("mov.u64 %0, %globaltimer;" : "=l"(now));
  } while (now - begin < nanoseconds);
}
__global__ void illegal_kernel(int* nowhere) { *nowhere = 1; }

void start_fault(bool spins, int64_t spin_ns, Stream stream) {
  if (spins) {
    spin_kernel<<<1, 1, 0, stream>>>(spin_ns);
  } else {
    illegal_kernel<<<1, 1, 0, stream>>>(reinterpret_cast<int*>(uintptr_t{1} << 44));
  }
}

int expect(bool holds, const char* what) {
  std::printf("%s: %s\n", holds ? "ok" : "FAILED", what);
  std::fflush(stdout);
  return holds ? 0 : 1;
}

bool contains(const std::string& text, const char* part) { return text.find(part) != text.npos; }

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// What CUDA calls the two faults.
const char* name_of(bool spins) {
  return spins ? "cudaErrorLaunchTimeout" : "cudaErrorIllegalAddress";
}

int run_backend(bool spins) {
  auto made = make_cuda_backend({.step_timeout_ms = 200});
  if (!made.ok()) return 77;
  auto backend = std::move(*made);
  Tensor tensor = backend->allocate(DType::kF32, Shape{4});
  backend->wait(backend->submit());
  int failed = expect(backend->health().ok(), "healthy at first");
  const auto start = Clock::now();
  start_fault(spins, kSpinNs, static_cast<cuda::CudaBackend&>(*backend).launcher().stream());
  backend->zero(tensor);
  backend->wait(backend->submit());
  failed += expect(seconds_since(start) < 1.5, "wait ended before the kernel did");
  const Status health = backend->health();
  failed += expect(!health.ok(), "not healthy");
  if (!health.ok()) {
    std::printf("    %s\n", health.error().message.c_str());
    failed += expect(contains(health.error().message, name_of(spins)), "named by CUDA's name");
    failed += expect(contains(health.error().message, ".cc:"), "with the place of the call");
  }
  float values[4];
  backend->download(values, tensor);
  for (int i = 0; i < 3; ++i) backend->wait(backend->submit());
  tensor = Tensor();
  backend.reset();
  failed += expect(seconds_since(start) < 1.9, "later calls and the destructor return at once");
  return failed;
}

int run_engine(const std::string& model, bool spins) {
  auto made = make_cuda_backend({.step_timeout_ms = 500});
  if (!made.ok()) return 77;
  const Stream stream = static_cast<cuda::CudaBackend&>(**made).launcher().stream();
  EngineOptions options;
  options.model = model;
  options.device = "cuda";
  options.max_model_len = 4096;
  options.max_num_seqs = 4;
  auto parts = make_engine_parts(options, {}, std::move(*made));
  if (!parts.ok()) return expect(false, parts.error().message.c_str());
  auto engine = make_engine(std::move(*parts), options);
  std::vector<std::shared_ptr<Generation>> generations;
  for (int i = 0; i < 8; ++i) {
    Request request;
    request.prompt_token_ids = std::vector<int32_t>(20 + i, 20);
    request.sampling.temperature = 0;
    request.sampling.max_tokens = 4000;
    request.sampling.ignore_eos = true;
    auto generation = engine->submit(request);
    if (!generation.ok()) return expect(false, generation.error().message.c_str());
    generations.push_back(*generation);
  }
  const auto first = generations[0]->read(milliseconds(20000));
  int failed = expect(first.ok() && !first->empty() && engine->healthy(), "it answers at first");
  const auto start = Clock::now();
  start_fault(spins, kEngineSpinNs, stream);
  int num_failed = 0;
  for (const auto& generation : generations) {
    while (!generation->done()) {
      const auto deltas = generation->read(milliseconds(10000));
      if (!deltas.ok()) {
        if (num_failed++ == 0) std::printf("    %s\n", deltas.error().message.c_str());
        break;
      }
      if (deltas->empty()) return expect(false, "a request ends");
    }
  }
  failed += expect(num_failed == 8, "every request ended with an error");
  failed += expect(seconds_since(start) < 5, "soon");
  failed += expect(!engine->healthy(), "the engine is not healthy");
  Request late;
  late.prompt_token_ids = std::vector<int32_t>(5, 20);
  const auto refused = engine->submit(late);
  failed += expect(!refused.ok() && refused.error().code == ErrorCode::kUnavailable,
                   "it takes no more requests");
  engine.reset();
  failed += expect(seconds_since(start) < 10, "its destructor returns");
  return failed;
}

int run(int argc, char** argv) {
  const std::string way = argc > 2 ? argv[2] : "";
  const bool spins = way.ends_with("spin");
  if (way == "spin" || way == "illegal") return run_backend(spins);
  if (way == "engine-spin" || way == "engine-illegal") return run_engine(argv[1], spins);
  std::fprintf(stderr, "cuda_faults MODEL spin|illegal|engine-spin|engine-illegal\n");
  return 2;
}

}  // namespace
}  // namespace videre

int main(int argc, char** argv) {
  const int result = videre::run(argc, argv);
  std::fflush(stdout);
  std::_Exit(result);  // as the server does: what CUDA does at exit may wait for the kernel
}
