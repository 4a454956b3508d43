// What Videre asks of the CUDA runtime: memory, copies, events, recorded graphs. runtime.cc calls
// the library (linked statically; it opens the driver at run time, so the binary starts without
// one); runtime_emulated.cc does the same on the host for tests. Failures go to
// `report_cuda_error`, which keeps the first one for `Backend::health`; after that these functions
// do nothing: what is queued, waited for or freed on a failed device may wait for ever.
#pragma once

#include <cstdint>
#include <string>

#include "backend/cuda/kernel.h"
#include "videre/result.h"

namespace videre::cuda {

#if defined(VIDERE_CUDA_EMULATED)
using Event = int64_t;
using Graph = int;
#else
using Event = cudaEvent_t;
using Graph = cudaGraphExec_t;
#endif

struct DeviceInfo {
  std::string name;
  int major = 0, minor = 0, num_multiprocessors = 1, shared_bytes_per_block = 48 << 10;
  int64_t total_bytes = 0, free_bytes = 0, l2_bytes = 0;
};

/// How many cards can be used; an error says why there are none (no driver, too old, none visible).
Result<int> count_devices();
Result<DeviceInfo> open_device(int device);
/// What is free on the card now, of a card that had `when_opened` free.
int64_t free_device_bytes(int64_t when_opened);

void* device_malloc(int64_t bytes);  // null when there is no room; not an error by itself
void device_free(void* memory);
void* pinned_malloc(int64_t bytes);
void pinned_free(void* memory);

Stream make_stream();
void destroy_stream(Stream stream);
void copy_async(void* dst, const void* src, int64_t bytes, Stream stream);  // any direction
void copy_rows_async(void* dst, int64_t dst_pitch, const void* src, int64_t src_pitch,
                     int64_t row_bytes, int64_t rows, Stream stream);
void set_async(void* dst, int byte, int64_t bytes, Stream stream);

Event make_event(bool timed = false);
void destroy_event(Event event);
void record(Event event, Stream stream);
bool finished(Event event);                              // true after a failure
double milliseconds_between(Event first, Event second);  // timed ones that have passed

void begin_recording(Stream stream);
Graph end_recording(Stream stream);
void replay(Graph graph, Stream stream);
void destroy_graph(Graph graph);

/// The first failure so far, or ok. A process's, since a failed context is.
Status cuda_health();
bool healthy();  // whether there was none

}  // namespace videre::cuda
