"""AsyncLLM."""

import asyncio
import contextlib
import unittest

from common import MEDIA, MODEL, greedy, shared, user
from videre import AsyncLLM, SamplingParams


class Async(unittest.IsolatedAsyncioTestCase):
    async def asyncSetUp(self):
        self.llm = await AsyncLLM.create(MODEL, max_model_len=8192, max_num_seqs=8, dtype="float32")

    async def asyncTearDown(self):
        self.llm.close()

    async def test_same_answers_as_llm(self):
        conversations = [[user(str(i))] for i in range(6)]
        here = await self.llm.chat(conversations, greedy(8))
        there = shared().chat(conversations, greedy(8), use_tqdm=False)
        self.assertEqual([out.outputs[0].token_ids for out in here], [out.outputs[0].token_ids for out in there])
        text = "".join(
            [piece.outputs[0].text async for piece in self.llm.chat(conversations[0], greedy(8), stream=True)]
        )
        self.assertEqual(text, there[0].outputs[0].text)

    async def test_side_by_side(self):
        outs = await asyncio.gather(*(self.llm.generate(f"prompt {i}", greedy(20, ignore_eos=True)) for i in range(30)))
        self.assertEqual([len(out[0].outputs[0].token_ids) for out in outs], [20] * 30)

    async def test_the_loop_goes_on(self):
        ticks = 0

        async def tick():
            nonlocal ticks
            while True:
                await asyncio.sleep(0.005)
                ticks += 1

        task = asyncio.create_task(tick())
        await self.llm.generate("a", greedy(3000, ignore_eos=True))
        task.cancel()
        self.assertGreater(ticks, 3)

    async def test_cancelling_ends_requests(self):
        task = asyncio.create_task(self.llm.generate("a", SamplingParams(max_tokens=7000, ignore_eos=True)))
        await asyncio.sleep(0.2)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        for _ in range(100):
            stats = self.llm._llm._engine.stats
            if not stats["num_running"] and not stats["kv_blocks_used"]:
                return
            await asyncio.sleep(0.02)
        self.fail(f"left behind: {stats}")

    async def test_errors(self):
        with self.assertRaises(ValueError):
            await self.llm.generate({"prompt": "<image>"})
        outs = await self.llm.generate(["a", {"prompt": "<image>"}], greedy(1), on_error="return")
        self.assertEqual([out.error is None for out in outs], [True, False])

    async def test_facts(self):
        self.assertEqual(self.llm.get_tokenizer().decode(self.llm.get_tokenizer().encode("a", False)), "a")
        plans = await self.llm.plan({"prompt": "<image>", "multi_modal_data": {"image": MEDIA / "gray.png"}})
        self.assertGreater(plans[0].image_tokens, 0)
