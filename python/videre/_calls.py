"""One call's prompts on their way through the engine: submitted within bounded memory, read as they come."""

import json
from collections.abc import Callable, Mapping, Sequence
from time import monotonic
from typing import Any

from . import _videre
from ._errors import Error, InvalidRequestError, unknown_name
from .media import chat_media, image_media, prompt_media, video_media
from .outputs import CompletionOutput, Logprob, RequestMetrics, RequestOutput
from .sampling_params import SamplingParams

_PROMPT_KEYS = (
    "prompt",
    "prompt_token_ids",
    "multi_modal_data",
    "mm_processor_kwargs",
    "multi_modal_uuids",
    "media_io_kwargs",
    "cache_salt",
    "type",
)


def _plain(value: Any) -> Any:
    if hasattr(value, "model_dump"):
        return value.model_dump(exclude_none=True)
    if hasattr(value, "item"):
        return value.item()
    raise TypeError(f"a {type(value).__name__} where text or numbers belong")


_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), default=_plain).encode


def to_json(value: Any, what: str) -> str:
    try:
        return _encode(value)
    except (TypeError, ValueError) as error:
        raise InvalidRequestError(f"{what}: {error}", param=what) from None


def body_fields(fields: Mapping[str, Any]) -> str:
    """What is not None, as the inside of a JSON object."""
    return to_json({key: value for key, value in fields.items() if value is not None}, "the call")[1:-1]


def join(*parts: str) -> str:
    return "{" + ",".join(part for part in parts if part) + "}"


def chat_request(messages: Sequence[Any], sampling: str, fields: str) -> _videre.Request:
    if isinstance(messages, (str, bytes)) or not isinstance(messages, Sequence):
        raise InvalidRequestError(
            f"messages is a {type(messages).__name__}; expected a list of messages", param="messages"
        )
    messages, found = chat_media(messages)
    media = [(video_media if kind == "video" else image_media)(value, uuid) for kind, value, uuid in found]
    return _videre.Request.make(join('"messages":' + to_json(messages, "messages"), sampling, fields), media=media)


class TextRequests:
    """Prompts of `generate`: text, dict, or token ids."""

    def __init__(self, bos: str):
        self.bos = bos

    def make(
        self, prompt: Any, sampling: str, fields: Mapping[str, Any], add_special_tokens: bool | None
    ) -> _videre.Request:
        if isinstance(prompt, str):
            prompt = {"prompt": prompt}
        elif isinstance(prompt, Sequence) and not isinstance(prompt, (bytes, bytearray)):
            prompt = {"prompt_token_ids": prompt}
        if not isinstance(prompt, Mapping):
            raise InvalidRequestError(
                f"a prompt is a {type(prompt).__name__}; expected text, a dict, or token ids", param="prompt"
            )
        for key in prompt:
            if key not in _PROMPT_KEYS:
                raise InvalidRequestError(unknown_name("a prompt has", key, _PROMPT_KEYS), param=str(key))
        text, ids = prompt.get("prompt"), prompt.get("prompt_token_ids")
        if ids is not None:
            text = None
            try:
                ids = [int(token_id) for token_id in ids]
                if any(not 0 <= token_id < 2**31 for token_id in ids):
                    raise ValueError
            except (TypeError, ValueError):
                raise InvalidRequestError(
                    "prompt_token_ids is no list of token ids", param="prompt_token_ids"
                ) from None
        elif not isinstance(text, str):
            raise InvalidRequestError(
                f"a prompt's text is a {type(text).__name__}; expected a string, or prompt_token_ids", param="prompt"
            )
        media = prompt_media(prompt.get("multi_modal_data"), prompt.get("multi_modal_uuids"))
        if ids is not None and media:
            raise InvalidRequestError(
                "prompt_token_ids come with multi_modal_data; send the prompt as text, whose placeholders are expanded",
                param="prompt_token_ids",
            )
        own = {key: prompt[key] for key in ("mm_processor_kwargs", "media_io_kwargs", "cache_salt") if prompt.get(key)}
        if add_special_tokens is None:  # as the tokenizer says, unless the template has put them there
            add_special_tokens = not media and text is not None and not (self.bos and text.startswith(self.bos))
        own["add_special_tokens"] = add_special_tokens
        return _videre.Request.make(
            join('"messages":[]', sampling, body_fields({**fields, **own})), text, ids, media=media
        )


class Call:
    """A window over the prompts of one call. One thread, or one event loop, drives it.

    Requests are made only when there is room for them, so that media of later prompts are read
    while earlier ones generate, and never all at once.
    """

    def __init__(
        self,
        engine: _videre.Engine,
        make: Callable[[int], _videre.Request],
        params: Sequence[SamplingParams | None],
        max_running: int,
        max_held_bytes: int,
        stream: bool,
        on_error: str,
        first_id: int,
    ):
        if on_error not in ("raise", "return"):
            raise ValueError(f"on_error is {on_error!r}; expected 'raise' or 'return'")
        self.engine, self.make, self.params = engine, make, params
        self.max_running, self.max_held_bytes = max_running, max_held_bytes
        self.stream, self.on_error, self.first_id = stream, on_error, first_id
        self.reader = _videre.Reader()
        self.num_submitted = self.num_finished = 0
        self.overloaded = False
        self._ready: _videre.Request | None = None  # made, and waiting for room
        self._held: dict[int, int] = {}
        self._held_bytes = 0
        self._prompts: dict[int, tuple[str, list[int]]] = {}
        self._tokens: dict[int, int] = {}

    @property
    def done(self) -> bool:
        return self.num_finished == len(self.params)

    def fill(self) -> list[RequestOutput]:
        """Submits what there is room for. Returns prompts that failed already."""
        failed = []
        self.overloaded = False
        while self.num_submitted < len(self.params) and len(self.reader) < self.max_running:
            index = self.num_submitted
            try:
                if self._ready is None:
                    self._ready = self.make(index)
                held = self._ready.held_bytes
                if self._held and self._held_bytes + held > self.max_held_bytes:
                    break
                if not self.engine.submit(self._ready, self.reader, index, self.stream):
                    self.overloaded = True
                    break
                self._held[index] = held
                self._held_bytes += held
            except (Error, ValueError, OSError) as error:
                failed.append(self._failed(index, error))
            self._ready = None
            self.num_submitted += 1
        return failed

    def wait(self, timeout_s: float) -> list[RequestOutput]:
        return self._outputs(self.reader.wait(timeout_s))

    def poll(self) -> list[RequestOutput]:
        return self._outputs(self.reader.poll())

    def close(self) -> None:
        """Cancels what is still running."""
        self.reader.cancel_all()
        self._ready = None

    def _failed(self, index: int, error: Exception) -> RequestOutput:
        if self.on_error == "raise":
            raise error
        self.num_finished += 1
        return RequestOutput(str(self.first_id + index), index, "", [], [], True, error=error)

    def _outputs(self, events: list[Any]) -> list[RequestOutput]:
        outputs = []
        for index, error, finished, choices, generation, submitted_s, first_s in events:
            if finished:
                self._held_bytes -= self._held.pop(index, 0)
            if error is not None:
                outputs.append(self._failed(index, error))
                continue
            params = self.params[index]
            detokenize = params is None or params.detokenize
            answers, num_tokens = [], 0
            for place, text, token_ids, cumulative, logprobs, finish_reason, stop_reason in choices:
                if logprobs is not None:
                    logprobs = [
                        {token_id: Logprob(logprob, rank, token) for token_id, logprob, rank, token in row}
                        for row in logprobs
                    ]
                num_tokens += len(token_ids)
                answers.append(
                    CompletionOutput(
                        place,
                        text if detokenize else "",
                        token_ids,
                        cumulative,
                        logprobs,
                        finish_reason,
                        stop_reason,
                    )
                )
            prompt = self._prompts.get(index)
            if prompt is None:
                prompt = (generation.prompt, generation.prompt_token_ids)
            if self.stream and not finished:
                self._prompts[index] = prompt
                num_tokens = self._tokens[index] = self._tokens.get(index, 0) + num_tokens
                metrics, cached = None, None
            else:
                self._prompts.pop(index, None)
                num_tokens += self._tokens.pop(index, 0)
                metrics = RequestMetrics(submitted_s, first_s, monotonic(), num_tokens)
                cached = generation.num_cached_tokens
                self.num_finished += 1
            outputs.append(
                RequestOutput(
                    str(self.first_id + index), index, prompt[0], prompt[1], answers, finished, metrics, cached
                )
            )
        return outputs
