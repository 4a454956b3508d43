"""The engine for scripts: `LLM`."""

import atexit
import json
import re
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, overload

from . import _videre
from ._calls import Call, TextRequests, body_fields, chat_request
from ._errors import Error, UnsupportedError, unknown_name
from .outputs import ImagePlan, Metric, Plan, RequestOutput, VideoPlan
from .progress import Progress
from .sampling_params import SamplingParams
from .tokenizer import Tokenizer

# Keywords of vLLM's LLM that mean nothing here, or have one value that is what happens anyway.
_WITHOUT_EFFECT = {
    "hf_token",
    "disable_log_stats",
    "disable_async_output_proc",
    "runner",
    "task",
    "convert",
    "served_model_name",
}
_ONE_VALUE = {
    "skip_tokenizer_init": (False, "the tokenizer is always loaded"),
    "logits_processors": (None, "logits processors of one's own are not supported"),
}
_LIVE: "weakref.WeakSet[LLM]" = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    for llm in list(_LIVE):
        llm.close()


def _words(options: Mapping[str, Any]) -> list[str]:
    """Keywords as the command line's flags."""
    known = set(_videre.option_names())
    words: list[str] = []
    for name, value in options.items():
        if name in _WITHOUT_EFFECT:
            continue
        if name in _ONE_VALUE:
            expected, why = _ONE_VALUE[name]
            if value != expected:
                raise ValueError(f"{name} is {value!r}, but {why}")
            continue
        if name not in known or not name.islower():
            raise TypeError(
                unknown_name(
                    "LLM() got an unexpected keyword argument",
                    name,
                    {*known, *_WITHOUT_EFFECT, *_ONE_VALUE, "preprocess_ahead_gb"},
                )
            )
        if value is None:
            continue
        flag = "--" + name.replace("_", "-")
        if value is True:
            words.append(flag)
        elif value is False:
            words.append("--no-" + flag[2:])
        elif isinstance(value, Mapping):
            words.append(f"{flag}={json.dumps(value)}")
        elif isinstance(value, (list, tuple, set)):
            if value:
                words.extend([flag, *map(str, value)])
        else:
            words.append(f"{flag}={value}")
    return words


def _as_keyword(text: str) -> str:
    return re.sub(r"--(?:no-)?([a-z][a-z0-9-]+)", lambda match: match[1].replace("-", "_"), text)


def load_engine(options: Mapping[str, Any]) -> _videre.Engine:
    words = _words(options)
    try:
        return _videre.Engine(words)
    except Error as error:
        message, param = _as_keyword(str(error)), _as_keyword(error.param)
        if param and param not in message:
            message = f"{param}: {message}"
        raise type(error)(message, error.code, param) from None


def is_conversation(messages: Any) -> bool:
    return isinstance(messages, Sequence) and bool(messages) and isinstance(messages[0], Mapping)


class LLM:
    """A model in this process.

        llm = LLM("/path/to/checkpoint", max_model_len=32768, allowed_local_media_path="/data")
        outputs = llm.chat([{"role": "user", "content": "Hello"}])
        print(outputs[0].outputs[0].text)

    model: a checkpoint's folder, or org/name in the Hugging Face hub cache; None is the built-in model
    preprocess_ahead_gb: GiB of pictures and frames that prompts of one call may hold until they finish

    Other keywords are the flags of `videre serve` with underscores: max_model_len, max_num_seqs,
    max_num_batched_tokens, allowed_local_media_path, allowed_media_domains, media_io_kwargs,
    mm_processor_kwargs, video_pruning_rate, limit_mm_per_prompt, chat_template, quantization, seed,
    num_threads and so on. An unknown one raises TypeError.

    Any thread may call any method; calls run side by side, and each blocks until its own prompts are
    done. The GIL is free meanwhile. Ctrl-C ends a call at once and leaves the engine usable. An LLM
    belongs to the process that made it: after a fork, make another. `with LLM(...) as llm:`, `close()`
    or deletion gives all memory back.

    Errors: ValueError for what the caller got wrong, FileNotFoundError for models and media that are
    not there, videre.Error for all (both of these are videre.Error too).
    """

    def __init__(self, model: str | None = None, *, preprocess_ahead_gb: float = 2.0, **options: Any):
        if not preprocess_ahead_gb >= 0:
            raise ValueError(f"preprocess_ahead_gb is {preprocess_ahead_gb}; expected 0 or more")
        if model is not None:
            options["model"] = str(model)
        self._engine = load_engine(options)
        self._held_bytes = int(preprocess_ahead_gb * (1 << 30))
        memory = self._engine.memory_plan
        self._max_running = memory["max_num_seqs"] + 16  # running, and being prepared meanwhile
        self._next_id = 0
        self._id_lock = threading.Lock()
        self._tokenizer = Tokenizer(self._engine)
        ids = self._engine.tokenize("", True)
        self._texts = TextRequests(self._engine.detokenize(ids[:1], False) if ids else "")
        _LIVE.add(self)

    # --- Running ---------------------------------------------------------------------------------

    @overload
    def chat(
        self,
        messages: Sequence[Any],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        use_tqdm: Any = True,
        lora_request: None = None,
        chat_template: str | None = None,
        chat_template_content_format: str = "auto",
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        tools: Sequence[Any] | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        tokenization_kwargs: Mapping[str, Any] | None = None,
        mm_processor_kwargs: Mapping[str, Any] | None = None,
        *,
        media_io_kwargs: Mapping[str, Any] | None = None,
        stream: Literal[False] = False,
        on_error: str = "raise",
    ) -> list[RequestOutput]: ...

    @overload
    def chat(
        self,
        messages: Sequence[Any],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        stream: Literal[True],
        **kwargs: Any,
    ) -> Iterator[RequestOutput]: ...

    def chat(  # type: ignore[misc]
        self,
        messages: Sequence[Any],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        use_tqdm: Any = True,
        lora_request: None = None,
        chat_template: str | None = None,
        chat_template_content_format: str = "auto",
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        tools: Sequence[Any] | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        tokenization_kwargs: Mapping[str, Any] | None = None,
        mm_processor_kwargs: Mapping[str, Any] | None = None,
        *,
        media_io_kwargs: Mapping[str, Any] | None = None,
        stream: bool = False,
        on_error: str = "raise",
    ) -> list[RequestOutput] | Iterator[RequestOutput]:
        """Answers one conversation or a list of them; one RequestOutput each, in order.

        messages: as the OpenAI protocol has them. Parts of content may be text, image_url and
            video_url (http(s):, data:, and file: below allowed_local_media_path), and
            {"type": "image", "image": X} or {"type": "video", "video": (frames, metadata)}, where X
            is a PIL image, uint8 pixels [H, W, 3] or [3, H, W], a path or an encoded file's bytes
        sampling_params: one for all, or one for each; None takes the checkpoint's defaults
        mm_processor_kwargs: max_num_tiles (1 to 64) for pictures, video_pruning_rate for clips
        stream: returns an iterator over pieces as they come: outputs[0].text is what is new
        on_error: "raise" ends the call at the first prompt that fails; "return" gives that prompt an
            output with `error` set and goes on
        """
        return self._run(*self._chat(locals()), stream=stream, on_error=on_error, use_tqdm=use_tqdm)

    @overload
    def generate(
        self,
        prompts: Any,
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        use_tqdm: Any = True,
        lora_request: None = None,
        priority: Any = None,
        tokenization_kwargs: Mapping[str, Any] | None = None,
        mm_processor_kwargs: Mapping[str, Any] | None = None,
        stream: Literal[False] = False,
        on_error: str = "raise",
    ) -> list[RequestOutput]: ...

    @overload
    def generate(
        self,
        prompts: Any,
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        stream: Literal[True],
        **kwargs: Any,
    ) -> Iterator[RequestOutput]: ...

    def generate(  # type: ignore[misc]
        self,
        prompts: Any,
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        use_tqdm: Any = True,
        lora_request: None = None,
        priority: Any = None,
        tokenization_kwargs: Mapping[str, Any] | None = None,
        mm_processor_kwargs: Mapping[str, Any] | None = None,
        stream: bool = False,
        on_error: str = "raise",
    ) -> list[RequestOutput] | Iterator[RequestOutput]:
        """Continues one prompt or a list of them; one RequestOutput each, in order.

        prompts: text, token ids, or a dict with `prompt` or `prompt_token_ids` and optionally
            multi_modal_data: {"image": X or list, "video": (frames, metadata) or list}, one for each
                <image> and <video> of the prompt. Frames are uint8 [F, H, W, 3] (or [F, 3, H, W]),
                numpy or any tensor on the CPU, used where they lie; metadata is transformers'
                VideoMetadata, an object or dict like it, with fps and frames_indices
            mm_processor_kwargs: for this prompt alone, {"video_pruning_rate": 0.5}
            multi_modal_uuids, media_io_kwargs, cache_salt

        Text prompts start with the tokenizer's BOS unless they bring it or have media.
        The rest is as for `chat`.
        """
        return self._run(*self._generate(locals()), stream=stream, on_error=on_error, use_tqdm=use_tqdm)

    def plan(
        self,
        prompts: Any,
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        **kwargs: Any,
    ) -> list[Plan]:
        """The exact tokens and the memory of prompts or conversations, without running them.

        Takes what `generate` takes, or conversations and the keywords of `chat`.
        """
        one = is_conversation(prompts) and "role" in prompts[0]
        many = isinstance(prompts, (list, tuple)) and prompts and is_conversation(prompts[0])
        arguments: dict[str, Any] = {"sampling_params": sampling_params, **kwargs}
        arguments["messages" if one or many else "prompts"] = prompts
        make, params, _ = (self._chat if one or many else self._generate)(arguments)
        return [self._plan(make(i)) for i in range(len(params))]

    def _plan(self, request: _videre.Request) -> Plan:
        memory = self._engine.memory_plan
        found = self._engine.plan(request)
        usage = found["usage"]
        num_tokens = usage["prompt_tokens"]
        room = memory["max_model_len"] - num_tokens
        answer = room if found["max_tokens"] is None else found["max_tokens"]
        block = max(1, memory["block_size"])
        blocks = -(-(num_tokens + min(answer, room)) // block)
        return Plan(
            found["prompt"],
            found["prompt_token_ids"],
            num_tokens,
            usage["text_tokens"],
            usage["image_tokens"],
            usage["video_tokens"],
            [ImagePlan(**image) for image in found["images"]],
            [VideoPlan(**video) for video in found["videos"]],
            found["n"] * blocks * block * memory["kv_bytes_per_token"],
            found["n"] * memory["state_bytes_per_slot"],
            answer <= room,
        )

    def _chat(self, given: Mapping[str, Any]) -> tuple[Any, list[SamplingParams | None], list[str]]:
        """How to make each request, their parameters, and these as JSON."""
        messages = given["messages"]
        conversations = [messages] if is_conversation(messages) else messages
        if not isinstance(conversations, Sequence) or isinstance(conversations, (str, bytes)):
            raise TypeError(
                f"messages is a {type(messages).__name__}; expected a list of messages, or a list of such lists"
            )
        if not conversations:
            raise ValueError("messages is empty; expected at least one message")
        self._refuse(given)
        content_format = given.get("chat_template_content_format") or "auto"
        if content_format not in ("auto", self._engine.chat_template_content_format):
            raise ValueError(
                f"chat_template_content_format is {content_format!r}; give it to LLM(...), whose calls then have it"
            )
        fields = body_fields(
            {
                "tools": list(given["tools"]) if given.get("tools") else None,
                "chat_template": given.get("chat_template"),
                "add_generation_prompt": given.get("add_generation_prompt", True),
                "continue_final_message": given.get("continue_final_message", False),
                "chat_template_kwargs": given.get("chat_template_kwargs"),
                "mm_processor_kwargs": given.get("mm_processor_kwargs"),
                "media_io_kwargs": given.get("media_io_kwargs"),
                "add_special_tokens": (given.get("tokenization_kwargs") or {}).get("add_special_tokens", False),
            }
        )
        params, sampling = self._sampling(given.get("sampling_params"), len(conversations))
        return lambda i: chat_request(conversations[i], sampling[i], fields), params, sampling

    def _generate(self, given: Mapping[str, Any]) -> tuple[Any, list[SamplingParams | None], list[str]]:
        prompts = given["prompts"]
        single = isinstance(prompts, (str, Mapping)) or (
            isinstance(prompts, Sequence) and bool(prompts) and all(isinstance(item, int) for item in prompts)
        )
        if single:
            prompts = [prompts]
        elif not isinstance(prompts, Sequence):
            raise TypeError(f"prompts is a {type(prompts).__name__}; expected text, a dict, token ids, or a list")
        self._refuse(given)
        priority = given.get("priority")
        if priority is not None and any(priority if isinstance(priority, Sequence) else [priority]):
            raise ValueError("priority must be 0: requests run first come, first served")
        fields = {"mm_processor_kwargs": given.get("mm_processor_kwargs")}
        add_special = (given.get("tokenization_kwargs") or {}).get("add_special_tokens")
        params, sampling = self._sampling(given.get("sampling_params"), len(prompts))
        return lambda i: self._texts.make(prompts[i], sampling[i], fields, add_special), params, sampling

    @staticmethod
    def _refuse(given: Mapping[str, Any]) -> None:
        if given.get("lora_request") is not None:
            raise UnsupportedError("lora_request is not supported; leave it out", param="lora_request")

    def _sampling(self, given: Any, count: int) -> tuple[list[SamplingParams | None], list[str]]:
        if given is None:
            given = self.get_default_sampling_params()
        if isinstance(given, SamplingParams):
            return [given] * count, [given._json()] * count
        params = list(given)
        if len(params) != count:
            raise ValueError(
                f"there are {count} prompts and {len(params)} sampling_params; expected one, or one for each prompt"
            )
        return params, [one._json() for one in params]

    def _call(self, make: Any, params: Sequence[SamplingParams | None], stream: bool, on_error: str) -> Call:
        with self._id_lock:
            first_id = self._next_id
            self._next_id += len(params)
        return Call(self._engine, make, params, self._max_running, self._held_bytes, stream, on_error, first_id)

    def _run(
        self,
        make: Any,
        params: Sequence[SamplingParams | None],
        _: Any,
        *,
        stream: bool,
        on_error: str,
        use_tqdm: Any,
    ) -> list[RequestOutput] | Iterator[RequestOutput]:
        call = self._call(make, params, stream, on_error)
        if stream:
            return self._pieces(call)
        outputs: list[Any] = [None] * len(params)
        progress = Progress(use_tqdm, len(params))
        try:
            for output in self._pieces(call, progress):
                outputs[output.request_index] = output
                progress.answered(output)
        finally:
            progress.close()
        return outputs

    def _pieces(self, call: Call, progress: Progress | None = None) -> Iterator[RequestOutput]:
        try:
            while not call.done:
                yield from call.fill()
                if progress is not None:
                    progress.added(call.num_submitted)
                if not call.done:
                    # With the queue full of other calls' requests there may be none of ours to wait for.
                    yield from call.wait(0.005 if call.overloaded and not len(call.reader) else 0.5)
        finally:
            call.close()

    # --- Facts and upkeep ------------------------------------------------------------------------

    def get_tokenizer(self) -> Tokenizer:
        return self._tokenizer

    def get_default_sampling_params(self) -> SamplingParams:
        """The checkpoint's generation config; max_tokens is 16 where it says nothing."""
        return SamplingParams(**self._engine.default_sampling)

    def get_metrics(self) -> list[Metric]:
        """Counters and gauges, under the names of the server's metrics page."""
        stats = self._engine.stats
        slots, blocks = stats["state_slots_total"], stats["kv_blocks_total"]
        used = max(stats["kv_blocks_used"] / blocks if blocks else 0, stats["state_slots_used"] / slots if slots else 0)
        out = [
            Metric("vllm:num_requests_running", "gauge", stats["num_running"], {}),
            Metric("vllm:num_requests_waiting", "gauge", stats["num_waiting"] + stats["num_preparing"], {}),
            Metric("vllm:kv_cache_usage_perc", "gauge", used, {}),
            Metric("vllm:num_preemptions", "counter", stats["num_preemptions"], {}),
            Metric("vllm:prompt_tokens", "counter", stats["prompt_tokens"], {}),
            Metric("vllm:generation_tokens", "counter", stats["generation_tokens"], {}),
            Metric("vllm:mm_cache_queries", "counter", stats["encoder_cache_queries"], {}),
            Metric("vllm:mm_cache_hits", "counter", stats["encoder_cache_hits"], {}),
            Metric("videre_kv_blocks", "gauge", stats["kv_blocks_used"], {"state": "used"}),
            Metric("videre_kv_blocks", "gauge", blocks, {"state": "total"}),
            Metric("videre_state_slots", "gauge", stats["state_slots_used"], {"state": "used"}),
            Metric("videre_state_slots", "gauge", slots, {"state": "total"}),
        ]
        for reason in ("stop", "length", "abort", "error"):
            out.append(
                Metric("vllm:request_success", "counter", stats["finished_" + reason], {"finished_reason": reason})
            )
        return out

    @property
    def model_info(self) -> dict[str, Any]:
        """name, path, max_model_len, dtype, quantization, device, num_parameters, vocab_size."""
        return self._engine.info

    @property
    def memory_plan(self) -> dict[str, int]:
        """Bytes of each kind of memory that the engine has taken, and its counts."""
        return self._engine.memory_plan

    def reset_prefix_cache(self, reset_running_requests: bool = False, reset_connector: bool = False) -> bool:
        """True, and nothing else: this version keeps no prefixes between requests, so none can be reused."""
        self._engine.info  # says so when the LLM is closed
        return True

    def reset_mm_cache(self) -> None:
        """Forgets prepared and encoded pictures and clips that no running request needs."""
        self._engine.reset_mm_cache()

    reset_encoder_cache = reset_mm_cache

    def _no_pooling(self, *_: Any, **__: Any) -> None:
        raise UnsupportedError("this model generates text; it is not a pooling model")

    encode = embed = classify = score = reward = _no_pooling

    def beam_search(self, *_: Any, **__: Any) -> None:
        raise UnsupportedError("beam search is not supported; use generate with n and sampling")

    def close(self) -> None:
        """Ends what is running and gives all memory back. The LLM cannot be used afterwards."""
        engine = getattr(self, "_engine", None)
        if engine is not None:
            engine.close()
        _LIVE.discard(self)

    def __enter__(self) -> "LLM":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def __repr__(self) -> str:
        if self._engine.closed:
            return "LLM(closed)"
        return f"LLM({self._engine.info['name']!r})"
