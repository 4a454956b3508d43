// The few functions of cuBLASLt that serve here are declared as its documentation gives them, so
// that neither its header nor the library is needed to build.
#include "backend/cuda/cublas_lt.h"

#if defined(VIDERE_CUDA_EMULATED)

namespace videre::cuda {

std::unique_ptr<CublasLt> CublasLt::open(void*, int64_t) { return nullptr; }

}  // namespace videre::cuda

#else

#include <dlfcn.h>

#include <map>
#include <tuple>

#include "base/log.h"

namespace videre::cuda {
namespace {

// Values of enums in cublasLt.h and library_types.h.
constexpr int kComputeFloat = 68, kTypeFloat = 0, kTypeBF16 = 14, kTransposed = 1;
constexpr int kTransposeA = 3, kEpilogue = 7, kBiasPointer = 8, kEpilogueBias = 4;
constexpr int kMaxWorkspaceBytes = 1, kMinAlignmentA = 5;  // B, C, D follow

struct Heuristic {
  uint64_t algorithm[8];
  size_t workspace_bytes;
  int status;
  float waves;
  int reserved[4];
};

struct Functions {
  int (*cublasLtCreate)(void**);
  int (*cublasLtDestroy)(void*);
  int (*cublasLtMatmulDescCreate)(void**, int compute_type, int scale_type);
  int (*cublasLtMatmulDescDestroy)(void*);
  int (*cublasLtMatmulDescSetAttribute)(void*, int, const void*, size_t);
  int (*cublasLtMatrixLayoutCreate)(void**, int type, uint64_t rows, uint64_t columns, int64_t ld);
  int (*cublasLtMatrixLayoutDestroy)(void*);
  int (*cublasLtMatmulPreferenceCreate)(void**);
  int (*cublasLtMatmulPreferenceDestroy)(void*);
  int (*cublasLtMatmulPreferenceSetAttribute)(void*, int, const void*, size_t);
  int (*cublasLtMatmulAlgoGetHeuristic)(void* handle, void* operation, void* a, void* b, void* c,
                                        void* d, void* preference, int requested,
                                        Heuristic* results, int* found);
  int (*cublasLtMatmul)(void* handle, void* operation, const void* alpha, const void* a,
                        void* a_layout, const void* b, void* b_layout, const void* beta,
                        const void* c, void* c_layout, void* d, void* d_layout,
                        const void* algorithm, void* workspace, size_t workspace_bytes,
                        Stream stream);
};

bool load(void* library, Functions& f) {
  const auto get = [&]<typename F>(F& function, const char* name) {
    function = reinterpret_cast<F>(dlsym(library, name));
    return function != nullptr;
  };
#define VIDERE_GET(name) get(f.name, #name)
  return VIDERE_GET(cublasLtCreate) && VIDERE_GET(cublasLtDestroy) &&
         VIDERE_GET(cublasLtMatmulDescCreate) && VIDERE_GET(cublasLtMatmulDescDestroy) &&
         VIDERE_GET(cublasLtMatmulDescSetAttribute) && VIDERE_GET(cublasLtMatrixLayoutCreate) &&
         VIDERE_GET(cublasLtMatrixLayoutDestroy) && VIDERE_GET(cublasLtMatmulPreferenceCreate) &&
         VIDERE_GET(cublasLtMatmulPreferenceDestroy) &&
         VIDERE_GET(cublasLtMatmulPreferenceSetAttribute) &&
         VIDERE_GET(cublasLtMatmulAlgoGetHeuristic) && VIDERE_GET(cublasLtMatmul);
#undef VIDERE_GET
}

// An opaque object of the library that goes with its scope.
struct Object {
  void* value = nullptr;
  int (*destroy)(void*);
  explicit Object(int (*destroy_)(void*)) : destroy(destroy_) {}
  Object(const Object&) = delete;
  ~Object() {
    if (value != nullptr) destroy(value);
  }
};

class Library final : public CublasLt {
 public:
  Library(const Functions& functions, void* handle, void* workspace, int64_t workspace_bytes)
      : f_(functions),
        handle_(handle),
        workspace_(workspace),
        workspace_bytes_(static_cast<size_t>(workspace_bytes)) {}
  ~Library() override {
    if (healthy()) f_.cublasLtDestroy(handle_);
  }

  bool matmul(void* out, DType out_dtype, int64_t ldo, const void* x, int64_t ldx, const void* w,
              int64_t ldw, const void* bias, int64_t rows, int64_t n, int64_t k,
              Launcher& launcher) override {
    // Its matrices lie in columns: out^T [n, rows] = w [k, n]^T x [k, rows].
    const int out_type = out_dtype == DType::kF32 ? kTypeFloat : kTypeBF16;
    Object operation(f_.cublasLtMatmulDescDestroy), a(f_.cublasLtMatrixLayoutDestroy),
        b(f_.cublasLtMatrixLayoutDestroy), d(f_.cublasLtMatrixLayoutDestroy);
    bool made = f_.cublasLtMatmulDescCreate(&operation.value, kComputeFloat, kTypeFloat) == 0 &&
                set(operation, kTransposeA, kTransposed);
    if (made && bias != nullptr)
      made = set(operation, kEpilogue, kEpilogueBias) && set(operation, kBiasPointer, bias);
    made = made && layout(a, kTypeBF16, k, n, ldw) && layout(b, kTypeBF16, k, rows, ldx) &&
           layout(d, out_type, n, rows, ldo);
    if (!made) return false;
    const auto run = [&](Way& way) {
      // Its kernels load when they run.
      if (launcher.rehearsing() && way.has_run) return true;
      const float alpha = 1, beta = 0;
      bool queued = true;
      launcher.queue(
          [&] {
            way.has_run = true;
            queued = f_.cublasLtMatmul(handle_, operation.value, &alpha, w, a.value, x, b.value,
                                       &beta, out, d.value, out, d.value, way.heuristic.algorithm,
                                       workspace_, workspace_bytes_, launcher.stream()) == 0;
          },
          true);
      return queued;
    };
    // What it finds best holds for numbers of rows nearby.
    const int64_t step = rows <= 1024 ? 64 : 512, near = ceil_div(rows, step) * step;
    Way* way = find(operation, a, near, n, k, ldx, ldw, ldo, out_type, bias != nullptr);
    if (way != nullptr && run(*way)) return true;
    way = find(operation, a, rows, n, k, ldx, ldw, ldo, out_type, bias != nullptr);
    return way != nullptr && run(*way);
  }

 private:
  struct Way {
    Heuristic heuristic;
    bool has_run = false;
  };
  using Key = std::tuple<int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int, bool>;

  template <typename T>
  bool set(const Object& operation, int attribute, const T& value) {
    return f_.cublasLtMatmulDescSetAttribute(operation.value, attribute, &value, sizeof(value)) ==
           0;
  }
  bool layout(Object& object, int type, int64_t rows, int64_t columns, int64_t ld) {
    return f_.cublasLtMatrixLayoutCreate(&object.value, type, static_cast<uint64_t>(rows),
                                         static_cast<uint64_t>(columns), ld) == 0;
  }
  // Null when it has none.
  Way* find(const Object& operation, const Object& a, int64_t rows, int64_t n, int64_t k,
            int64_t ldx, int64_t ldw, int64_t ldo, int out_type, bool bias) {
    const auto [at, is_new] = ways_.try_emplace(Key{rows, n, k, ldx, ldw, ldo, out_type, bias});
    Way& way = at->second;
    if (!is_new) return way.heuristic.status == 0 ? &way : nullptr;
    way.heuristic.status = 1;
    Object preference(f_.cublasLtMatmulPreferenceDestroy), b(f_.cublasLtMatrixLayoutDestroy),
        d(f_.cublasLtMatrixLayoutDestroy);
    bool made =
        f_.cublasLtMatmulPreferenceCreate(&preference.value) == 0 &&
        layout(b, kTypeBF16, k, rows, ldx) && layout(d, out_type, n, rows, ldo) &&
        f_.cublasLtMatmulPreferenceSetAttribute(preference.value, kMaxWorkspaceBytes,
                                                &workspace_bytes_, sizeof(workspace_bytes_)) == 0;
    const uint32_t alignment = 16;
    for (int i = 0; i < 4 && made; ++i) {
      made = f_.cublasLtMatmulPreferenceSetAttribute(preference.value, kMinAlignmentA + i,
                                                     &alignment, sizeof(alignment)) == 0;
    }
    Heuristic best{};
    int found = 0;
    if (made &&
        f_.cublasLtMatmulAlgoGetHeuristic(handle_, operation.value, a.value, b.value, d.value,
                                          d.value, preference.value, 1, &best, &found) == 0 &&
        found > 0 && best.status == 0) {
      way.heuristic = best;
    } else {
      log_debug("cublasLt: no way for {} x {} x {}", rows, n, k);
    }
    return way.heuristic.status == 0 ? &way : nullptr;
  }

  Functions f_;
  void* handle_;
  void* workspace_;
  size_t workspace_bytes_;
  std::map<Key, Way> ways_;
};

}  // namespace

std::unique_ptr<CublasLt> CublasLt::open(void* workspace, int64_t workspace_bytes) {
  // By name first: a process that has the library already (PyTorch's) gets that one. Then where
  // CUDA's own installer puts it without telling the loader.
  for (const char* name :
       {"libcublasLt.so.13", "libcublasLt.so.12", "/usr/local/cuda/lib64/libcublasLt.so.13",
        "/usr/local/cuda/targets/x86_64-linux/lib/libcublasLt.so.13",
        "/usr/local/cuda/targets/sbsa-linux/lib/libcublasLt.so.13",
        "/usr/local/cuda/lib64/libcublasLt.so.12"}) {
    void* library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) continue;
    Functions functions;
    void* handle = nullptr;
    if (load(library, functions) && functions.cublasLtCreate(&handle) == 0) {
      return std::make_unique<Library>(functions, handle, workspace, workspace_bytes);
    }
    log_debug("cublasLt: {} is there but does not start", name);
    dlclose(library);
  }
  return nullptr;
}

}  // namespace videre::cuda
#endif
