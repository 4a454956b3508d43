// Linked into test programs of a CUDA build: all that `new` gives comes from memory that the card
// can read too, so that the op tests hand a GPU the same host views that they hand the CPU. Without
// a card it is plain memory.
#include <cuda_runtime_api.h>

#include <cstdlib>
#include <mutex>
#include <new>

namespace {

constexpr size_t kArenaBytes = size_t{3} << 30, kLeast = 64;

// Blocks of powers of two from one pinned region, with a free list a size.
struct Arena {
  char* begin = nullptr;
  size_t used = 0;
  void* free_blocks[48] = {};
  std::mutex mutex;
};

Arena* arena() {
  static Arena* const instance = [] {
    auto* made = new (std::malloc(sizeof(Arena))) Arena;
    void* memory = nullptr;
    if (cudaHostAlloc(&memory, kArenaBytes, cudaHostAllocPortable) == cudaSuccess) {
      made->begin = static_cast<char*>(memory);
    }
    return made;
  }();
  return instance;
}

thread_local bool opening = false;  // the CUDA library itself may call `new`

int size_class(size_t bytes) {
  int index = 6;
  while ((size_t{1} << index) < bytes) ++index;
  return index;
}

void* take(size_t bytes, size_t alignment) {
  if (!opening) {
    opening = true;
    Arena* const from = arena();
    opening = false;
    if (from->begin != nullptr) {
      const int index = size_class(bytes < kLeast ? kLeast : bytes);
      const size_t size = size_t{1} << index;
      const std::lock_guard lock(from->mutex);
      if (void* block = from->free_blocks[index]) {
        from->free_blocks[index] = *static_cast<void**>(block);
        return block;
      }
      if (from->used + size <= kArenaBytes) {
        void* block = from->begin + from->used;
        from->used += size;
        return block;
      }
    }
  }
  void* memory =
      std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment + alignment);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}

void give(void* memory, size_t bytes) noexcept {
  if (memory == nullptr) return;
  Arena* const to = opening ? nullptr : arena();
  if (to == nullptr || to->begin == nullptr || memory < to->begin ||
      memory >= to->begin + kArenaBytes) {
    return std::free(memory);
  }
  const int index = size_class(bytes);
  const std::lock_guard lock(to->mutex);
  *static_cast<void**>(memory) = to->free_blocks[index];
  to->free_blocks[index] = memory;
}

// A block's size stands in front of it, in a line of its own.
void* take_sized(size_t bytes, size_t alignment) {
  const size_t head = alignment < kLeast ? kLeast : alignment;
  char* const block = static_cast<char*>(take(bytes + head, head));
  *reinterpret_cast<size_t*>(block + head - 16) = bytes + head;
  *reinterpret_cast<size_t*>(block + head - 8) = head;
  return block + head;
}
void give_sized(void* memory) noexcept {
  if (memory == nullptr) return;
  char* const at = static_cast<char*>(memory);
  const size_t bytes = *reinterpret_cast<size_t*>(at - 16),
               head = *reinterpret_cast<size_t*>(at - 8);
  give(at - head, bytes);
}

}  // namespace

void* operator new(size_t bytes) { return take_sized(bytes, kLeast); }
void* operator new[](size_t bytes) { return take_sized(bytes, kLeast); }
void* operator new(size_t bytes, std::align_val_t alignment) {
  return take_sized(bytes, static_cast<size_t>(alignment));
}
void* operator new[](size_t bytes, std::align_val_t alignment) {
  return take_sized(bytes, static_cast<size_t>(alignment));
}
void operator delete(void* memory) noexcept { give_sized(memory); }
void operator delete[](void* memory) noexcept { give_sized(memory); }
void operator delete(void* memory, size_t) noexcept { give_sized(memory); }
void operator delete[](void* memory, size_t) noexcept { give_sized(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { give_sized(memory); }
void operator delete[](void* memory, std::align_val_t) noexcept { give_sized(memory); }
void operator delete(void* memory, size_t, std::align_val_t) noexcept { give_sized(memory); }
void operator delete[](void* memory, size_t, std::align_val_t) noexcept { give_sized(memory); }
