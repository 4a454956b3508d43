"""The model calls functions until it can answer: tool_loop.py [MODEL]"""

import json
import re
import sys
from typing import Any

from videre import LLM, SamplingParams

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "add",
            "description": "Adds two numbers.",
            "parameters": {
                "type": "object",
                "properties": {"a": {"type": "number"}, "b": {"type": "number"}},
                "required": ["a", "b"],
            },
        },
    }
]
FUNCTIONS = {"add": lambda a, b: {"sum": a + b}}


def tool_calls(text: str) -> list[dict[str, Any]]:
    """Calls in the model's own form: <TOOLCALL>[{"name": …, "arguments": {…}}]</TOOLCALL>."""
    found = re.search(r"<TOOLCALL>(.*?)</TOOLCALL>", text, re.DOTALL)
    try:
        return json.loads(found[1]) if found else []
    except json.JSONDecodeError:
        return []


def main(model: str | None = None) -> None:
    llm = LLM(model, max_model_len=8192)
    messages: list[dict[str, Any]] = [{"role": "user", "content": "What is 17 plus 25?"}]
    for _ in range(4):
        params = SamplingParams(temperature=0, max_tokens=64, skip_special_tokens=False)
        text = llm.chat(messages, params, tools=TOOLS, use_tqdm=False)[0].outputs[0].text
        calls = tool_calls(text)
        if not calls:
            break
        functions = [{"type": "function", "function": call} for call in calls]
        messages.append({"role": "assistant", "content": "", "tool_calls": functions})
        for call in calls:
            result = FUNCTIONS[call["name"]](**call["arguments"])
            print(f"{call['name']}({call['arguments']}) = {result}")
            messages.append({"role": "tool", "content": json.dumps(result)})
    print(text)


if __name__ == "__main__":
    main(*sys.argv[1:2])
