"""The engine for asyncio: `AsyncLLM`."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from ._calls import Call
from .llm import LLM
from .outputs import RequestOutput


class AsyncLLM:
    """LLM for asyncio: the same calls with the same words, as coroutines.

        llm = await AsyncLLM.create("/path/to/checkpoint")
        outputs = await llm.chat(messages)
        async for piece in llm.chat(messages, stream=True):
            print(piece.outputs[0].text, end="")

    Cancelling the task, or leaving the iterator, ends its requests at once. No thread is used: the
    event loop watches the engine.
    """

    def __init__(self, model: str | None = None, **kwargs: Any):
        """Loads the model, which blocks; `create` loads it beside the event loop."""
        self._llm = LLM(model, **kwargs)

    @classmethod
    async def create(cls, model: str | None = None, **kwargs: Any) -> "AsyncLLM":
        self = cls.__new__(cls)
        self._llm = await asyncio.to_thread(LLM, model, **kwargs)
        return self

    def chat(
        self,
        messages: Any,
        sampling_params: Any = None,
        *,
        stream: bool = False,
        on_error: str = "raise",
        **kwargs: Any,
    ) -> Any:
        """As LLM.chat: a coroutine of the list of outputs, or with `stream` an async iterator of pieces."""
        return self._run(
            self._llm._chat, {"messages": messages, "sampling_params": sampling_params, **kwargs}, stream, on_error
        )

    def generate(
        self, prompts: Any, sampling_params: Any = None, *, stream: bool = False, on_error: str = "raise", **kwargs: Any
    ) -> Any:
        """As LLM.generate, in the same two forms."""
        return self._run(
            self._llm._generate, {"prompts": prompts, "sampling_params": sampling_params, **kwargs}, stream, on_error
        )

    async def plan(self, *args: Any, **kwargs: Any) -> Any:
        return await asyncio.to_thread(self._llm.plan, *args, **kwargs)

    def _run(self, prepare: Any, given: dict[str, Any], stream: bool, on_error: str) -> Any:
        make, params, _ = prepare(given)
        call = self._llm._call(make, params, stream, on_error)
        return self._pieces(call) if stream else self._all(call)

    async def _all(self, call: Call) -> list[RequestOutput]:
        outputs: list[Any] = [None] * len(call.params)
        async for output in self._pieces(call):
            outputs[output.request_index] = output
        return outputs

    async def _pieces(self, call: Call) -> AsyncIterator[RequestOutput]:
        loop = asyncio.get_running_loop()
        readable = asyncio.Event()
        descriptor = call.reader.fileno()
        loop.add_reader(descriptor, readable.set)
        try:
            while not call.done:
                for output in call.fill():
                    yield output
                if call.done:
                    break
                if call.overloaded and not len(call.reader):
                    await asyncio.sleep(0.005)
                else:
                    await readable.wait()
                readable.clear()
                for output in call.poll():
                    yield output
        finally:
            loop.remove_reader(descriptor)
            call.close()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._llm, name)  # get_tokenizer, get_metrics, close and so on

    async def __aenter__(self) -> "AsyncLLM":
        return self

    async def __aexit__(self, *_: Any) -> None:
        self.close()
