// A sequence's memory on the device, both kinds behind one reserve, grow, fork and release: KV
// blocks by the token, one Mamba state slot. Books only: the bytes lie in LanguageCaches.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "engine/kv_blocks.h"
#include "engine/state_slots.h"

namespace videre {

struct SequenceMemory {
  int32_t slot = kNoSlot;
  std::vector<int32_t> blocks;  // in order of position

  bool held() const { return slot != kNoSlot; }
};

/// A KV block whose content a fork needs to itself.
struct BlockCopy {
  int32_t from = 0, to = 0;
};

class SequenceCache {
 public:
  /// Counts include the padding block and slot.
  SequenceCache(int64_t num_blocks, int block_size, int64_t num_slots)
      : blocks_(num_blocks), slots_(num_slots), block_size_(block_size) {}

  int64_t blocks_for(int64_t num_tokens) const {
    return (num_tokens + block_size_ - 1) / block_size_;
  }
  int block_size() const { return block_size_; }
  const KvBlocks& blocks() const { return blocks_; }
  const StateSlots& slots() const { return slots_; }

  /// Takes a state slot for a sequence that has none; false when there is no free one.
  bool reserve(SequenceMemory& memory);
  /// Blocks for `num_tokens` tokens in all; takes nothing and returns false when they do not
  /// suffice.
  bool grow(SequenceMemory& memory, int64_t num_tokens);
  /// Memory for a copy of `parent` after `num_tokens` tokens: full blocks are shared, a partly
  /// filled last one is copied (`copy`), the state goes to a slot of its own. False, and nothing
  /// taken, when there is no room.
  bool fork(const SequenceMemory& parent, int64_t num_tokens, SequenceMemory& child,
            std::optional<BlockCopy>& copy);
  void release(SequenceMemory& memory);

 private:
  KvBlocks blocks_;
  StateSlots slots_;
  int block_size_;
};

}  // namespace videre
