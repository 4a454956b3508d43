"""Reasoning of at most so many tokens, then an answer: reasoning_budget.py [MODEL]"""

import sys

from videre import LLM, SamplingParams

BUDGET = 32  # tokens of reasoning


def main(model: str | None = None) -> None:
    llm = LLM(model, max_model_len=8192)
    messages = [
        {"role": "system", "content": "/think"},
        {"role": "user", "content": "A train leaves at 9:40 and arrives at 11:05. How long does it take?"},
    ]
    # First the reasoning alone: it ends by itself at </think>, or when the budget is spent.
    thought = llm.chat(messages, SamplingParams(temperature=0, max_tokens=BUDGET, stop="</think>"), use_tqdm=False)[0]
    reasoning = thought.outputs[0].text
    in_time = thought.outputs[0].stop_reason == "</think>"
    print(f"reasoning, {len(thought.outputs[0].token_ids)} tokens{'' if in_time else ', cut'}: {reasoning}")

    # Then the answer: the same prompt, the reasoning and its closing tag, continued.
    prompt = thought.prompt + reasoning + ("" if in_time else "...\n") + "</think>\n\n"
    answer = llm.generate(prompt, SamplingParams(temperature=0, max_tokens=48), use_tqdm=False)[0]
    print(f"answer: {answer.outputs[0].text}")


if __name__ == "__main__":
    main(*sys.argv[1:2])
