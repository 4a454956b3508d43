// Which Mamba state slots are free. A sequence holds one from admission to its end or preemption.
// Slot 0 is padding's and never given.
#pragma once

#include <cstdint>
#include <vector>

#include "backend/step.h"
#include "base/check.h"

namespace videre {

class StateSlots {
 public:
  /// `num_slots` counts the padding slot.
  explicit StateSlots(int64_t num_slots) : taken_(num_slots, false) {
    for (int64_t slot = num_slots - 1; slot > kPadSlot; --slot) {
      free_.push_back(static_cast<int32_t>(slot));
    }
  }

  int64_t num_total() const { return static_cast<int64_t>(taken_.size()) - 1; }
  int64_t num_free() const { return static_cast<int64_t>(free_.size()); }

  int32_t take() {
    VIDERE_CHECK(!free_.empty());
    const int32_t slot = free_.back();
    free_.pop_back();
    taken_[slot] = true;
    return slot;
  }
  void give_back(int32_t slot) {
    VIDERE_CHECK(taken_[slot]) << "slot " << slot;
    taken_[slot] = false;
    free_.push_back(slot);
  }

 private:
  std::vector<bool> taken_;
  std::vector<int32_t> free_;
};

}  // namespace videre
