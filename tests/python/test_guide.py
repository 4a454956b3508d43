"""The user guide's three scripts, with the words changed that README.md names and no others."""

import os
import re
import subprocess
import sys

from common import MEDIA, MODEL, TESTS, WORK, Case, greedy, load, url_part, user

GUIDE = TESTS / "python" / "guide.md"
# What stands in for decord where it does not install: its two calls that the script makes, over PyAV or OpenCV.
DECORD = """
import numpy as np
class VideoReader:
    def __init__(self, path):
        try:
            import av
            with av.open(path) as container:
                stream = container.streams.video[0]
                self._fps = float(stream.average_rate)
                self._frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
        except ImportError:
            import cv2
            video = cv2.VideoCapture(path)
            self._fps = video.get(cv2.CAP_PROP_FPS)
            self._frames = []
            while (read := video.read())[0]:
                self._frames.append(read[1][..., ::-1])
    def __len__(self):
        return len(self._frames)
    def get_avg_fps(self):
        return self._fps
    def get_batch(self, indices):
        frames = np.stack([self._frames[i] for i in indices])
        return type("Batch", (), {"asnumpy": lambda self: frames})()
"""


def scripts():
    blocks = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    return [block for block in blocks if "from vllm import" in block]


class Guide(Case):
    def run_script(self, number, **words):
        text = scripts()[number]
        changes = {
            "from vllm import": "from videre import",
            "nvidia/NVIDIA-Nemotron-Nano-12B-v2-VL-BF16": MODEL,
            **words,
        }
        for old, new in changes.items():
            self.assertIn(old, text)
            text = text.replace(old, new)
        folder = WORK / "guide"
        folder.mkdir(exist_ok=True)
        script = folder / f"script{number}.py"
        script.write_text(text)
        try:
            import decord  # noqa: F401
        except ImportError:
            (folder / "decord.py").write_text(DECORD)
        done = subprocess.run(
            [sys.executable, str(script)],
            capture_output=True,
            check=False,
            timeout=600,
            env={**os.environ, "TRANSFORMERS_VERBOSITY": "error", "PYTHONWARNINGS": "ignore"},
        )
        self.assertEqual(done.returncode, 0, done.stderr[-3000:])
        self.assertIn(b"Processed prompts: 100%", done.stderr)
        return done.stdout.decode()

    def test_there_are_three(self):
        self.assertEqual(len(scripts()), 3)

    def test_picture(self):
        out = self.run_script(0, **{"/path/to/image.jpg": str(MEDIA / "wide.jpg")})
        with load(max_model_len=2**17, dtype="auto", media_io_kwargs=None) as llm:
            answer = llm.chat(
                [
                    {
                        "role": "user",
                        "content": [{"type": "text", "text": "Describe the image."}, url_part("image", "wide.jpg")],
                    }
                ],
                greedy(1024),
                mm_processor_kwargs={"max_num_tiles": 12},
                use_tqdm=False,
            )
        self.assertEqual(out, answer[0].outputs[0].text + "\n")

    def test_clip(self):
        out = self.run_script(1, **{"/path/to/video.mp4": str(MEDIA / "clip.avi")})
        with load(max_model_len=2**17, dtype="auto", video_pruning_rate=0.75) as llm:
            answer = llm.chat(
                [
                    {
                        "role": "user",
                        "content": [{"type": "text", "text": "Describe the video."}, url_part("video", "clip.avi")],
                    }
                ],
                greedy(1024),
                use_tqdm=False,
            )
        self.assertEqual(out, answer[0].outputs[0].text + "\n")

    def test_own_sampling(self):
        out = self.run_script(
            2,
            **{
                "/path/to/video.mp4": str(TESTS / "media_video" / "h264.mp4"),
                "sample_video_frames_to_data_urls": "sample_video_frames",
            },
        )
        shapes = re.findall(r"key=(\w+), vid.shape=\((\d+), (\d+), (\d+), 3\)", out)
        self.assertEqual([shape[0] for shape in shapes], ["8fps_max128frames", "2fps", "16frames"])
        self.assertIn("Prompt: <s>", out)
        self.assertIn("<video>", out)
        answers = out.split("-" * 10)
        self.assertEqual(len(answers), 4)
        self.assertTrue(all(len(answer.strip().splitlines()) >= 1 for answer in answers[:3]))


if __name__ == "__main__":
    assert user
