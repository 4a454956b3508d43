"""Calls: batches, order, failures, progress, plans, tokenizer, upkeep."""

import contextlib
import io

import numpy as np

import videre
from common import MEDIA, Case, e2e, golden, greedy, load, processor, shared, system, url_part, user
from videre import SamplingParams


class Chat(Case):
    def test_many_conversations_come_back_in_order(self):
        cases = e2e("image") + e2e("video")
        one = [
            [system(), user(case["text"], *(url_part(case["kind"], name) for name in case["files"]))] for case in cases
        ]
        lengths = [1 + i % 12 for i in range(40)]
        picked = [0] * 40
        outs = shared().chat(
            [one[i] for i in picked],
            [greedy(n) for n in lengths],
            use_tqdm=False,
            mm_processor_kwargs=processor(cases[0]),
        )
        for n, out in zip(lengths, outs):
            self.assertEqual(out.outputs[0].token_ids, cases[0]["greedy"][:n])
        self.assertEqual([int(out.request_id) - int(outs[0].request_id) for out in outs], list(range(40)))
        self.settles(shared())

    def test_one_conversation_gives_a_list(self):
        self.assertEqual(len(shared().chat([{"role": "user", "content": "Hi"}], greedy(2), use_tqdm=False)), 1)

    def test_template_options(self):
        out = shared().chat(
            [user("Hi"), {"role": "assistant", "content": "It is"}],
            greedy(2),
            use_tqdm=False,
            add_generation_prompt=False,
            continue_final_message=True,
        )[0]
        self.assertTrue(out.prompt.endswith("It is"))
        out = shared().chat(
            [user("Hi")],
            greedy(2),
            use_tqdm=False,
            chat_template="{{ messages[0]['content'][0]['text'] }}!{{ x }}",
            chat_template_kwargs={"x": 5},
        )[0]
        self.assertEqual(out.prompt, "Hi!5")
        tools = [{"type": "function", "function": {"name": "add", "parameters": {}}}]
        self.assertIn("add", shared().chat([user("Hi")], greedy(1), use_tqdm=False, tools=tools)[0].prompt)

    def test_bad_messages(self):
        for messages, kind, pattern in (
            ([], ValueError, "empty"),
            ([[]], ValueError, "empty"),
            ("Hi", TypeError, "expected a list"),
            (5, TypeError, "expected a list"),
            ([{"content": "Hi"}], ValueError, "role is missing"),
            ([{"role": "user", "content": 5}], ValueError, "content"),
            ([{"role": "user", "content": [{"type": "audio_url"}]}], ValueError, "no audio"),
            (
                [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}]}],
                ValueError,
                "",
            ),
        ):
            with self.subTest(messages=messages):
                self.refused(kind, pattern, lambda: shared().chat(messages, use_tqdm=False))
        self.refused(
            ValueError,
            "exclude|both true",
            lambda: shared().chat([user("a")], continue_final_message=True, use_tqdm=False),
        )


class Generate(Case):
    def test_kinds_of_prompts(self):
        text = shared().generate("Hello, world!", greedy(4), use_tqdm=False)[0]
        ids = text.prompt_token_ids
        for prompt in (
            {"prompt": "Hello, world!"},
            ["Hello, world!"],
            ids,
            [ids],
            {"prompt_token_ids": ids},
            [{"prompt_token_ids": np.array(ids)}],
            "<s>Hello, world!",
        ):
            out = shared().generate(prompt, greedy(4), use_tqdm=False)
            self.assertEqual([one.outputs[0].token_ids for one in out], [text.outputs[0].token_ids])
        self.assertEqual(shared().generate([], use_tqdm=False), [])
        bare = shared().generate(
            "Hello, world!", greedy(1), use_tqdm=False, tokenization_kwargs={"add_special_tokens": False}
        )[0]
        self.assertEqual(bare.prompt_token_ids, ids[1:])

    def test_bad_prompts(self):
        for prompt, kind in (
            (5, TypeError),
            ({}, ValueError),
            ({"prompt": 5}, ValueError),
            ([5.5], ValueError),
            ("", ValueError),
            ({"prompt_token_ids": ["a"]}, ValueError),
            ({"prompt_token_ids": [10**6]}, ValueError),
            ({"prompt_token_ids": [2**40]}, ValueError),
            ({"prompt_token_ids": [1], "multi_modal_data": {"image": bytes(3)}}, ValueError),
        ):
            with self.subTest(prompt=prompt):
                self.refused(
                    kind,
                    "",
                    lambda: shared().generate(
                        prompt, use_tqdm=False, tokenization_kwargs={"add_special_tokens": False}
                    ),
                )
        self.refused(
            ValueError,
            "2 prompts and 3 sampling_params",
            lambda: shared().generate(["a", "b"], [greedy(1)] * 3, use_tqdm=False),
        )
        self.refused(
            ValueError, "maximum context length", lambda: shared().generate("a " * 9000, greedy(1), use_tqdm=False)
        )

    def test_one_bad_prompt_of_many(self):
        prompts = [
            "one",
            {"prompt": "<image>"},
            "three",
            {"prompt": "<image>", "multi_modal_data": {"image": b"no picture"}},
            "five",
        ]
        with self.assertRaises(ValueError):
            shared().generate(prompts, greedy(40), use_tqdm=False)
        self.settles(shared())
        outs = shared().generate(prompts, greedy(3), use_tqdm=False, on_error="return")
        self.assertEqual([out.error is None for out in outs], [True, False, True, False, True])
        for out in outs:
            self.assertEqual(bool(out.outputs), out.error is None)
            self.assertTrue(out.finished)
        self.assertIsInstance(outs[3].error, videre.Error)
        self.refused(ValueError, "on_error", lambda: shared().generate("a", on_error="ignore"))

    def test_more_prompts_than_the_queue_holds(self):
        with load(max_num_seqs=2, max_waiting_requests=3) as llm:
            outs = llm.generate([f"prompt {i}" for i in range(60)], greedy(2, ignore_eos=True), use_tqdm=False)
            self.assertEqual([len(out.outputs[0].token_ids) for out in outs], [2] * 60)
            self.assertEqual([out.prompt for out in outs], [f"prompt {i}" for i in range(60)])

    def test_media_of_later_prompts_wait_for_room(self):
        import weakref

        made, alive = [], []

        class Owned(np.ndarray):
            pass

        class Late(dict):
            """A prompt whose frames are made when it is asked for them."""

            def get(self, key, default=None):
                if key != "multi_modal_data":
                    return super().get(key, default)
                array = np.zeros((8, 64, 64, 3), np.uint8).view(Owned)
                made.append(weakref.ref(array))
                alive.append(sum(one() is not None for one in made))
                return {"video": (array, dict(fps=2, frames_indices=range(8)))}

        with load(preprocess_ahead_gb=0.02, mm_processor_cache_gb=0) as llm:  # three clips' worth
            outs = llm.generate([Late(prompt=f"<video> {i}") for i in range(24)], greedy(2), use_tqdm=False)
        self.assertEqual(len(outs), 24)
        self.assertLessEqual(max(alive), 8)


class Stream(Case):
    def test_pieces_of_many(self):
        whole = shared().chat([[user(str(i))] for i in range(5)], greedy(9), use_tqdm=False)
        texts = [""] * 5
        for piece in shared().chat([[user(str(i))] for i in range(5)], greedy(9), stream=True):
            texts[piece.request_index] += piece.outputs[0].text
        self.assertEqual(texts, [out.outputs[0].text for out in whole])

    def test_leaving_early_ends_the_request(self):
        stream = shared().generate("Hello", greedy(4000, ignore_eos=True), stream=True)
        next(stream)
        stream.close()
        self.settles(shared())

    def test_errors_come_out_of_the_iterator(self):
        stream = shared().generate([{"prompt": "<image>", "multi_modal_data": {"image": b"no"}}], stream=True)
        with self.assertRaises(ValueError):
            list(stream)

    def test_logprobs_of_pieces(self):
        rows = []
        for piece in shared().generate("Hello", greedy(5, logprobs=1), stream=True):
            rows += piece.outputs[0].logprobs or []
        self.assertEqual(len(rows), 5)


class Bars(Case):
    def test_a_callable_is_the_class(self):
        bars = []

        class Bar:
            def __init__(self, total, desc, **kwargs):
                self.total, self.desc, self.postfix, self.n, self.closed = total, desc, kwargs.get("postfix"), 0, False
                bars.append(self)

            def update(self, n):
                self.n += n

            def close(self):
                self.closed = True

        shared().generate(["a", "b", "c"], greedy(2), use_tqdm=Bar)
        self.assertEqual(
            [(bar.desc, bar.total, bar.n, bar.closed) for bar in bars],
            [("Adding requests", 3, 3, True), ("Processed prompts", 3, 3, True)],
        )
        self.assertRegex(bars[1].postfix, r"est\. speed input: \d+\.\d\d toks/s, output: \d+\.\d\d toks/s")

    def test_tqdm_on_stderr_and_silence(self):
        err = io.StringIO()
        with contextlib.redirect_stderr(err):
            shared().generate(["a", "b"], greedy(2))
        self.assertIn("Processed prompts: 100%", err.getvalue())
        err = io.StringIO()
        with contextlib.redirect_stderr(err):
            shared().generate(["a", "b"], greedy(2), use_tqdm=False)
        self.assertEqual(err.getvalue(), "")


class Plans(Case):
    def test_plan_is_what_the_run_takes(self):
        case = e2e("video")[2]
        messages = [system(), user(case["text"], url_part("video", "clip.avi"))]
        plan = shared().plan(messages, greedy(12), mm_processor_kwargs=processor(case))[0]
        out = shared().chat(messages, greedy(12), use_tqdm=False, mm_processor_kwargs=processor(case))[0]
        self.assertEqual(plan.num_tokens, len(out.prompt_token_ids))
        self.assertEqual(plan.prompt, out.prompt)
        self.assertEqual((plan.videos[0].tokens, plan.videos[0].tokens + plan.videos[0].pruned_tokens), (32, 128))
        memory = shared().memory_plan
        blocks = -(-(plan.num_tokens + 12) // memory["block_size"])
        self.assertEqual(plan.kv_cache_bytes, blocks * memory["block_size"] * memory["kv_bytes_per_token"])
        self.assertEqual(plan.state_bytes, memory["state_bytes_per_slot"])
        self.assertTrue(plan.fits)

    def test_plans_of_prompts(self):
        plans = shared().plan(["a", "a b c", {"prompt": "<image>", "multi_modal_data": {"image": MEDIA / "wide.jpg"}}])
        self.assertEqual(len(plans), 3)
        self.assertEqual((plans[2].images[0].width, plans[2].images[0].height), (481, 202))
        self.assertFalse(
            shared().plan("a", SamplingParams(max_tokens=8000), mm_processor_kwargs=None)[0].num_tokens > 8000
        )


class Upkeep(Case):
    def test_tokenizer(self):
        tokenizer = shared().get_tokenizer()
        for case in golden()["tokenizer"]:
            self.assertEqual(tokenizer.encode(case["text"], add_special_tokens=False), case["ids"])
            self.assertEqual(tokenizer.decode(case["ids"]), case["decoded"])
        self.assertEqual(tokenizer.encode("a")[0], 1)
        self.assertEqual(tokenizer.decode([1, *tokenizer.encode("a", False)], skip_special_tokens=True), "a")
        self.assertEqual(tokenizer(["a", "b"])["input_ids"], [tokenizer.encode("a"), tokenizer.encode("b")])

    def test_chat_template_is_the_references(self):
        tokenizer = shared().get_tokenizer()
        from transformers import AutoTokenizer

        from common import MODEL

        other = AutoTokenizer.from_pretrained(MODEL)
        messages = [user("Describe the video.", {"type": "video", "text": None})]
        for kwargs in ({}, {"add_generation_prompt": True}):
            self.assertEqual(
                tokenizer.apply_chat_template(messages, tokenize=False, **kwargs),
                other.apply_chat_template(messages, tokenize=False, **kwargs),
            )
        ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True)
        self.assertEqual(
            tokenizer.decode(ids), tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        )

    def test_metrics_and_caches(self):
        with load() as llm:
            llm.generate(["a", "b"], greedy(3, ignore_eos=True), use_tqdm=False)
            ask = {"prompt": "<image>", "multi_modal_data": {"image": MEDIA / "gray.png"}}
            llm.generate([ask, ask], greedy(1), use_tqdm=False)
            values = {(metric.name, *metric.labels.values()): metric.value for metric in llm.get_metrics()}
            self.assertEqual(values["vllm:generation_tokens",], 8)
            self.assertEqual(values["vllm:request_success", "length"], 4)
            self.assertEqual(values["vllm:mm_cache_hits",], 1)
            llm.reset_mm_cache()
            llm.generate(ask, greedy(1), use_tqdm=False)
            values = {(metric.name, *metric.labels.values()): metric.value for metric in llm.get_metrics()}
            self.assertEqual((values["vllm:mm_cache_queries",], values["vllm:mm_cache_hits",]), (3, 1))
            self.assertTrue(llm.reset_prefix_cache())
            self.assertEqual(llm.model_info["max_model_len"], 8192)
