#include "engine/encoder_cache.h"

#include <algorithm>

namespace videre {

EncodedItem* EncoderCache::hold(const MediaSpan& span) {
  const std::string& key = span.media.content_key;
  const auto found = items_.find(key);
  if (found != items_.end()) {
    EncodedItem* item = found->second.get();
    if (item->num_holders++ == 0) idle_items_.remove(item);
    ++num_queries_;
    ++num_hits_;
    return item;
  }
  int64_t row_begin = 0;
  if (!make_room(span.num_rows, row_begin)) return nullptr;
  ++num_queries_;
  auto item = std::make_unique<EncodedItem>();
  item->key = key;
  item->row_begin = row_begin;
  item->num_rows = span.num_rows;
  item->tiles = span.media.tiles;
  item->num_tiles = span.media.tiles->num_tiles;
  item->pruned = span.media.pruning_rate > 0;
  item->num_holders = 1;
  EncodedItem* raw = item.get();
  items_.emplace(key, std::move(item));
  queue_.push_back(raw);
  return raw;
}

void EncoderCache::release(EncodedItem* item) {
  VIDERE_CHECK_GT(item->num_holders, 0);
  if (--item->num_holders > 0) return;
  if (item->ready) {
    idle_items_.push_back(item);
    return;
  }
  std::erase(queue_, item);
  items_.erase(items_.find(item->key));
}

void EncoderCache::forget_idle() {
  for (const EncodedItem* item : idle_items_) items_.erase(items_.find(item->key));
  idle_items_.clear();
}

std::vector<EncodeSlice> EncoderCache::next_slices(int max_tiles) {
  std::vector<EncodeSlice> slices;
  while (max_tiles > 0 && !queue_.empty()) {
    EncodedItem* item = queue_.front();
    const int end = std::min(item->num_tiles, item->next_tile + max_tiles);
    slices.push_back({item, item->next_tile, end});
    max_tiles -= end - item->next_tile;
    item->next_tile = end;
    if (end == item->num_tiles) queue_.pop_front();
  }
  return slices;
}

int64_t EncoderCache::num_held_rows() const {
  int64_t rows = 0;
  for (const auto& [key, item] : items_) {
    if (item->num_holders > 0) rows += item->num_rows;
  }
  return rows;
}

// First gap that fits; items that nobody holds make way, the longest idle first.
bool EncoderCache::make_room(int64_t num_rows, int64_t& row_begin) {
  for (;;) {
    std::vector<const EncodedItem*> placed;
    for (const auto& [key, item] : items_) placed.push_back(item.get());
    std::sort(placed.begin(), placed.end(), [](const EncodedItem* a, const EncodedItem* b) {
      return a->row_begin < b->row_begin;
    });
    int64_t at = 0;
    for (const EncodedItem* item : placed) {
      if (item->row_begin - at >= num_rows) break;
      at = item->row_begin + item->num_rows;
    }
    if (num_rows_ - at >= num_rows) {
      row_begin = at;
      return true;
    }
    if (idle_items_.empty()) return false;
    EncodedItem* oldest = idle_items_.front();
    idle_items_.pop_front();
    items_.erase(items_.find(oldest->key));
  }
}

}  // namespace videre
