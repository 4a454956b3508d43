// The CUDA runtime's place when kernels run on the host (emulator.h): everything happens at once.
#if defined(VIDERE_CUDA_EMULATED)
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>

#include "backend/cuda/runtime.h"
#include "base/check.h"

namespace videre::cuda {

namespace {

// What is allocated, so that tests see what a card would have left.
constexpr int64_t kDeviceBytes = int64_t{4} << 30;
std::mutex books_mutex;
std::map<void*, int64_t> books;
int64_t used_bytes = 0;

}  // namespace

Result<int> count_devices() { return 1; }
Result<DeviceInfo> open_device(int) {
  DeviceInfo info;
  info.name = "emulated";
  info.major = 9;
  info.num_multiprocessors = 4;
  info.shared_bytes_per_block = 227 << 10;
  info.total_bytes = kDeviceBytes;
  info.free_bytes = free_device_bytes(0);
  info.l2_bytes = 50 << 20;
  return info;
}

int64_t free_device_bytes(int64_t) {
  const std::lock_guard lock(books_mutex);
  return kDeviceBytes - used_bytes;
}

void* device_malloc(int64_t bytes) {
  void* memory = pinned_malloc(bytes);
  const std::lock_guard lock(books_mutex);
  books[memory] = bytes;
  used_bytes += bytes;
  return memory;
}
void device_free(void* memory) {
  const std::lock_guard lock(books_mutex);
  used_bytes -= books.at(memory);
  books.erase(memory);
  std::free(memory);
}
void* pinned_malloc(int64_t bytes) {
  return std::aligned_alloc(256, static_cast<size_t>((bytes + 255) / 256 * 256));
}
void pinned_free(void* memory) { std::free(memory); }

Stream make_stream() { return 0; }
void destroy_stream(Stream) {}
void copy_async(void* dst, const void* src, int64_t bytes, Stream) {
  if (bytes > 0) std::memmove(dst, src, static_cast<size_t>(bytes));
}
void copy_rows_async(void* dst, int64_t dst_pitch, const void* src, int64_t src_pitch,
                     int64_t row_bytes, int64_t rows, Stream stream) {
  for (int64_t row = 0; row < rows; ++row) {
    copy_async(static_cast<char*>(dst) + row * dst_pitch,
               static_cast<const char*>(src) + row * src_pitch, row_bytes, stream);
  }
}
void set_async(void* dst, int byte, int64_t bytes, Stream) {
  if (bytes > 0) std::memset(dst, byte, static_cast<size_t>(bytes));
}

Event make_event(bool) { return 0; }
void destroy_event(Event) {}
void record(Event, Stream) {}
bool finished(Event) { return true; }
double milliseconds_between(Event, Event) { return 0; }

// Nothing is recorded here: the backend runs the ops each time.
void begin_recording(Stream) { VIDERE_CHECK(false); }
Graph end_recording(Stream) { return 0; }
void replay(Graph, Stream) { VIDERE_CHECK(false); }
void destroy_graph(Graph) {}

Status cuda_health() { return {}; }
bool healthy() { return true; }
void report_cuda_error(int error, const char* what, const char* file, int line) {
  VIDERE_CHECK(false) << what << " failed with " << error << " at " << file << ":" << line;
}

}  // namespace videre::cuda
#endif
