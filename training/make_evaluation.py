"""Writes held-out samples as an evaluation set for `videre bench accuracy`: chat-completions bodies with their media inside.

    python -m training.make_evaluation OUT [--count 24] [--limit-kib 20] [--clip-limit-kib 90] [--tasks read_line,shapes]

OUT gets one TASK.jsonl a task and calibration.jsonl, requests of the training side from which quantised checkpoints
take their scales. docs/accuracy.md describes the lines. Without limits the same samples as training.evaluate's; with
limits, samples whose media are larger are passed over, so that a small set fits the repository.
"""
import argparse
import base64
import io
import json
import pathlib
import struct

import numpy as np
from PIL import Image

from . import tasks

MAX_TOKENS = 320


def picture(array):
    """The picture without loss: (media type, bytes)."""
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "webp", lossless=True, quality=60, method=4)
    return "image/webp", buffer.getvalue()


def jpeg(array, quality):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "jpeg", quality=quality, subsampling=0, optimize=True)
    return buffer.getvalue()


def avi(frames, fps, width, height):
    """Motion-JPEG frames as an AVI file."""
    def chunk(tag, data):
        return tag + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)

    def group(kind, *parts):
        return chunk(b"LIST", kind + b"".join(parts))

    rate, n, most = round(fps * 1000), len(frames), max(map(len, frames))
    head = struct.pack("<14I", round(1e6 / fps), 0, 0, 0x10, n, 0, 1, most, width, height, 0, 0, 0, 0)
    stream = b"vidsMJPG" + struct.pack("<IHHIIIIIIII4H", 0, 0, 0, 0, 1000, rate, 0, n, most, 0xFFFFFFFF, 0, 0, 0, width, height)
    form = struct.pack("<IiiHH4sIiiII", 40, width, height, 1, 24, b"MJPG", width * height * 3, 0, 0, 0, 0)
    index, at, body = b"", 4, b""
    for f in frames:
        index += b"00dc" + struct.pack("<III", 0x10, at, len(f))
        piece = chunk(b"00dc", f)
        body, at = body + piece, at + len(piece)
    inside = group(b"hdrl", chunk(b"avih", head), group(b"strl", chunk(b"strh", stream), chunk(b"strf", form))) \
        + group(b"movi", body) + chunk(b"idx1", index)
    return chunk(b"RIFF", b"AVI " + inside)


def part_of(medium, quality):
    """A content part, the request's media_io_kwargs (or None), and the media's size in bytes."""
    if not hasattr(medium, "fps"):
        kind, data = picture(medium.native)
        return {"type": "image_url", "image_url": {"url": f"data:{kind};base64,{base64.b64encode(data).decode()}"}}, None, len(data)
    frames = [jpeg(f, quality) for f in medium.native]
    height, width = medium.native[0].shape[:2]
    if medium.indices == list(range(len(frames))):      # the whole clip: a file
        data = avi(frames, medium.fps, width, height)
        url, kwargs = f"data:video/x-msvideo;base64,{base64.b64encode(data).decode()}", None
    else:                                               # frames out of a longer one
        url = "data:video/jpeg;base64," + ",".join(base64.b64encode(f).decode() for f in frames)
        kwargs = {"video": {"fps": medium.fps, "frames_indices": medium.indices, "total_num_frames": medium.indices[-1] + 1,
                            "duration": (medium.indices[-1] + 1) / medium.fps, "do_sample_frames": False}}
    return {"type": "video_url", "video_url": {"url": url}}, kwargs, sum(map(len, frames))


def request(sample, quality):
    """The chat-completions body of a sample's last question, and the size of its media."""
    body, messages, size = {}, [], 0
    if sample.system:
        messages.append({"role": "system", "content": sample.system})
    if sample.messages:
        for m in sample.messages:
            m = dict(m)
            if m.get("tool_calls"):
                m["tool_calls"] = [{"id": f"call_{k}", "type": "function", "function": c["function"] | {"arguments": json.dumps(c["function"]["arguments"])}}
                                   for k, c in enumerate(m["tool_calls"])]
            messages.append(m)
    else:
        for k, (question, answer) in enumerate(sample.turns):
            content = question
            if k == 0 and sample.media:
                content = []
                for medium in sample.media:
                    part, kwargs, more = part_of(medium, quality)
                    content.append(part)
                    size += more
                    if kwargs:
                        body["media_io_kwargs"] = kwargs
                content.append({"type": "text", "text": question})
            messages.append({"role": "user", "content": content})
            if k < len(sample.turns) - 1:
                messages.append({"role": "assistant", "content": answer})
    body = {"messages": messages} | body
    if sample.tools:
        body["tools"] = sample.tools
    return body | {"temperature": 0, "max_tokens": MAX_TOKENS}, size


def plain(value):
    """JSON's own types instead of numpy's."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(type(value))


def write(path, entries):
    path.write_text("".join(json.dumps(e, ensure_ascii=False, default=plain) + "\n" for e in entries))
    print(f"{path.name:24s} {len(entries):5d} samples {path.stat().st_size // 1024:7d} KiB", flush=True)


def main():
    arg = argparse.ArgumentParser()
    arg.add_argument("out")
    arg.add_argument("--count", type=int, default=24, help="samples a task")
    arg.add_argument("--clip-count", type=int, help="samples a task with clips; as --count when not given")
    arg.add_argument("--limit-kib", type=float, default=0, help="largest media of a sample; 0 = any")
    arg.add_argument("--clip-limit-kib", type=float, default=0, help="the same for clips")
    arg.add_argument("--quality", type=int, default=92, help="of clips' JPEG frames")
    arg.add_argument("--calibration", type=int, default=32, help="calibration requests")
    arg.add_argument("--tasks", default=",".join(tasks.EVALUATION))
    arg.add_argument("--first", type=int, default=5 * 10 ** 8, help="seed of the first sample")
    a = arg.parse_args()
    out = pathlib.Path(a.out)
    out.mkdir(parents=True, exist_ok=True)
    for name in a.tasks.split(","):
        entries, seed = [], a.first
        while len(entries) < (a.clip_count or a.count if name.startswith("clip") else a.count):
            sample = tasks.draw_sample(seed, held=True, maker=tasks.EVALUATION[name])
            seed += 1
            body, size = request(sample, a.quality)
            limit = a.clip_limit_kib if any(hasattr(m, "fps") for m in sample.media) else a.limit_kib
            if limit and size > 1024 * limit:
                continue
            task = sample.task if name == "charts" else name
            entries.append({"task": task, "seed": seed - 1, "request": body,
                            "check": {k: sample.check[k] for k in ("kind", "truth", "scale", "sub") if k in sample.check}})
        write(out / f"{name}.jsonl", entries)
    requests, seed = [], a.first + 10 ** 8
    while len(requests) < a.calibration:
        body, size = request(tasks.draw_sample(seed), a.quality)
        seed += 1
        if not a.limit_kib or size <= 1024 * max(a.limit_kib, a.clip_limit_kib):
            requests.append(body)
    write(out / "calibration.jsonl", requests)


if __name__ == "__main__":
    main()
