// Rows that the vision tower made, keyed by content, in one arena of fixed size: which rows belong
// to which picture or clip, who still needs them, and which items wait to be encoded. Items that
// nobody needs stay until their room is wanted. Books only; the runner computes the rows.
#pragma once

#include <cstdint>
#include <deque>
#include <list>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "model/evs.h"
#include "prompt/prompt.h"

namespace videre {

/// One picture's or clip's rows. Owned by the cache; sequences hold it while they need it.
struct EncodedItem {
  std::string key;
  int64_t row_begin = 0, num_rows = 0;  // in the arena
  bool ready = false;
  std::vector<int64_t> rows_per_frame;  // clips, once ready
  std::vector<int32_t> order;           // where the i-th row lies among them; empty: at i

  // While it is being encoded.
  std::shared_ptr<const PixelTiles> tiles;
  int num_tiles = 0, next_tile = 0;
  bool pruned = false;                    // a clip whose rows EVS chooses
  std::unique_ptr<EvsSelector> selector;  // the runner's

  int num_holders = 0;

  /// Where the i-th row in order lies, counted from `row_begin`.
  int32_t row(int32_t i) const { return order.empty() ? i : order[i]; }
};

/// Tiles [begin, end) of an item, to be encoded in one step.
struct EncodeSlice {
  EncodedItem* item = nullptr;
  int begin = 0, end = 0;
};

class EncoderCache {
 public:
  explicit EncoderCache(int64_t num_rows) : num_rows_(num_rows) {}

  /// Holds the rows of `span`, which are found, or get room and a place in the queue. Null when
  /// there is no room now.
  EncodedItem* hold(const MediaSpan& span);
  /// The holder has no more need. An item that was never finished and has no holder is dropped.
  void release(EncodedItem* item);
  /// Drops what nobody holds.
  void forget_idle();
  /// Up to `max_tiles` tiles of work from the queue, in order.
  std::vector<EncodeSlice> next_slices(int max_tiles);

  int64_t num_rows() const { return num_rows_; }
  int64_t num_queries() const { return num_queries_; }
  int64_t num_hits() const { return num_hits_; }
  int64_t num_held_rows() const;
  bool idle() const { return queue_.empty(); }

 private:
  bool make_room(int64_t num_rows, int64_t& row_begin);

  int64_t num_rows_;
  std::map<std::string, std::unique_ptr<EncodedItem>> items_;
  std::list<EncodedItem*> idle_items_;  // no holder; the longest idle first
  std::deque<EncodedItem*> queue_;      // not yet wholly handed out
  int64_t num_queries_ = 0, num_hits_ = 0;
};

}  // namespace videre
