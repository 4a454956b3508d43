#include "engine/sequence_cache.h"

namespace videre {

bool SequenceCache::reserve(SequenceMemory& memory) {
  VIDERE_CHECK(!memory.held());
  if (slots_.num_free() == 0) return false;
  memory.slot = slots_.take();
  return true;
}

bool SequenceCache::grow(SequenceMemory& memory, int64_t num_tokens) {
  const int64_t missing = blocks_for(num_tokens) - static_cast<int64_t>(memory.blocks.size());
  if (missing > blocks_.num_free()) return false;
  for (int64_t i = 0; i < missing; ++i) memory.blocks.push_back(blocks_.take());
  return true;
}

bool SequenceCache::fork(const SequenceMemory& parent, int64_t num_tokens, SequenceMemory& child,
                         std::optional<BlockCopy>& copy) {
  VIDERE_CHECK(!child.held());
  const int64_t num_full = num_tokens / block_size_;
  const bool partial = num_tokens % block_size_ != 0;
  if (slots_.num_free() == 0 || (partial && blocks_.num_free() == 0)) return false;
  child.slot = slots_.take();
  for (int64_t i = 0; i < num_full; ++i) {
    blocks_.share(parent.blocks[i]);
    child.blocks.push_back(parent.blocks[i]);
  }
  copy.reset();
  if (partial) {
    child.blocks.push_back(blocks_.take());
    copy = BlockCopy{parent.blocks[num_full], child.blocks.back()};
  }
  return true;
}

void SequenceCache::release(SequenceMemory& memory) {
  for (const int32_t block : memory.blocks) blocks_.give_back(block);
  memory.blocks.clear();
  if (memory.held()) slots_.give_back(memory.slot);
  memory.slot = kNoSlot;
}

}  // namespace videre
