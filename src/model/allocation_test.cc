// Once the largest step has been seen, a step allocates nothing: operator new is counted.
#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <new>

#include "model/testing.h"

namespace {
std::atomic<int64_t> num_allocations{0};

void* counted(std::size_t size) {
  ++num_allocations;
  if (void* memory = std::malloc(size == 0 ? 1 : size)) return memory;
  std::abort();
}
}  // namespace

void* operator new(std::size_t size) { return counted(size); }
void* operator new[](std::size_t size) { return counted(size); }
void* operator new(std::size_t size, const std::nothrow_t&) noexcept { return counted(size); }
void* operator new[](std::size_t size, const std::nothrow_t&) noexcept { return counted(size); }
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete[](void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::size_t) noexcept { std::free(memory); }

namespace videre::testing {
namespace {

template <typename Work>
int64_t allocations(Work&& work) {
  const int64_t before = num_allocations;
  work();
  return num_allocations - before;
}

TEST(Allocations, NoneInAStepOnceWarm) {
  const ReferenceSet set(reference_folders()[0]);
  for (const char* folder : {"checkpoint", "checkpoint-fp8", "checkpoint-nvfp4"}) {
    for (const DType dtype : {DType::kF32, DType::kBF16}) {
      const auto be = make_cpu_backend({.num_threads = 3});
      const auto model = set.load(*be, dtype, folder);
      const LanguageModel& language = model->language();
      CacheOptions options;
      options.num_blocks = 64;
      options.num_slots = 4;
      LanguageCaches caches = language.make_caches(*be, options);
      LanguageWorkspace ws = language.make_workspace(*be, dtype, 256, 8);
      Tensor logits = be->allocate(DType::kF32, Shape{8, language.config().vocab_size});

      // A long prompt, one that goes on, two decodes; an emitted state; media rows; padding.
      StepArrays arrays(16);
      std::vector<int32_t> blocks(16);
      for (int i = 0; i < 16; ++i) blocks[i] = 1 + i;
      arrays.add(150, 0, kNoSlot, 1, blocks);
      arrays.add(1, 40, 2, 2, blocks);
      arrays.add(1, 0, kNoSlot, 3, blocks);
      arrays.emit(0, 70, 0);
      const StepView step = arrays.view(10, 2);
      std::vector<int32_t> ids(step.num_tokens, 5), media(step.num_tokens, -1);
      media[3] = 0;
      const Tensor arena = random_tensor(dtype, Shape{1, language.config().hidden_size}, 1);
      LanguageInput input;
      input.token_ids = ConstView(ids.data(), DType::kI32, Shape{step.num_tokens});
      input.media_rows = ConstView(media.data(), DType::kI32, Shape{step.num_tokens});
      input.media_arena = arena;
      input.has_media = true;
      const std::vector<int32_t> rows{149, 150, 151};
      const std::vector<LogitEdit> edits{{0, 3, 1, false}};
      const std::vector<TokenCount> tokens{{3, 1}};
      const std::vector<PenaltyRow> penalties{{1, 1.1f, 0.1f, 0.1f, tokens}};
      const std::vector<SampleRow> samples{
          {.row = 0, .slot = 1},
          {.row = 1,
           .slot = 2,
           .temperature = 1,
           .top_k = 40,
           .top_p = 0.9f,
           .min_p = 0.01f,
           .num_logprobs = 5},
          {.row = 2, .slot = 3, .temperature = 0.7f, .num_logprobs = 0}};
      std::vector<SampledToken> out(3);
      const auto run = [&] {
        language.forward(*be, step, input, caches, ws);
        const View picked = logits.view().rows(0, 3);
        language.logits(*be, ConstView(rows.data(), DType::kI32, Shape{3}), ws, picked);
        be->edit_logits(picked, edits);
        be->penalize(picked, penalties);
        be->sample(picked, picked, samples, caches.last_tokens, out);
      };
      run();
      run();  // which thread takes which part differs, and each has its own scratch
      int64_t fewest = 1 << 30;
      for (int i = 0; i < 20; ++i) fewest = std::min(fewest, allocations(run));
      EXPECT_EQ(fewest, 0) << folder;

      VisionWorkspace vision = model->vision().make_workspace(
          *be, 2, model->config().force_image_size, model->config().force_image_size);
      const ConstView rgb = set.view("vision.rgb").rows(0, 2);
      Tensor projected = be->allocate(
          dtype, Shape{2 * model->config().tokens_per_tile(), language.config().hidden_size});
      const auto encode = [&] { model->vision().encode_tiles(*be, rgb, vision, projected); };
      encode();
      fewest = 1 << 30;
      for (int i = 0; i < 20; ++i) fewest = std::min(fewest, allocations(encode));
      EXPECT_EQ(fewest, 0) << folder;
    }
  }
}

}  // namespace
}  // namespace videre::testing
