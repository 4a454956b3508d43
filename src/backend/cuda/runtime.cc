#if !defined(VIDERE_CUDA_EMULATED)
#include "backend/cuda/runtime.h"

#include <atomic>
#include <mutex>
#include <string_view>

#include "base/error.h"
#include "base/log.h"

namespace videre::cuda {
namespace {

std::mutex health_mutex;
Status first_failure;
std::atomic<bool> failed{false};

}  // namespace

#define VIDERE_CUDA(call)                                         \
  do {                                                            \
    if (!healthy()) break;                                        \
    if (const cudaError_t error_ = (call); error_ != cudaSuccess) \
      report_cuda_error(error_, #call, __FILE__, __LINE__);       \
  } while (0)

void report_cuda_error(int error, const char* what, const char* file, int line) {
  const std::string_view path(file);
  const std::string_view name = path.substr(path.rfind('/') + 1);
  const auto code = static_cast<cudaError_t>(error);
  const std::lock_guard lock(health_mutex);
  if (!first_failure.ok()) return;
  first_failure = make_error(ErrorCode::kUnavailable, "",
                             "CUDA: {} failed at {}:{}: {} ({}); the process must be "
                             "started again",
                             what, name, line, cudaGetErrorString(code), cudaGetErrorName(code));
  failed = true;
  log_error("{}", first_failure.error().message);
}

bool healthy() { return !failed; }

Status cuda_health() {
  const std::lock_guard lock(health_mutex);
  return first_failure;
}

Result<int> count_devices() {
  int driver = 0, runtime = 0;
  cudaDriverGetVersion(&driver);
  cudaRuntimeGetVersion(&runtime);
  if (driver == 0) {
    return make_error(
        ErrorCode::kUnavailable, "--device",
        "no NVIDIA driver was found on this machine (libcuda.so.1); install it, or run on the CPU "
        "with --device cpu");
  }
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error == cudaErrorInsufficientDriver) {
    return make_error(ErrorCode::kUnavailable, "--device",
                      "the NVIDIA driver knows CUDA {}.{}, and this build needs {}.{}; update the "
                      "driver, or run on "
                      "the CPU with --device cpu",
                      driver / 1000, driver % 1000 / 10, runtime / 1000, runtime % 1000 / 10);
  }
  if (error != cudaSuccess || count == 0) {
    return make_error(ErrorCode::kUnavailable, "--device",
                      "no NVIDIA card can be used ({}); see what CUDA_VISIBLE_DEVICES allows, or "
                      "run on the CPU with "
                      "--device cpu",
                      error == cudaSuccess ? "none is visible" : cudaGetErrorString(error));
  }
  return count;
}

Result<DeviceInfo> open_device(int device) {
  VIDERE_ASSIGN_OR_RETURN(const int count, count_devices());
  if (device < 0 || device >= count) {
    return make_error(ErrorCode::kInvalidArgument, "--device",
                      "card {} was asked for, and {} can be seen", device, count);
  }
  cudaDeviceProp properties;
  size_t free_bytes = 0, total_bytes = 0;
  cudaError_t error = cudaSetDevice(device);
  if (error == cudaSuccess) error = cudaGetDeviceProperties(&properties, device);
  if (error == cudaSuccess) error = cudaMemGetInfo(&free_bytes, &total_bytes);
  if (error != cudaSuccess) {
    return make_error(ErrorCode::kUnavailable, "--device", "card {} cannot be used: {}", device,
                      cudaGetErrorString(error));
  }
  DeviceInfo info;
  info.name = properties.name;
  info.major = properties.major;
  info.minor = properties.minor;
  info.num_multiprocessors = properties.multiProcessorCount;
  info.shared_bytes_per_block = static_cast<int>(properties.sharedMemPerBlockOptin);
  info.total_bytes = static_cast<int64_t>(total_bytes);
  info.free_bytes = static_cast<int64_t>(free_bytes);
  info.l2_bytes = properties.l2CacheSize;
  return info;
}

int64_t free_device_bytes(int64_t when_opened) {
  size_t free_bytes = 0, total_bytes = 0;
  return cudaMemGetInfo(&free_bytes, &total_bytes) == cudaSuccess ? static_cast<int64_t>(free_bytes)
                                                                  : when_opened;
}

void* device_malloc(int64_t bytes) {
  if (!healthy()) return nullptr;
  void* memory = nullptr;
  const cudaError_t error = cudaMalloc(&memory, static_cast<size_t>(bytes));
  if (error == cudaErrorMemoryAllocation) {
    cudaGetLastError();  // not sticky
    return nullptr;
  }
  VIDERE_CUDA(error);
  return memory;
}
void device_free(void* memory) {
  if (healthy()) cudaFree(memory);
}
void* pinned_malloc(int64_t bytes) {
  void* memory = nullptr;
  VIDERE_CUDA(cudaMallocHost(&memory, static_cast<size_t>(bytes)));
  return memory;
}
void pinned_free(void* memory) {
  if (healthy()) cudaFreeHost(memory);
}

Stream make_stream() {
  Stream stream{};
  VIDERE_CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  return stream;
}
void destroy_stream(Stream stream) {
  if (healthy()) cudaStreamDestroy(stream);
}
void copy_async(void* dst, const void* src, int64_t bytes, Stream stream) {
  if (bytes > 0)
    VIDERE_CUDA(cudaMemcpyAsync(dst, src, static_cast<size_t>(bytes), cudaMemcpyDefault, stream));
}
void copy_rows_async(void* dst, int64_t dst_pitch, const void* src, int64_t src_pitch,
                     int64_t row_bytes, int64_t rows, Stream stream) {
  if (row_bytes == 0 || rows == 0) return;
  VIDERE_CUDA(cudaMemcpy2DAsync(dst, dst_pitch, src, src_pitch, row_bytes, rows, cudaMemcpyDefault,
                                stream));
}
void set_async(void* dst, int byte, int64_t bytes, Stream stream) {
  if (bytes > 0) VIDERE_CUDA(cudaMemsetAsync(dst, byte, static_cast<size_t>(bytes), stream));
}

Event make_event(bool timed) {
  Event event{};
  VIDERE_CUDA(cudaEventCreateWithFlags(&event, timed ? cudaEventDefault : cudaEventDisableTiming));
  return event;
}
void destroy_event(Event event) {
  if (healthy()) cudaEventDestroy(event);
}
void record(Event event, Stream stream) { VIDERE_CUDA(cudaEventRecord(event, stream)); }
bool finished(Event event) {
  if (!healthy()) return true;
  const cudaError_t error = cudaEventQuery(event);
  if (error == cudaErrorNotReady) return false;
  VIDERE_CUDA(error);
  return true;
}
double milliseconds_between(Event first, Event second) {
  float out = 0;
  VIDERE_CUDA(cudaEventElapsedTime(&out, first, second));
  return out;
}

void begin_recording(Stream stream) {
  VIDERE_CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
}
Graph end_recording(Stream stream) {
  cudaGraph_t graph = nullptr;
  Graph out{};
  VIDERE_CUDA(cudaStreamEndCapture(stream, &graph));
  if (graph == nullptr) return out;
  VIDERE_CUDA(cudaGraphInstantiate(&out, graph, 0));
  cudaGraphDestroy(graph);
  if (out != nullptr) VIDERE_CUDA(cudaGraphUpload(out, stream));
  return out;
}
void replay(Graph graph, Stream stream) { VIDERE_CUDA(cudaGraphLaunch(graph, stream)); }
void destroy_graph(Graph graph) {
  if (healthy()) cudaGraphExecDestroy(graph);
}

}  // namespace videre::cuda
#endif
