"""Keywords and parameters: names, ranges, defaults, sentences."""

import copy
import pickle
import subprocess
import sys
import warnings

import videre
from common import MODEL, Case, greedy, load, shared, user
from videre import LLM, SamplingParams


class Parameters(Case):
    def test_defaults_are_those_of_scripts(self):
        params = SamplingParams()
        self.assertEqual((params.max_tokens, params.temperature, params.top_p, params.n), (16, 1.0, 1.0, 1))
        self.assertEqual(
            len(shared().generate("a", greedy(16, ignore_eos=True), use_tqdm=False)[0].outputs[0].token_ids), 16
        )
        self.assertEqual(shared().get_default_sampling_params().max_tokens, 16)

    def test_ranges(self):
        for name, value in (
            ("temperature", -1),
            ("temperature", float("nan")),
            ("top_p", 0),
            ("top_p", 1.5),
            ("top_k", -2),
            ("min_p", 2),
            ("n", 0),
            ("presence_penalty", 3),
            ("frequency_penalty", -3),
            ("repetition_penalty", 0),
            ("max_tokens", 0),
            ("min_tokens", -1),
            ("stop", [""]),
            ("bad_words", [3]),
            ("stop_token_ids", ["x"]),
            ("allowed_token_ids", []),
            ("logit_bias", {"x": 1}),
            ("seed", "x"),
            ("logprobs", -2),
        ):
            with self.subTest(name=name, value=value):
                try:
                    params = SamplingParams(**{name: value})
                except ValueError as error:
                    self.assertIn(name.replace("logprobs", "top_logprobs"), str(error))
                else:
                    self.refused(ValueError, name, lambda: shared().generate("a", params, use_tqdm=False))
        self.refused(ValueError, "min_tokens", lambda: SamplingParams(min_tokens=20, max_tokens=3))
        self.refused(ValueError, "n is 2 at temperature 0", lambda: SamplingParams(n=2, temperature=0))

    def test_changed_afterwards_is_checked_when_used(self):
        params = SamplingParams()
        params.top_p = 7
        self.refused(ValueError, "top_p is 7", lambda: shared().generate("a", params, use_tqdm=False))

    def test_unknown_names(self):
        self.refused(TypeError, "did you mean 'temperature'", lambda: SamplingParams(temprature=1))
        self.refused(TypeError, "did you mean 'max_model_len'", lambda: LLM(MODEL, max_model_length=5))
        self.refused(TypeError, "unexpected keyword argument 'frobnicate'$", lambda: LLM(MODEL, frobnicate=5))

    def test_what_this_version_lacks_is_named(self):
        for name in ("prompt_logprobs", "thinking_token_budget", "truncate_prompt_tokens"):
            self.refused(NotImplementedError, name, lambda name=name: SamplingParams(**{name: 3}))
        self.refused(NotImplementedError, "structured_outputs", lambda: SamplingParams(structured_outputs={"json": {}}))
        self.refused(NotImplementedError, "lora_request", lambda: shared().generate("a", lora_request=1))
        for method in ("encode", "embed", "classify", "score", "beam_search"):
            self.refused(videre.Error, "not", lambda method=method: getattr(shared(), method)("a"))

    def test_copies(self):
        params = SamplingParams(temperature=0.5, stop="x", logit_bias={3: 1.0})
        for other in (copy.deepcopy(params), params.clone(), pickle.loads(pickle.dumps(params))):
            self.assertEqual(other, params)
        self.assertIn("temperature=0.5", repr(params))

    def test_keywords_of_other_engines(self):
        with warnings.catch_warnings():
            llm = load(
                trust_remote_code=True,
                tensor_parallel_size=1,
                enforce_eager=True,
                dtype="auto",
                hf_token=None,
                disable_log_stats=True,
                enable_prefix_caching=False,
                limit_mm_per_prompt={"image": 1},
                gpu_memory_utilization=0.5,
                max_num_batched_tokens=512,
                seed=3,
                skip_tokenizer_init=False,
            )
        with llm:
            two = [user("a", *[{"type": "image", "image": bytes(12)}] * 2)]
            self.refused(ValueError, "at most 1 .*may be provided", lambda: llm.chat(two, use_tqdm=False))

    def test_keywords_at_their_defaults_say_nothing(self):
        code = f"""
from videre import LLM
LLM({MODEL!r}, tokenizer=None, tokenizer_mode="auto", skip_tokenizer_init=False, trust_remote_code=False,
    allowed_local_media_path="", allowed_media_domains=None, tensor_parallel_size=1, dtype="auto", quantization=None,
    revision=None, tokenizer_revision=None, chat_template=None, seed=0, gpu_memory_utilization=0.9, cpu_offload_gb=0,
    enforce_eager=False, hf_token=None, hf_overrides=None, mm_processor_kwargs=None, structured_outputs_config=None,
    kv_cache_memory_bytes=None, compilation_config=None, logits_processors=None, max_model_len=4096, max_num_seqs=4,
    max_num_batched_tokens=512, video_pruning_rate=0.5, media_io_kwargs={{"video": {{"fps": 2}}}}, kv_cache_dtype="auto",
    limit_mm_per_prompt={{"image": 3, "video": 1}}, enable_prefix_caching=False, mm_processor_cache_gb=1,
    disable_log_stats=True, served_model_name="x").close()
"""
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        self.assertEqual((done.returncode, done.stderr), (0, ""))

    def test_models_that_do_not_load(self):
        self.refused(FileNotFoundError, "nowhere", lambda: LLM("/nowhere/at/all"))
        self.refused(ValueError, "tensor_parallel_size", lambda: LLM(MODEL, tensor_parallel_size=2))
        self.refused(ValueError, "max_model_len", lambda: LLM(MODEL, max_model_len=10**9))
        self.refused(MemoryError, "", lambda: LLM(MODEL, kv_cache_memory_bytes=1000))
        self.refused(ValueError, "video_pruning_rate", lambda: LLM(MODEL, video_pruning_rate=1.5))
        self.refused(ValueError, "logits_processors", lambda: LLM(MODEL, logits_processors=[print]))

    def test_errors_are_of_one_family_and_travel(self):
        with self.assertRaises(videre.Error) as seen:
            LLM("/nowhere/at/all")
        self.assertEqual(seen.exception.code, "not_found")
        again = pickle.loads(pickle.dumps(seen.exception))
        self.assertEqual(
            (type(again), str(again), again.code), (videre.NotFoundError, str(seen.exception), "not_found")
        )


class Outputs(Case):
    def test_logprobs(self):
        out = shared().generate("The sky", greedy(4, logprobs=3), use_tqdm=False)[0].outputs[0]
        self.assertEqual(len(out.logprobs), 4)
        total = 0.0
        for token_id, row in zip(out.token_ids, out.logprobs):
            self.assertEqual(row[token_id].rank, 1)
            self.assertEqual(len(row), 3)
            self.assertEqual([entry.rank for entry in row.values()], [1, 2, 3])
            self.assertGreaterEqual(row[token_id].logprob, max(entry.logprob for entry in row.values()))
            total += row[token_id].logprob
        self.assertAlmostEqual(out.cumulative_logprob, total, places=4)
        only = shared().generate("The sky", greedy(4, logprobs=0), use_tqdm=False)[0].outputs[0]
        self.assertEqual([len(row) for row in only.logprobs], [1] * 4)

    def test_n_and_seed(self):
        params = SamplingParams(n=3, seed=7, max_tokens=6, ignore_eos=True)
        one, two = shared().generate(["Hello"] * 2, params, use_tqdm=False)
        self.assertEqual([answer.index for answer in one.outputs], [0, 1, 2])
        self.assertEqual([answer.token_ids for answer in one.outputs], [answer.token_ids for answer in two.outputs])
        self.assertEqual(len({tuple(answer.token_ids) for answer in one.outputs}), 3)

    def test_stop_reasons(self):
        free = shared().generate("The sky", greedy(8), use_tqdm=False)[0].outputs[0]
        self.assertEqual((free.finish_reason, free.stop_reason, free.finished()), ("length", None, True))
        stopped = (
            shared().generate("The sky", greedy(8, stop_token_ids=[free.token_ids[3]]), use_tqdm=False)[0].outputs[0]
        )
        self.assertEqual((stopped.finish_reason, stopped.stop_reason), ("stop", free.token_ids[3]))
        word = free.text[2:5]
        cut = shared().generate("The sky", greedy(8, stop=word), use_tqdm=False)[0].outputs[0]
        self.assertEqual((cut.text, cut.stop_reason), (free.text[: free.text.index(word)], word))

    def test_metrics_of_a_request(self):
        out = shared().generate("The sky", greedy(8, ignore_eos=True), use_tqdm=False)[0]
        self.assertLessEqual(out.metrics.arrival_time, out.metrics.first_token_time)
        self.assertLessEqual(out.metrics.first_token_time, out.metrics.finished_time)
        self.assertEqual(out.metrics.num_generation_tokens, 8)
        self.assertEqual(out.num_cached_tokens, 0)
        self.assertIn("CompletionOutput(index=0", repr(out))
