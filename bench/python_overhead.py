#!/usr/bin/env python3
"""What Python adds to a token and to a request: CPU time of the calling thread. python_overhead.py [MODEL]

build/release/bench/library_bench MODEL prints the same for the C++ API; the difference is Python's.
"""

import statistics
import sys
import time

from videre import LLM, SamplingParams


def cost(call, rounds=40):
    """CPU microseconds of this thread: the quartile that other work on the machine disturbs least."""
    for _ in range(5):
        call()
    times = []
    for _ in range(rounds):
        start = time.thread_time()
        call()
        times.append(1e6 * (time.thread_time() - start))
    return statistics.quantiles(times, n=4)[0]


def main(model=None):
    llm = LLM(model, max_model_len=2048)
    short, long = (SamplingParams(temperature=0, max_tokens=n, ignore_eos=True) for n in (1, 1001))
    messages = [{"role": "user", "content": "Hello"}]
    for name, call in (
        ("generate", lambda params: llm.generate("Hello", params, use_tqdm=False)),
        ("chat", lambda params: llm.chat(messages, params, use_tqdm=False)),
        ("stream", lambda params: list(llm.generate("Hello", params, stream=True))),
    ):
        one, many = cost(lambda: call(short)), cost(lambda: call(long))
        print(f"{name}: {one:.0f} us a request of one token, {(many - one) / 1000:.1f} us a further token")


if __name__ == "__main__":
    main(*sys.argv[1:2])
