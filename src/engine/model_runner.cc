#include "engine/model_runner.h"

#include <algorithm>
#include <bit>
#include <stdexcept>

#include "base/log.h"

namespace videre {
namespace {

// Sizes that decode steps are padded to: few enough to record them all, close enough to waste
// little.
int64_t decode_bucket(int64_t count, int64_t most) {
  int64_t step = 1;
  if (count > 256) {
    step = 32;
  } else if (count > 64) {
    step = 16;
  } else if (count > 8) {
    step = 8;
  } else {
    step = static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(count)));
  }
  return std::min(most, (count + step - 1) / step * step);
}

constexpr int64_t kMaxRecordedRows = 512;

// Prompts' lengths as the device's linears tell them apart: whole 512s, below 1,024 whole 64s, and
// few.
int64_t previous_length(int64_t length) {
  const int64_t step = length > 1024 ? 512 : 64;
  return length > 64 ? (length - 1) / step * step : length / 2;
}

int64_t blocks_of(const RunnerOptions& options) {
  return (options.max_model_len + options.cache.block_size - 1) / options.cache.block_size;
}

// token_ids, media_rows | cu_seqlens, context_lens, read_slots, write_slots, logit_rows, 3 x emits
int64_t array_ints(const RunnerOptions& options) {
  return 2 * options.max_num_batched_tokens + 8 * (options.max_num_seqs + 1);
}

int64_t arena_rows(const RunnerOptions& options) {
  return std::max<int64_t>(1, options.encoder_rows);
}

}  // namespace

int64_t runner_bytes(const NemotronVl& model, const RunnerOptions& options) {
  const Config& config = model.config();
  const int64_t size = static_cast<int64_t>(dtype_size(model.dtype())),
                hidden = config.llm.hidden_size;
  int64_t bytes = model.language().workspace_bytes(model.dtype(), options.max_num_batched_tokens,
                                                   options.max_num_seqs);
  bytes += 4 * (2 * options.max_num_seqs * config.llm.vocab_size + array_ints(options) +
                options.max_num_seqs * blocks_of(options) + options.cache.num_slots);
  bytes += (arena_rows(options) - options.encoder_rows) * hidden * size;
  if (model.has_vision()) {
    const int64_t tiles = options.max_tiles, side = config.force_image_size;
    bytes += model.vision().workspace_bytes(tiles) -
             std::min(model.vision().scratch_bytes(tiles),
                      model.language().mixer_bytes(model.dtype(), options.max_num_batched_tokens)) +
             tiles * 3 * side * side + tiles * config.tokens_per_tile() * hidden * size +
             evs_workspace_bytes(config.tokens_per_tile(), hidden, model.dtype(), tiles,
                                 arena_rows(options));
  }
  return bytes;
}

ModelRunner::ModelRunner(Backend& backend, const NemotronVl& model, const RunnerOptions& options)
    : be_(backend), model_(model), options_(options) {
  const LanguageModel& language = model.language();
  const Config& config = model.config();
  const int64_t hidden = config.llm.hidden_size;
  caches_ = language.make_caches(be_, options_.cache);
  const int64_t max_tokens = options_.max_num_batched_tokens, max_seqs = options_.max_num_seqs;
  scratch_ = be_.allocate(
      DType::kU8,
      Shape{std::max(language.mixer_bytes(model.dtype(), max_tokens),
                     model.has_vision() ? model.vision().scratch_bytes(options_.max_tiles) : 0)});
  workspace_ = language.make_workspace(be_, model.dtype(), max_tokens, max_seqs, scratch_);
  logits_ = be_.allocate(DType::kF32, Shape{max_seqs, config.llm.vocab_size});
  raw_logits_ = be_.allocate(DType::kF32, Shape{max_seqs, config.llm.vocab_size});
  device_arrays_ = be_.allocate(DType::kI32, Shape{array_ints(options_)});
  device_tables_ = be_.allocate(DType::kI32, Shape{max_seqs, blocks_of(options_)});
  arena_ = be_.allocate(model.dtype(), Shape{arena_rows(options_), hidden});
  if (model.has_vision()) {
    const int64_t side = config.force_image_size;
    vision_workspace_ = model.vision().make_workspace(
        be_, options_.max_tiles, config.force_image_size, config.force_image_size, scratch_);
    slice_rgb_ = be_.allocate(DType::kU8, Shape{options_.max_tiles, 3, side, side});
    slice_rows_ =
        be_.allocate(model.dtype(), Shape{options_.max_tiles * config.tokens_per_tile(), hidden});
    evs_workspace_ = make_evs_workspace(be_, config.tokens_per_tile(), hidden, model.dtype(),
                                        options_.max_tiles, arena_.view().dim(0));
  }
}

void ModelRunner::launch(const StepPlan& plan) {
  for (const EncodeSlice& slice : plan.encodes) encode(slice);
  Launched launched;
  if (!plan.rows.empty()) run_rows(plan, launched);
  launched.ticket = be_.submit();
  launched_.push_back(std::move(launched));
}

std::vector<SampledToken> ModelRunner::collect() {
  VIDERE_CHECK(!launched_.empty());
  Launched launched = std::move(launched_.front());
  launched_.pop_front();
  be_.wait(launched.ticket);
  // A device that has failed computes nothing any more: the loop ends every request and itself.
  if (const Status health = be_.health(); !health.ok()) {
    throw std::runtime_error(health.error().message);
  }
  return std::move(launched.tokens);
}

// A slice of tiles through tower and projector: straight to the item's rows, or, for a clip that is
// thinned out, past the selector, which keeps the best so far there.
void ModelRunner::encode(const EncodeSlice& slice) {
  EncodedItem& item = *slice.item;
  const Config& config = model_.config();
  const int64_t tokens = config.tokens_per_tile(), count = slice.end - slice.begin;
  const int64_t tile_bytes = 3LL * item.tiles->tile_size * item.tiles->tile_size;
  VIDERE_CHECK_EQ(item.tiles->tile_size, config.force_image_size);
  VIDERE_CHECK_LE(count, options_.max_tiles);
  const View rgb = slice_rgb_.view().rows(0, count);
  be_.upload(rgb, item.tiles->data.data() + slice.begin * tile_bytes);
  const View item_rows = arena_.view().rows(item.row_begin, item.row_begin + item.num_rows);
  const View out = item.pruned ? slice_rows_.view().rows(0, count * tokens)
                               : item_rows.rows(slice.begin * tokens, slice.end * tokens);
  model_.vision().encode_tiles(be_, rgb, vision_workspace_, out);
  const bool last = slice.end == item.num_tiles;
  if (item.pruned) {
    if (!item.selector) {
      item.selector =
          std::make_unique<EvsSelector>(be_, evs_workspace_, item_rows, item.num_tiles,
                                        static_cast<int>(tokens), model_.evs_arithmetic());
    }
    item.selector->add_frames(out);
    if (last) {
      item.order = item.selector->finish();
      item.rows_per_frame = item.selector->rows_per_frame();
      if (be_.observing()) {
        const auto& scores = item.selector->dissimilarities();
        const std::vector<uint8_t> mask = item.selector->mask();
        const Shape shape{static_cast<int64_t>(mask.size())};
        be_.observe("evs.dissimilarity", ConstView(scores.data(), DType::kF32, shape));
        be_.observe("evs.mask", ConstView(mask.data(), DType::kU8, shape));
      }
      item.selector.reset();
    }
  } else if (last) {
    item.rows_per_frame.assign(item.num_tiles, tokens);
  }
  if (last) {
    item.ready = true;
    item.tiles.reset();
  }
}

// The arrays of the plan's rows, without padding.
void ModelRunner::fill_arrays(const StepPlan& plan) {
  StepArrays& host = arrays_;
  for (auto* array : {&host.token_ids, &host.media_rows, &host.cu_seqlens, &host.context_lens,
                      &host.read_slots, &host.write_slots, &host.block_tables, &host.logit_rows,
                      &host.emit_seqs, &host.emit_rows, &host.emit_slots}) {
    array->clear();
  }
  host.cu_seqlens.push_back(0);
  for (size_t i = 0; i < plan.rows.size(); ++i) {
    const BatchRow& row = plan.rows[i];
    const Sequence& sequence = *row.sequence;
    const int64_t known = static_cast<int64_t>(sequence.tokens.size());
    for (int64_t at = row.begin; at < row.begin + row.count; ++at) {
      // A token that is still on the device is named by the slot whose last one it is.
      host.token_ids.push_back(at < known ? sequence.tokens[at] : -1 - sequence.memory.slot);
    }
    host.media_rows.resize(host.token_ids.size(), -1);
    for (const SpanProgress& progress : sequence.spans) {
      const int64_t begin = std::max(row.begin, progress.span->begin);
      const int64_t end =
          std::min(row.begin + row.count, progress.span->begin + progress.span->length);
      for (int64_t at = begin; at < end; ++at) {
        const int32_t media_row = progress.row_of[at - progress.span->begin];
        if (media_row < 0) continue;
        host.media_rows[host.cu_seqlens.back() + at - row.begin] =
            static_cast<int32_t>(progress.item->row_begin) + media_row;
      }
    }
    host.cu_seqlens.push_back(static_cast<int32_t>(host.token_ids.size()));
    host.context_lens.push_back(static_cast<int32_t>(row.begin));
    host.read_slots.push_back(row.begin == 0 ? kNoSlot : sequence.memory.slot);
    host.write_slots.push_back(sequence.memory.slot);
    for (const auto& fork : row.forks) {
      host.emit_seqs.push_back(static_cast<int32_t>(i));
      host.emit_rows.push_back(static_cast<int32_t>(row.count - 1));
      host.emit_slots.push_back(fork->memory.slot);
    }
    if (row.sample) {
      host.logit_rows.insert(host.logit_rows.end(), 1 + row.forks.size(),
                             host.cu_seqlens.back() - 1);
    }
  }
}

// Sends the arrays and runs the model over them. Returns the logits [num_logits, vocab].
View ModelRunner::run_arrays(int64_t num_logits, bool has_media, StepWay way) {
  StepArrays& host = arrays_;
  host.packed.clear();
  const int32_t* device = device_arrays_.view().data<int32_t>();
  const auto place = [&](const std::vector<int32_t>& array) {
    const int32_t* at = device + host.packed.size();
    host.packed.insert(host.packed.end(), array.begin(), array.end());
    return at;
  };
  const auto view = [](const int32_t* at, size_t size) {
    return ConstView(at, DType::kI32, Shape{static_cast<int64_t>(size)});
  };
  StepView step;
  step.num_tokens = static_cast<int>(host.token_ids.size());
  step.num_seqs = static_cast<int>(host.context_lens.size());
  LanguageInput input;
  input.token_ids = view(place(host.token_ids), host.token_ids.size());
  input.media_rows = view(place(host.media_rows), host.media_rows.size());
  input.media_arena = arena_;
  input.has_media = has_media;
  step.cu_seqlens = place(host.cu_seqlens);
  step.context_lens = place(host.context_lens);
  step.read_slots = place(host.read_slots);
  step.write_slots = place(host.write_slots);
  const ConstView logit_rows = view(place(host.logit_rows), host.logit_rows.size());
  step.num_emits = static_cast<int>(host.emit_seqs.size());
  step.emit_seqs = place(host.emit_seqs);
  step.emit_rows = place(host.emit_rows);
  step.emit_slots = place(host.emit_slots);
  step.block_tables = device_tables_.view().data<int32_t>();
  step.max_blocks = static_cast<int>(device_tables_.view().dim(1));
  const int64_t width = std::ssize(host.block_tables) / std::max(1, step.num_seqs);
  be_.upload(device_tables_.view().rows(0, step.num_seqs).slice(1, 0, width),
             host.block_tables.data());
  be_.upload(device_arrays_.view().slice(0, 0, static_cast<int64_t>(host.packed.size())),
             host.packed.data());

  const View logits = logits_.view().rows(0, num_logits);
  const LanguageModel& language = model_.language();
  // What a recorded step depends on besides the arrays' contents.
  const uint64_t key = way == StepWay::kPlain ? 0 : 1 | static_cast<uint64_t>(step.num_tokens) << 1;
  const auto ops = [&] {
    language.forward(be_, step, input, caches_, workspace_);
    if (num_logits > 0) language.logits(be_, logit_rows, workspace_, logits);
  };
  if (way == StepWay::kRehearse) {
    be_.rehearse(ops);
  } else if (way == StepWay::kRecord) {
    be_.record_step(key, ops);
  } else {
    be_.run_step(key, ops);
  }
  return logits;
}

// `num_seqs` sequences of `length` rows each, all of them in padding's slot and block.
void ModelRunner::warm_up_step(int64_t num_seqs, int64_t length, StepWay way) {
  StepArrays& host = arrays_;
  fill_arrays({});
  const int64_t tokens = num_seqs * length;
  host.token_ids.assign(tokens, 0);
  host.media_rows.assign(tokens, -1);
  for (int64_t i = 0; i < num_seqs; ++i) {
    host.cu_seqlens.push_back(static_cast<int32_t>((i + 1) * length));
  }
  host.context_lens.assign(num_seqs, 0);
  host.read_slots.assign(num_seqs, kNoSlot);
  host.write_slots.assign(num_seqs, kPadSlot);
  const int64_t width = (length + options_.cache.block_size - 1) / options_.cache.block_size;
  host.block_tables.assign(num_seqs * width, kPadSlot);
  host.logit_rows.assign(num_seqs, 0);
  run_arrays(num_seqs, way == StepWay::kRehearse && length > 1, way);
  be_.wait(be_.submit());
}

void ModelRunner::warm_up() {
  const int64_t most_tokens = std::min(options_.max_num_batched_tokens, options_.max_model_len);
  const int64_t most_rows = std::min(options_.max_num_seqs, options_.max_num_batched_tokens);
  std::vector<int64_t> sizes;  // of recorded steps
  for (int64_t rows = 1; options_.pad_steps && rows <= std::min(most_rows, kMaxRecordedRows);) {
    sizes.push_back(decode_bucket(rows, options_.max_num_seqs));
    rows = sizes.back() + 1;
  }
  // The largest first: scratch grows once. Linears have other kernels for other numbers of rows.
  for (int64_t length = most_tokens; length > 0; length = previous_length(length)) {
    warm_up_step(1, length, StepWay::kRehearse);
  }
  warm_up_step(most_rows, 1, StepWay::kRehearse);
  for (const int64_t rows : sizes) warm_up_step(rows, 1, StepWay::kRehearse);
  log_debug("start: every size of step is rehearsed");
  // What loading alone does not show.
  warm_up_step(1, std::min<int64_t>(most_tokens, 256), StepWay::kPlain);
  warm_up_step(most_rows, 1, StepWay::kPlain);
  warm_up_vision();
  warm_up_sampling();
  log_debug("start: a step of each kind has run");
  for (const int64_t rows : sizes) warm_up_step(rows, 1, StepWay::kRecord);
  log_debug("start: {} sizes of decode steps are recorded", sizes.size());
}

void ModelRunner::warm_up_vision() {
  if (!model_.has_vision()) return;
  const int64_t tokens = model_.config().tokens_per_tile();
  const auto encode_tiles = [&](int64_t tiles) {
    model_.vision().encode_tiles(be_, slice_rgb_.view().rows(0, tiles), vision_workspace_,
                                 slice_rows_.view().rows(0, tiles * tokens));
  };
  for (int64_t tiles = options_.max_tiles; tiles > 0; --tiles) {
    be_.rehearse([&] { encode_tiles(tiles); });
  }
  encode_tiles(1);
  if (tokens <= arena_.view().dim(0)) {  // clips fit
    EvsSelector selector(be_, evs_workspace_, arena_.view().rows(0, tokens), 1,
                         static_cast<int>(tokens), model_.evs_arithmetic());
    selector.add_frames(slice_rows_.view().rows(0, tokens));
    selector.finish();
  }
  be_.wait(be_.submit());
}

// Over the logits of the largest decode step: every kernel, and scratch for as many rows.
void ModelRunner::warm_up_sampling() {
  const View logits = logits_, raw = raw_logits_;
  be_.copy(raw, logits);
  const std::vector<LogitEdit> edits{{0, 0, 0.0f, false}};
  const std::vector<TokenCount> counts{{0, 0}};
  const std::vector<PenaltyRow> penalties{{0, 1.0f, 0.0f, 0.0f, counts}};
  be_.edit_logits(logits, edits);
  be_.penalize(logits, penalties);
  const int64_t num_rows = logits.dim(0);
  const auto vocab = static_cast<int32_t>(logits.dim(1));
  for (const int64_t rows_at_once : {int64_t{1}, num_rows}) {
    for (const bool cuts : {false, true}) {
      std::vector<SampleRow> rows(rows_at_once);
      for (int32_t i = 0; i < rows_at_once; ++i) {
        rows[i].row = i;
        rows[i].slot = kPadSlot;
        rows[i].temperature = 1;
        rows[i].top_k = cuts ? std::min(50, vocab) : 0;
        rows[i].top_p = cuts ? 0.9f : 1.0f;
        rows[i].num_logprobs = cuts ? std::min(20, vocab) : -1;
      }
      std::vector<SampledToken> tokens(rows_at_once);
      be_.sample(logits, raw, rows, caches_.last_tokens, tokens);
      be_.wait(be_.submit());  // `tokens` are written in here
    }
  }
}

void ModelRunner::run_rows(const StepPlan& plan, Launched& launched) {
  fill_arrays(plan);
  StepArrays& host = arrays_;
  const std::vector<std::shared_ptr<Sequence>> sampled = sampled_sequences(plan);
  VIDERE_CHECK_EQ(sampled.size(), host.logit_rows.size());
  const bool has_media = std::any_of(host.media_rows.begin(), host.media_rows.end(),
                                     [](int32_t row) { return row >= 0; });
  const int64_t num_rows = static_cast<int64_t>(plan.rows.size());
  const bool decode = host.token_ids.size() == plan.rows.size() &&
                      sampled.size() == plan.rows.size() && !has_media && host.emit_seqs.empty() &&
                      num_rows <= kMaxRecordedRows;
  const bool padded = options_.pad_steps && decode;
  int64_t num_seqs = num_rows, widest = 1;
  for (const BatchRow& row : plan.rows) {
    widest = std::max(widest, static_cast<int64_t>(row.sequence->memory.blocks.size()));
  }
  if (padded) {  // what is past the real rows belongs to padding: sequences without rows
    num_seqs = decode_bucket(num_rows, options_.max_num_seqs);
    host.token_ids.resize(num_seqs, 0);
    host.media_rows.resize(num_seqs, -1);
    host.cu_seqlens.resize(num_seqs + 1, host.cu_seqlens.back());
    host.context_lens.resize(num_seqs, 0);
    host.read_slots.resize(num_seqs, kNoSlot);
    host.write_slots.resize(num_seqs, kPadSlot);
    host.logit_rows.resize(num_seqs, -1);
  }
  host.block_tables.resize(num_seqs * widest, kPadSlot);
  for (size_t i = 0; i < plan.rows.size(); ++i) {
    const auto& blocks = plan.rows[i].sequence->memory.blocks;
    std::copy(blocks.begin(), blocks.end(),
              host.block_tables.begin() + static_cast<int64_t>(i) * widest);
  }
  const View logits = run_arrays(static_cast<int64_t>(host.logit_rows.size()), has_media,
                                 padded ? StepWay::kPadded : StepWay::kPlain);
  for (const BlockCopy& copy : plan.block_copies) copy_block(copy);
  if (sampled.empty()) return;

  build_sampling(sampled, model_.config().llm.vocab_size, sampling_);
  ConstView raw = logits;
  if (sampling_.keep_raw) {
    const View kept = raw_logits_.view().rows(0, logits.dim(0));
    be_.copy(kept, logits);
    raw = kept;
  }
  if (!sampling_.edits.empty()) be_.edit_logits(logits, sampling_.edits);
  if (!sampling_.penalties.empty()) be_.penalize(logits, sampling_.penalties);
  launched.tokens.resize(sampled.size());
  be_.sample(logits, raw, sampling_.rows, caches_.last_tokens, launched.tokens);
}

void ModelRunner::copy_block(const BlockCopy& copy) {
  for (auto* caches : {&caches_.k, &caches_.v}) {
    for (const Tensor& cache : *caches) {
      be_.copy(cache.view()[copy.to], cache.view()[copy.from]);
    }
  }
}

}  // namespace videre
