#!/usr/bin/env python3
"""What a person waits for, with the built-in model: a running server's first token about a one-tile picture, its
tokens a second in one stream, and `videre run` from process start to the first token on the screen.

usage: first_token.py VIDERE [COUNT]

Every picture is another one. Prints medians, and the machine's load before and after. Python's standard library only.
"""

import base64
import http.client
import json
import os
import pathlib
import random
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
import zlib

SIDE = 192  # one tile of the built-in model


def png(seed):
    """A picture of SIDE x SIDE: a few boxes on paper."""
    draw = random.Random(seed)
    rows = [bytearray(b"\xf0" * (3 * SIDE)) for _ in range(SIDE)]
    for _ in range(6):
        x, y, width, height = draw.randrange(150), draw.randrange(150), draw.randrange(4, 40), draw.randrange(4, 40)
        colour = bytes(draw.randrange(256) for _ in range(3))
        for row in rows[y : y + height]:
            row[3 * x : 3 * (x + width)] = colour * len(range(x, min(x + width, SIDE)))
    data = zlib.compress(b"".join(b"\0" + bytes(row) for row in rows))

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", SIDE, SIDE, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def ready(port):
    try:
        client = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        client.request("GET", "/health")
        return client.getresponse().status == 200
    except OSError:
        return False


def stream(port, content, **fields):
    """Seconds to the first token and to the last, and their number."""
    body = {"messages": [{"role": "user", "content": content}], "stream": True, "temperature": 0, **fields}
    body["stream_options"] = {"include_usage": True}
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    started = time.perf_counter()
    client.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
    answer = client.getresponse()
    assert answer.status == 200, answer.read()
    first = last = None
    for line in answer:
        if not line.startswith(b"data: {"):
            continue
        piece = json.loads(line[6:])
        if piece["choices"]:
            last = time.perf_counter() - started
            first = first or last
        if piece.get("usage"):
            tokens = piece["usage"]["completion_tokens"]
    client.close()
    return first, last, tokens


def run(binary, picture):
    started = time.perf_counter()
    command = [binary, "run", "--image", picture, "--temperature", "0", "What is shown?"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout.read(1)
        first = time.perf_counter() - started
        process.stdout.read()
    assert process.returncode == 0
    return first


def main(binary, count="31"):
    binary, count = os.path.abspath(binary), int(count)
    print("load before", os.getloadavg()[0])
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen([binary, "serve", "--host", "127.0.0.1", "--port", str(port)], stderr=subprocess.DEVNULL)
    try:
        while not ready(port):
            assert server.poll() is None, "the server has ended"
            time.sleep(0.05)
        stream(port, "Hello")
        firsts, rates = [], []
        for i in range(count):
            url = "data:image/png;base64," + base64.b64encode(png(i)).decode()
            content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "What is shown?"}]
            firsts.append(stream(port, content)[0])
            first, last, tokens = stream(port, f"Hello {i}", max_tokens=256, ignore_eos=True)
            rates.append((tokens - 1) / (last - first))
    finally:
        server.terminate()
        server.wait()
    with tempfile.TemporaryDirectory() as folder:
        starts = []
        for i in range(count):
            picture = pathlib.Path(folder, f"{i}.png")
            picture.write_bytes(png(i))
            starts.append(run(binary, picture))
    for name, values, unit in (
        ("running server, one-tile picture: first token", firsts, "s"),
        ("running server, one stream of 256 tokens", rates, "tokens/s"),
        ("videre run --image, process start to first token", starts, "s"),
    ):
        low, high = min(values), max(values)
        print(f"{name}: median {statistics.median(values):.4g} {unit} ({low:.4g} to {high:.4g}, {count} times)")
    print("load after", os.getloadavg()[0])


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    main(*sys.argv[1:])
