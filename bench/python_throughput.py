#!/usr/bin/env python3
"""Prompts with pictures through LLM.chat, and through `videre serve` with many clients, on the same machine.

python_throughput.py [MODEL] [PROMPTS]; needs Pillow. Rounds alternate; medians of answered prompts a second.
"""

import base64
import http.client
import io
import json
import queue
import random
import socket
import statistics
import subprocess
import sys
import threading
import time

from PIL import Image

from videre import LLM, SamplingParams

CLIENTS, TOKENS, ROUNDS = 64, 32, 3


def pictures(count, seed):
    """Different each time, so that no cache answers."""
    draw = random.Random(seed)
    for _ in range(count):
        image = Image.effect_noise((draw.randint(200, 500), draw.randint(200, 500)), draw.uniform(20, 90)).convert(
            "RGB"
        )
        file = io.BytesIO()
        image.save(file, "JPEG")
        yield file.getvalue()


def through_llm(llm, files):
    conversations = [
        [{"role": "user", "content": [{"type": "image", "image": data}, {"type": "text", "text": "What is it?"}]}]
        for data in files
    ]
    start = time.monotonic()
    outputs = llm.chat(conversations, SamplingParams(temperature=0, max_tokens=TOKENS, ignore_eos=True), use_tqdm=False)
    took = time.monotonic() - start
    assert all(len(output.outputs[0].token_ids) == TOKENS for output in outputs)
    return len(files) / took


def through_server(port, files):
    todo = queue.SimpleQueue()
    for data in files:
        url = "data:image/jpeg;base64," + base64.b64encode(data).decode()
        part = {"type": "image_url", "image_url": {"url": url}}
        todo.put(
            json.dumps(
                {
                    "messages": [{"role": "user", "content": [part, {"type": "text", "text": "What is it?"}]}],
                    "temperature": 0,
                    "max_tokens": TOKENS,
                    "ignore_eos": True,
                }
            )
        )

    def client():
        connection = http.client.HTTPConnection("127.0.0.1", port)
        while True:
            try:
                body = todo.get_nowait()
            except queue.Empty:
                return
            connection.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            text = answer.read()
            assert json.loads(text)["usage"]["completion_tokens"] == TOKENS, text[:500]

    start = time.monotonic()
    threads = [threading.Thread(target=client) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(files) / (time.monotonic() - start)


def main(model=None, count="200"):
    options = {"max_model_len": 4096, "max_num_seqs": 64}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    server = subprocess.Popen(
        [sys.executable, "-m", "videre", "serve", *([model] if model else []), "--port", str(port), *flags],
        stderr=subprocess.DEVNULL,
    )
    try:
        llm = LLM(model, **options)
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                time.sleep(0.1)
        time.sleep(1)
        ours, theirs = [], []
        for turn in range(ROUNDS):
            ours.append(through_llm(llm, list(pictures(int(count), 2 * turn))))
            theirs.append(through_server(port, list(pictures(int(count), 2 * turn + 1))))
        print(
            f"LLM.chat {statistics.median(ours):.2f}, server with {CLIENTS} clients {statistics.median(theirs):.2f} prompts a second: "
            f"{100 * statistics.median(ours) / statistics.median(theirs):.0f} %  (rounds {[f'{x:.1f}' for x in ours]}, {[f'{x:.1f}' for x in theirs]})"
        )
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    main(*sys.argv[1:3])
