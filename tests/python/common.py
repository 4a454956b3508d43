"""What the tests share: paths, the reference's cases, one LLM."""

import functools
import json
import os
import pathlib
import unittest

TESTS = pathlib.Path(__file__).resolve().parent.parent
TINY = TESTS / "tiny-b"
MODEL = str(TINY / "checkpoint")
MEDIA = TINY / "media"


@functools.cache
def golden():
    return json.loads((TINY / "golden.json").read_text())


def e2e(kind):
    return [case for case in golden()["e2e"] if case["kind"] == kind]


def load(**kwargs):
    from videre import LLM

    options = dict(
        max_model_len=8192,
        max_num_seqs=8,
        dtype="float32",
        allowed_local_media_path=str(TESTS),
        media_io_kwargs={"video": {"fps": 2, "num_frames": 128}},
    )
    options.update(kwargs)
    return LLM(MODEL, **options)


@functools.cache
def shared():
    return load()


def system(text="/no_think"):
    return {"role": "system", "content": text}


def user(text, *parts):
    return {"role": "user", "content": [*parts, {"type": "text", "text": text}]}


def url_part(kind, name):
    return {"type": f"{kind}_url", f"{kind}_url": {"url": (MEDIA / name).as_uri()}}


def processor(case):
    return {key: case[key] for key in ("max_num_tiles", "video_pruning_rate") if key in case}


def greedy(count, **kwargs):
    from videre import SamplingParams

    return SamplingParams(temperature=0, max_tokens=count, **kwargs)


class Case(unittest.TestCase):
    def refused(self, kind, pattern, call):
        with self.assertRaisesRegex(kind, pattern):
            call()

    def settles(self, llm):
        """Nothing of ended requests stays."""
        import time

        end = time.monotonic() + 10
        while True:
            stats = llm._engine.stats
            left = {
                key: stats[key]
                for key in ("num_running", "num_waiting", "num_preparing", "kv_blocks_used", "state_slots_used")
            }
            if not any(left.values()):
                return
            if time.monotonic() > end:
                self.fail(f"left behind: {left}")
            time.sleep(0.02)


WORK = pathlib.Path(os.environ.get("VIDERE_TEST_WORK", "."))
