// Which KV blocks are free, and how many sequences read each. Block 0 is padding's and never given.
#pragma once

#include <cstdint>
#include <vector>

#include "backend/step.h"
#include "base/check.h"

namespace videre {

class KvBlocks {
 public:
  /// `num_blocks` counts the padding block.
  explicit KvBlocks(int64_t num_blocks) : readers_(num_blocks, 0) {
    for (int64_t block = num_blocks - 1; block > kPadSlot; --block) {
      free_.push_back(static_cast<int32_t>(block));
    }
  }

  int64_t num_total() const { return static_cast<int64_t>(readers_.size()) - 1; }
  int64_t num_free() const { return static_cast<int64_t>(free_.size()); }

  /// A block of one reader. Ask num_free() first.
  int32_t take() {
    VIDERE_CHECK(!free_.empty());
    const int32_t block = free_.back();
    free_.pop_back();
    readers_[block] = 1;
    return block;
  }
  /// One more reader of a block that is full, so that nobody writes it any more.
  void share(int32_t block) {
    VIDERE_CHECK_GT(readers_[block], 0);
    ++readers_[block];
  }
  void give_back(int32_t block) {
    VIDERE_CHECK_GT(readers_[block], 0);
    if (--readers_[block] == 0) free_.push_back(block);
  }

 private:
  std::vector<int32_t> readers_;  // [num_blocks]
  std::vector<int32_t> free_;     // the last given back is the next taken
};

}  // namespace videre
