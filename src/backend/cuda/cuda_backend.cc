#include "backend/cuda/cuda_backend.h"

#include <algorithm>
#include <cstring>
#include <thread>

#include "backend/cuda/cublas_lt.h"
#include "base/log.h"
#include "base/thread_pool.h"

namespace videre::cuda {
namespace {

constexpr int64_t kAlign = 256;
int64_t aligned(int64_t bytes) { return ceil_div(bytes, kAlign) * kAlign; }

}  // namespace

// Mapped files to the device: threads fill pinned pieces, which the copy engine takes while the
// next ones are filled. One thread alone reads the page cache at a fifth of the bus.
class CudaBackend::Loader {
 public:
  explicit Loader(Launcher& launcher)
      : launcher_(launcher),
        pool_(std::clamp<int>(static_cast<int>(std::thread::hardware_concurrency()), 1, 16)) {
    for (Piece& piece : pieces_) {
      piece.pinned = static_cast<char*>(pinned_malloc(kPieceBytes));
      piece.taken = make_event();
    }
  }
  ~Loader() {
    for (Piece& piece : pieces_) {
      launcher_.wait_for(piece.taken);
      if (piece.pinned != nullptr) pinned_free(piece.pinned);
      destroy_event(piece.taken);
    }
  }

  void copy(char* device, const char* host, int64_t bytes) {
    for (int64_t begin = 0; begin < bytes; begin += kPieceBytes) {
      const int64_t count = std::min(kPieceBytes, bytes - begin);
      Piece& piece = pieces_[next_++ % kPieces];
      if (piece.pinned == nullptr) return;  // a failure, which is known
      launcher_.wait_for(piece.taken);
      pool_.parallel_for(ceil_div(count, kPart), 1, [&](int64_t first, int64_t last, int) {
        const int64_t from = first * kPart;
        std::memcpy(piece.pinned + from, host + begin + from, std::min(count, last * kPart) - from);
      });
      launcher_.copy(device + begin, piece.pinned, count);
      record(piece.taken, launcher_.stream());
    }
  }

 private:
  static constexpr int kPieces = 3;
  static constexpr int64_t kPieceBytes = 32 << 20, kPart = 1 << 20;
  struct Piece {
    char* pinned = nullptr;
    Event taken{};
  };

  Launcher& launcher_;
  ThreadPool pool_;
  Piece pieces_[kPieces];
  uint64_t next_ = 0;
};

CudaBackend::CudaBackend(const CudaOptions& options, DeviceInfo info)
    : info_(std::move(info)),
      synchronous_(options.synchronous),
      use_graphs_(options.use_graphs && !options.synchronous),
      launcher_(options.synchronous, options.step_timeout_ms) {
  for (Turn& turn : turns_) turn.begun = make_event(true), turn.done = make_event(true);
  scratch_bytes_ = CublasLt::kWorkspaceBytes + kTurns * kTurnBytes;
  if (void* workspace = device_malloc(CublasLt::kWorkspaceBytes)) {
    adopted_.push_back(workspace);
    cublas_ = CublasLt::open(workspace, CublasLt::kWorkspaceBytes);
    log_debug("start: cuBLASLt is {}", cublas_ != nullptr ? "open" : "not there");
  }
}

CudaBackend::~CudaBackend() {
  launcher_.drain();
  if (num_timed_ > 0) {
    const double count = static_cast<double>(num_timed_);
    log_debug(
        "cuda: {} recorded steps in a row took {:.3f} ms each; before each the device had "
        "{:.1f} us nothing to do",
        num_timed_, timed_ms_ / count, 1e3 * idle_ms_ / count);
  }
  for (auto& [key, graph] : graphs_) destroy_graph(graph);
  for (Turn& turn : turns_) {
    finish_turn(turn);
    if (turn.pinned != nullptr) pinned_free(turn.pinned);
    if (turn.device != nullptr) device_free(turn.device);
    for (const Event event : {turn.begun, turn.done}) destroy_event(event);
  }
  if (bounce_ != nullptr) pinned_free(bounce_);
  for (void* memory : adopted_) device_free(memory);
  if (scratch_ != nullptr) device_free(scratch_);
  if (counters_ != nullptr) device_free(counters_);
}

Tensor CudaBackend::allocate(DType dtype, Shape shape) {
  const int64_t bytes = shape.numel() * static_cast<int64_t>(dtype_size(dtype));
  const bool on_host = synchronous_;
  void* memory = on_host ? pinned_malloc(std::max<int64_t>(bytes, kAlign))
                         : device_malloc(std::max<int64_t>(bytes, kAlign));
  if (memory == nullptr) {
    report_cuda_error(2,
                      "out of device memory; lower --max-model-len, --max-num-seqs or "
                      "--gpu-memory-utilization: cudaMalloc",
                      __FILE__, __LINE__);
    return Tensor(View(nullptr, dtype, shape), nullptr);
  }
  launcher_.queue(
      [&] { set_async(memory, 0, std::max<int64_t>(bytes, kAlign), launcher_.stream()); });
  allocated_bytes_ += bytes;
  return Tensor(View(memory, dtype, shape),
                std::shared_ptr<void>(memory, [this, bytes, on_host](void* p) {
                  launcher_.drain();
                  on_host ? pinned_free(p) : device_free(p);
                  allocated_bytes_ -= bytes;
                }));
}

ConstView CudaBackend::adopt(ConstView host) {
  VIDERE_CHECK(host.contiguous());
  const int64_t bytes = static_cast<int64_t>(host.size_bytes());
  void* memory = device_malloc(std::max<int64_t>(bytes, kAlign));
  if (memory == nullptr) {
    report_cuda_error(2, "out of device memory while loading weights: cudaMalloc", __FILE__,
                      __LINE__);
    return ConstView(nullptr, host.dtype(), host.shape());
  }
  adopted_.push_back(memory);
  weight_bytes_ += bytes;
  if (!loader_) loader_ = std::make_unique<Loader>(launcher_);
  loader_->copy(static_cast<char*>(memory), static_cast<const char*>(host.raw()), bytes);
  return ConstView(memory, host.dtype(), host.shape());
}

void CudaBackend::upload(View dst, const void* src) {
  const int64_t size = static_cast<int64_t>(dtype_size(dst.dtype())), bytes = dst.numel() * size;
  if (bytes == 0) return;
  const int64_t stride = row_stride(dst) * size, width = dst.dim(-1) * size;
  const bool dense = dst.contiguous();
  VIDERE_CHECK(dense || stride >= 0);
  if (const int64_t offset = take(turn(), bytes); offset >= 0) {
    char* const pinned = turn().pinned + offset;
    std::memcpy(pinned, src, bytes);
    if (dense) return launcher_.copy(dst.raw(), pinned, bytes);
    launcher_.queue([&] {
      copy_rows_async(dst.raw(), stride, pinned, width, width, num_rows(dst), launcher_.stream());
    });
  } else if (dense) {
    copy_in_pieces(dst.raw(), src, bytes);
  } else {
    for (int64_t row = 0; row < num_rows(dst); ++row) {
      copy_in_pieces(static_cast<char*>(dst.raw()) + row * stride,
                     static_cast<const char*>(src) + row * width, width);
    }
  }
}

char* CudaBackend::bounce() {
  if (bounce_ == nullptr) bounce_ = static_cast<char*>(pinned_malloc(kBounceBytes));
  return bounce_;
}

void CudaBackend::copy_in_pieces(void* device, const void* host, int64_t bytes) {
  if (bounce() == nullptr) return;
  for (int64_t begin = 0; begin < bytes; begin += kBounceBytes) {
    const int64_t count = std::min(kBounceBytes, bytes - begin);
    std::memcpy(bounce_, static_cast<const char*>(host) + begin, count);
    launcher_.copy(static_cast<char*>(device) + begin, bounce_, count);
    launcher_.drain();
  }
}

void CudaBackend::download(void* dst, ConstView src) {
  const int64_t size = static_cast<int64_t>(dtype_size(src.dtype()));
  if (src.numel() == 0) return;
  char* to = static_cast<char*>(dst);
  const char* from = static_cast<const char*>(src.raw());
  const auto fetch_piece = [&](int64_t bytes, auto&& copy) {
    if (bounce() != nullptr) launcher_.queue(copy);
    launcher_.drain();
    if (healthy()) {
      std::memcpy(to, bounce_, bytes);
    } else {
      std::memset(to, 0, bytes);
    }
    to += bytes;
  };
  const int64_t width = src.dim(-1) * size, stride = row_stride(src) * size;
  if (src.contiguous()) {
    const auto bytes = static_cast<int64_t>(src.size_bytes());
    for (int64_t begin = 0; begin < bytes; begin += kBounceBytes) {
      const int64_t count = std::min(kBounceBytes, bytes - begin);
      fetch_piece(count, [&] { copy_async(bounce_, from + begin, count, launcher_.stream()); });
    }
  } else if (stride >= 0 && width <= kBounceBytes) {
    const int64_t rows = num_rows(src), most = kBounceBytes / width;
    for (int64_t row = 0; row < rows; row += most) {
      const int64_t count = std::min(most, rows - row);
      fetch_piece(count * width, [&] {
        copy_rows_async(bounce_, width, from + row * stride, stride, width, count,
                        launcher_.stream());
      });
    }
  } else {
    for (int64_t i = 0; i < src.dim(0); ++i) {
      const ConstView part = src[i];
      download(to + i * part.numel() * size, part);
    }
  }
}

void CudaBackend::zero(View x) {
  if (x.numel() == 0) return;
  const int64_t size = static_cast<int64_t>(dtype_size(x.dtype()));
  if (x.contiguous() || x.rank() == 1) {
    launcher_.queue([&] { set_async(x.raw(), 0, x.numel() * size, launcher_.stream()); });
  } else {
    for (int64_t i = 0; i < x.dim(0); ++i) zero(x[i]);
  }
}

void* CudaBackend::scratch(int64_t bytes) {
  static constexpr int64_t kLeast = 1 << 20;
  if (scratch_ != nullptr && bytes <= scratch_held_) return scratch_;
  if (loaded_) log_debug("cuda: scratch grows from {} to {} bytes", scratch_held_, bytes);
  if (scratch_ != nullptr) adopted_.push_back(scratch_);  // what is queued or recorded may use it
  scratch_held_ = std::max({aligned(bytes), 2 * scratch_held_, kLeast});
  scratch_ = device_malloc(scratch_held_);
  scratch_bytes_ += scratch_held_;
  if (scratch_ == nullptr) {
    report_cuda_error(2, "out of device memory for an op's scratch: cudaMalloc", __FILE__,
                      __LINE__);
  }
  return scratch_;
}

// Where `bytes` of the turn's memory begin, or -1 when there are not that many left.
int64_t CudaBackend::take(Turn& turn, int64_t bytes) {
  if (turn.pinned == nullptr) {
    turn.pinned = static_cast<char*>(pinned_malloc(kTurnBytes));
    turn.device = static_cast<char*>(device_malloc(kTurnBytes));
    if (turn.pinned == nullptr || turn.device == nullptr) return -1;
  }
  if (turn.used + bytes > kTurnBytes) return -1;
  const int64_t offset = turn.used;
  turn.used += aligned(bytes);
  return offset;
}

const void* CudaBackend::staged(const void* host, int64_t bytes) {
  if (bytes == 0) return nullptr;
  if (const int64_t offset = take(turn(), bytes); offset >= 0) {
    std::memcpy(turn().pinned + offset, host, bytes);
    launcher_.copy(turn().device + offset, turn().pinned + offset, bytes);
    return turn().device + offset;
  }
  void* device = device_malloc(bytes);
  if (device == nullptr) {
    report_cuda_error(2, "out of device memory for a step's arrays: cudaMalloc", __FILE__,
                      __LINE__);
    return nullptr;
  }
  turn().extra_device.push_back(device);
  copy_in_pieces(device, host, bytes);
  return device;
}

void CudaBackend::fetch(const void* device, int64_t bytes,
                        std::function<void(const void* host)> then) {
  const int64_t offset = take(turn(), bytes);
  char* pinned = turn().pinned + offset;
  if (offset < 0) {
    pinned = static_cast<char*>(pinned_malloc(bytes));
    turn().extra_pinned.push_back(pinned);
  }
  launcher_.copy(pinned, device, bytes);
  turn().fetches.push_back({pinned, std::move(then)});
}

void CudaBackend::finish_turn(Turn& turn) {
  for (void* memory : turn.extra_pinned) pinned_free(memory);
  for (void* memory : turn.extra_device) device_free(memory);
  turn.fetches.clear();
  turn.extra_pinned.clear();
  turn.extra_device.clear();
  turn.used = 0;
  turn.ticket = 0;
}

uint64_t CudaBackend::submit() {
  Turn& turn = turns_[current_];
  record(turn.done, launcher_.stream());
  turn.ticket = ++last_ticket_;
  turn.replayed = replayed_;
  replayed_ = false;
  current_ = (current_ + 1) % kTurns;
  if (turns_[current_].ticket != 0) wait(turns_[current_].ticket);  // its memory is needed again
  launcher_.mark_next(turns_[current_].begun);
  return last_ticket_;
}

void CudaBackend::wait(uint64_t ticket) {
  for (Turn& turn : turns_) {
    if (turn.ticket != ticket) continue;
    launcher_.wait_for(turn.done);
    if (healthy()) {
      for (const Turn::Fetch& fetch : turn.fetches) fetch.then(fetch.host);
      time_turn(turn);
    }
    finish_turn(turn);
    return;
  }
}

void CudaBackend::time_turn(const Turn& turn) {
  const Turn& before = turns_[(&turn - turns_ + kTurns - 1) % kTurns];
  if (!turn.replayed || !before.replayed || before.ticket != 0) return;
  ++num_timed_;
  timed_ms_ += milliseconds_between(before.done, turn.done);
  idle_ms_ += milliseconds_between(before.done, turn.begun);
}

void CudaBackend::rehearse(const std::function<void()>& ops) {
  launcher_.set_rehearsing(true);
  ops();
  launcher_.set_rehearsing(false);
}

void CudaBackend::run_step(uint64_t key, const std::function<void()>& ops) {
  const auto found = key == 0 || observing() ? graphs_.end() : graphs_.find(key);
  if (found == graphs_.end()) return ops();
  replayed_ = true;
  launcher_.queue([&] { replay(found->second, launcher_.stream()); });
}

void CudaBackend::record_step(uint64_t key, const std::function<void()>& ops) {
  if (!use_graphs_ || observing() || graphs_.contains(key)) return;
  launcher_.start_recording();
  ops();
  if (const Graph graph = launcher_.finish_recording()) graphs_[key] = graph;
}

Status CudaBackend::health() const { return cuda_health(); }

DeviceMemory CudaBackend::memory() const {
  DeviceMemory out;
  out.total = info_.total_bytes;
  out.free = info_.free_bytes;
  out.weights = weight_bytes_;
  out.tensors = allocated_bytes_;
  out.scratch = scratch_bytes_;
  if (loaded_ && healthy()) {
    out.driver = info_.free_bytes - free_when_loaded_ - weight_bytes_ - loaded_tensor_bytes_ -
                 scratch_bytes_;
    out.changed = free_when_loaded_ - free_device_bytes(info_.free_bytes);
  }
  return out;
}

void CudaBackend::finish_loading() {
  launcher_.drain();
  loader_.reset();
  loaded_ = true;
  free_when_loaded_ = free_device_bytes(info_.free_bytes);
  loaded_tensor_bytes_ = allocated_bytes_;
  log_debug("cuda: {} steps are recorded", graphs_.size());
}

}  // namespace videre::cuda

namespace videre {

#if defined(VIDERE_CUDA_EMULATED)
std::unique_ptr<Backend> make_emulated_backend() {
  return std::make_unique<cuda::CudaBackend>(CudaOptions{.use_graphs = false},
                                             *cuda::open_device(0));
}
#else
bool cuda_in_this_build() { return true; }

Result<std::unique_ptr<Backend> > make_cuda_backend(const CudaOptions& options) {
  VIDERE_ASSIGN_OR_RETURN(cuda::DeviceInfo info, cuda::open_device(options.device));
  log_debug("start: the driver is up");
  return std::unique_ptr<Backend>(std::make_unique<cuda::CudaBackend>(options, std::move(info)));
}
#endif

}  // namespace videre
