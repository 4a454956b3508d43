"""Videre: NVIDIA Nemotron-Nano-12B-v2-VL from Python; pictures and video in, text out.

from videre import LLM, SamplingParams

llm = LLM()  # the built-in model; or a checkpoint's folder
out = llm.generate("The sky is", SamplingParams(temperature=0, max_tokens=8))
print(out[0].outputs[0].text)
"""

from typing import TYPE_CHECKING

from ._errors import (
    Error,
    InvalidRequestError,
    NotFoundError,
    OutOfMemoryError,
    UnsupportedError,
)
from ._videre import __version__
from .llm import LLM
from .outputs import CompletionOutput, ImagePlan, Logprob, Metric, Plan, RequestMetrics, RequestOutput, VideoPlan
from .sampling_params import RequestOutputKind, SamplingParams
from .tokenizer import Tokenizer

__all__ = [
    "AsyncLLM",
    "CompletionOutput",
    "Error",
    "ImagePlan",
    "InvalidRequestError",
    "LLM",
    "Logprob",
    "Metric",
    "NotFoundError",
    "OutOfMemoryError",
    "Plan",
    "RequestMetrics",
    "RequestOutput",
    "RequestOutputKind",
    "SamplingParams",
    "Tokenizer",
    "UnsupportedError",
    "VideoPlan",
    "__version__",
]


if TYPE_CHECKING:
    from .async_llm import AsyncLLM


def __getattr__(name: str) -> object:
    if name == "AsyncLLM":  # asyncio doubles the time of import, so it waits until it is wanted
        from .async_llm import AsyncLLM

        globals()[name] = AsyncLLM
        return AsyncLLM
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
