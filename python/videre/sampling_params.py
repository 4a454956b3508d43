"""How to sample: the parameters of a request, checked when they are made."""

import json
import math
from collections.abc import Sequence
from enum import Enum
from typing import Any

from . import _videre
from ._errors import InvalidRequestError, unknown_name


class RequestOutputKind(Enum):
    """Accepted for compatibility: calls return whole outputs, and `stream=True` yields pieces."""

    CUMULATIVE = 0
    DELTA = 1
    FINAL_ONLY = 2


# Names that go to the engine as they are.
_PLAIN = (
    "n",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "seed",
    "stop",
    "stop_token_ids",
    "ignore_eos",
    "max_tokens",
    "min_tokens",
    "prompt_logprobs",
    "include_stop_str_in_output",
    "skip_special_tokens",
    "spaces_between_special_tokens",
    "truncate_prompt_tokens",
    "logit_bias",
    "allowed_token_ids",
    "bad_words",
    "structured_outputs",
    "thinking_token_budget",
)
_SKIPPED_WHEN_EMPTY = ("stop", "stop_token_ids", "bad_words", "logit_bias")


class SamplingParams:
    """How many tokens to generate and how to choose them.

    Names, defaults and ranges are those of vLLM: `max_tokens` is 16, temperature 1, and
    `temperature=0` always takes the likeliest token. `None` for temperature, top_p, top_k, min_p or
    repetition_penalty means the checkpoint's own default; `max_tokens=None` means all the context
    that is left. A value out of range raises ValueError.

    n: number of answers to one prompt, which is computed once
    seed: makes sampling repeatable, whatever else runs
    stop, stop_token_ids: texts and tokens that end the answer
    logprobs: log-probabilities of each token and of this many likeliest ones
    """

    _names = (*_PLAIN, "logprobs", "detokenize", "output_kind", "extra_args")

    def __init__(
        self,
        n: int = 1,
        presence_penalty: float = 0.0,
        frequency_penalty: float = 0.0,
        repetition_penalty: float | None = 1.0,
        temperature: float | None = 1.0,
        top_p: float | None = 1.0,
        top_k: int | None = 0,
        min_p: float | None = 0.0,
        seed: int | None = None,
        stop: str | Sequence[str] | None = None,
        stop_token_ids: Sequence[int] | None = None,
        ignore_eos: bool = False,
        max_tokens: int | None = 16,
        min_tokens: int = 0,
        logprobs: int | None = None,
        prompt_logprobs: int | None = None,
        detokenize: bool = True,
        skip_special_tokens: bool = True,
        spaces_between_special_tokens: bool = True,
        include_stop_str_in_output: bool = False,
        output_kind: RequestOutputKind = RequestOutputKind.CUMULATIVE,
        truncate_prompt_tokens: int | None = None,
        logit_bias: dict[int, float] | None = None,
        allowed_token_ids: Sequence[int] | None = None,
        bad_words: Sequence[str] | None = None,
        structured_outputs: Any = None,
        thinking_token_budget: int | None = None,
        extra_args: dict[str, Any] | None = None,
        **unknown: Any,
    ):
        for name in unknown:
            raise TypeError(unknown_name("SamplingParams() got an unexpected keyword argument", name, self._names))
        self.n = n
        self.presence_penalty = presence_penalty
        self.frequency_penalty = frequency_penalty
        self.repetition_penalty = repetition_penalty
        self.temperature = temperature
        self.top_p = top_p
        self.top_k = top_k
        self.min_p = min_p
        self.seed = seed
        self.stop: list[str] = [stop] if isinstance(stop, str) else list(stop or ())
        self.stop_token_ids: list[int] = list(stop_token_ids or ())
        self.ignore_eos = ignore_eos
        self.max_tokens = max_tokens
        self.min_tokens = min_tokens
        self.logprobs = logprobs
        self.prompt_logprobs = prompt_logprobs
        self.detokenize = detokenize
        self.skip_special_tokens = skip_special_tokens
        self.spaces_between_special_tokens = spaces_between_special_tokens
        self.include_stop_str_in_output = include_stop_str_in_output
        self.output_kind = output_kind
        self.truncate_prompt_tokens = truncate_prompt_tokens
        self.logit_bias = logit_bias
        self.allowed_token_ids = None if allowed_token_ids is None else list(allowed_token_ids)
        self.bad_words: list[str] = list(bad_words or ())
        self.structured_outputs = structured_outputs
        self.thinking_token_budget = thinking_token_budget
        self.extra_args = extra_args
        _videre.check_body('{"messages":[],' + self._json() + "}")

    def _json(self) -> str:
        """The fields of a request's body, without braces."""
        cached: str | None = self.__dict__.get("_cached")
        if cached is not None:
            return cached
        fields: dict[str, Any] = {}
        for name in _PLAIN:
            value = getattr(self, name)
            if value is None or (name in _SKIPPED_WHEN_EMPTY and not value):
                continue
            if isinstance(value, float) and not math.isfinite(value):
                raise InvalidRequestError(f"{name} is {value}; expected a finite number", param=name)
            fields[name] = value
        if self.logprobs is not None:
            fields["logprobs"] = True
            fields["top_logprobs"] = int(self.logprobs)
        try:
            text = _encode(fields)[1:-1]
        except (TypeError, ValueError) as error:
            raise InvalidRequestError(f"sampling parameters: {error}") from None
        if not any(isinstance(value, (list, dict)) for value in fields.values()):  # these may change in place
            self.__dict__["_cached"] = text
        return text

    def __setattr__(self, name: str, value: Any) -> None:
        self.__dict__.pop("_cached", None)
        self.__dict__[name] = value

    def _fields(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_cached"}

    def clone(self) -> "SamplingParams":
        """A copy that may be changed on its own."""
        import copy

        return copy.deepcopy(self)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SamplingParams) and self._fields() == other._fields()

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return "SamplingParams(" + ", ".join(f"{name}={value!r}" for name, value in self._fields().items()) + ")"


def _plain_value(value: Any) -> Any:
    if hasattr(value, "item"):  # numpy's scalars
        return value.item()
    return {"type": type(value).__name__}  # structured outputs and the like, which are refused by name


_encode = json.JSONEncoder(separators=(",", ":"), default=_plain_value).encode
