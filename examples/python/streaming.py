"""Text as it comes, from threads' and from asyncio's point of view: streaming.py [MODEL]"""

import asyncio
import sys
from typing import Any

from videre import LLM, AsyncLLM, SamplingParams

PARAMS = SamplingParams(temperature=0, max_tokens=24)


def conversation(text: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": text}]


def blocking(model: str | None) -> None:
    with LLM(model, max_model_len=4096) as llm:
        for piece in llm.chat(conversation("Count to ten."), PARAMS, stream=True):
            print(piece.outputs[0].text, end="", flush=True)
        print()


async def side_by_side(model: str | None) -> None:
    async with await AsyncLLM.create(model, max_model_len=4096) as llm:

        async def ask(name: str, question: str) -> None:
            async for piece in llm.chat(conversation(question), PARAMS, stream=True):
                print(f"{name}: {piece.outputs[0].text!r}")

        await asyncio.gather(ask("a", "What is a cat?"), ask("b", "What is a dog?"))


if __name__ == "__main__":
    chosen = sys.argv[1] if len(sys.argv) > 1 else None
    blocking(chosen)
    asyncio.run(side_by_side(chosen))
