#include "backend/cpu/cpu_backend.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>

#include "base/log.h"

namespace videre::cpu {
namespace {

const Kernels& choose_kernels(std::string_view isa) {
#if defined(__x86_64__)
  const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool has_avx512 =
      __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512vnni");
  const bool has_bf16 = has_avx512 && __builtin_cpu_supports("avx512bf16");
  if (isa == "plain") return plain_kernels();
  if (isa == "avx2" && has_avx2) return avx2_kernels();
  if (isa == "avx512" && has_avx512) return avx512_kernels();
  if (has_bf16) return avx512_bf16_kernels();
  if (has_avx512) return avx512_kernels();
  if (has_avx2) return avx2_kernels();
#else
  (void)isa;
#endif
  return plain_kernels();
}

constexpr size_t kMapBytes = size_t{1} << 20;  // from here on fresh pages beat memset

}  // namespace

CpuBackend::CpuBackend(const CpuOptions& options)
    : kernels_(choose_kernels(options.isa)), pool_(options.num_threads) {
  scratch_.resize(pool_.num_threads() + 1);
  log_debug("cpu backend: {} kernels, {} threads", kernels_.isa, pool_.num_threads());
}

Tensor CpuBackend::allocate(DType dtype, Shape shape) {
  const size_t bytes = static_cast<size_t>(shape.numel()) * dtype_size(dtype);
  if (bytes < kMapBytes) {
    Tensor tensor = make_host_tensor(dtype, shape);
    std::memset(tensor.view().raw(), 0, bytes);
    return tensor;
  }
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  VIDERE_CHECK(memory != MAP_FAILED) << "no memory for " << bytes << " bytes";
  madvise(memory, bytes, MADV_HUGEPAGE);
  return Tensor(View(memory, dtype, shape),
                std::shared_ptr<void>(memory, [bytes](void* p) { munmap(p, bytes); }));
}

void CpuBackend::upload(View dst, const void* src) {
  if (dst.contiguous()) {
    if (dst.numel() > 0) std::memcpy(dst.raw(), src, dst.size_bytes());
    return;
  }
  const size_t row_bytes = static_cast<size_t>(dst.dim(-1)) * dtype_size(dst.dtype());
  for (int64_t row = 0; row < num_rows(dst); ++row) {
    std::memcpy(row_at(dst, row), static_cast<const char*>(src) + row * row_bytes, row_bytes);
  }
}

void CpuBackend::download(void* dst, ConstView src) {
  if (src.contiguous()) {
    if (src.numel() > 0) std::memcpy(dst, src.raw(), src.size_bytes());
    return;
  }
  const size_t row_bytes = static_cast<size_t>(src.dim(-1)) * dtype_size(src.dtype());
  for (int64_t row = 0; row < num_rows(src); ++row) {
    std::memcpy(static_cast<char*>(dst) + row * row_bytes, row_at(src, row), row_bytes);
  }
}

void CpuBackend::zero(View x) {
  const size_t row_bytes = static_cast<size_t>(x.dim(-1)) * dtype_size(x.dtype());
  pool_.parallel_for(num_rows(x), row_grain(x.dim(-1)), [&](int64_t begin, int64_t end, int) {
    for (int64_t row = begin; row < end; ++row) std::memset(row_at(x, row), 0, row_bytes);
  });
}

void CpuBackend::do_copy(View dst, ConstView src) {
  const int64_t width = src.dim(-1);
  const size_t row_bytes = static_cast<size_t>(width) * dtype_size(src.dtype());
  if (dst.dtype() == src.dtype()) {
    pool_.parallel_for(num_rows(src), row_grain(width), [&](int64_t begin, int64_t end, int) {
      for (int64_t row = begin; row < end; ++row) {
        std::memcpy(row_at(dst, row), row_at(src, row), row_bytes);
      }
    });
    return;
  }
  for_rows(src, 0, [&](int64_t row, float* x) {
    kernels_.narrow(row_at(dst, row), x, dst.dtype(), width);
  });
}

float* CpuBackend::scratch(int owner, int64_t floats) {
  Tensor& memory = scratch_[owner];
  if (memory.empty() || memory.shape()[0] < floats) {
    memory = make_host_tensor(DType::kF32, Shape{floats + floats / 2});
  }
  return memory.view().data<float>();
}

void CpuBackend::widen(float* dst, ConstView view) {
  kernels_.widen(dst, view.raw(), view.dtype(), view.numel());
}

}  // namespace videre::cpu

namespace videre {

std::unique_ptr<Backend> make_cpu_backend(const CpuOptions& options) {
  return std::make_unique<cpu::CpuBackend>(options);
}

}  // namespace videre
