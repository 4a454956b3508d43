"""Pictures and clips in every form that scripts hand over."""

import pathlib
import time
import warnings

import numpy as np
from PIL import Image

import videre
from common import MEDIA, Case, e2e, greedy, load, processor, shared, system, url_part, user
from videre import _videre


class Metadata:
    """Of the shape of transformers' VideoMetadata."""

    def __init__(self, **fields):
        self.__dict__.update({"duration": None, "total_num_frames": None, "video_backend": "opencv", **fields})


class OnlyDlpack:
    """A tensor of another library: no buffer, no array interface."""

    def __init__(self, array):
        self._array = array

    def __dlpack__(self, **kwargs):
        return self._array.__dlpack__(**kwargs)

    def __dlpack_device__(self):
        return self._array.__dlpack_device__()


def golden_clip():
    """The reference clip's frames as OpenCV reads them, out of its MJPEG."""
    data = (MEDIA / "clip.avi").read_bytes()
    frames, at = [], 0
    while (start := data.find(b"\xff\xd8\xff", at)) >= 0:
        at = data.find(b"\xff\xd9", start) + 2
        frames.append(data[start:at])
    return frames


class Pictures(Case):
    def ids(self, value, **kwargs):
        prompt = "<image>\nWhat is shown?"
        out = shared().generate(
            {"prompt": prompt, "multi_modal_data": {"image": value}, "mm_processor_kwargs": kwargs},
            greedy(6, logprobs=0),
            use_tqdm=False,
        )[0]
        return out.outputs[0].token_ids, round(out.outputs[0].cumulative_logprob, 3), len(out.prompt_token_ids)

    def test_every_form_is_the_same_picture(self):
        path = MEDIA / "wide.jpg"
        pil = Image.open(path)
        array = np.asarray(pil)
        expected = self.ids(path)
        forms = {
            "url": path.as_uri(),
            "text path": str(path),
            "bytes": path.read_bytes(),
            "pil": pil,
            "list": [pil],
            "HWC": array,
            "CHW": np.ascontiguousarray(array.transpose(2, 0, 1)),
            "CHW view": array.transpose(2, 0, 1),
            "strided": np.repeat(np.repeat(array, 2, 0), 2, 1)[::2, ::2],
            "read-only": np.array(array),
            "dlpack": OnlyDlpack(np.array(array)),
            "flipped twice": np.ascontiguousarray(array[::-1])[::-1],
        }
        forms["read-only"].setflags(write=False)
        for name, value in forms.items():
            with self.subTest(name):
                self.assertEqual(self.ids(value), expected)

    def test_modes_and_orientation_as_for_files(self):
        for name in ("alpha.png", "palette.png", "gray.png", "tall.webp", "tiny.png"):
            with self.subTest(name):
                self.assertEqual(self.ids(Image.open(MEDIA / name)), self.ids(MEDIA / name))
        turned = Image.open(MEDIA / "wide.jpg")
        exif = turned.getexif()
        exif[0x0112] = 6
        file = pathlib.Path(self.id() + ".png")
        turned.save(file, exif=exif)
        try:
            self.assertEqual(self.ids(Image.open(file)), self.ids(file))
            self.assertNotEqual(self.ids(file), self.ids(MEDIA / "wide.jpg"))
        finally:
            file.unlink()

    def test_in_conversations(self):
        case = e2e("image")[1]
        for make in (
            lambda name: {"type": "image", "image": Image.open(MEDIA / name)},
            lambda name: {"type": "image_pil", "image_pil": Image.open(MEDIA / name)},
            lambda name: {
                "type": "image",
                "image": np.asarray(Image.open(MEDIA / name).convert("RGBA").convert("RGB"))
                if name == "none"
                else MEDIA / name,
            },
        ):
            parts = [make(name) for name in case["files"]]
            out = shared().chat(
                [system(), user(case["text"], *parts)], greedy(12), use_tqdm=False, mm_processor_kwargs=processor(case)
            )[0]
            self.assertEqual(out.outputs[0].token_ids, case["greedy"])

    def test_tiles_of_a_call_and_of_a_prompt(self):
        few, many = self.ids(MEDIA / "wide.jpg", max_num_tiles=1)[2], self.ids(MEDIA / "wide.jpg", max_num_tiles=12)[2]
        self.assertLess(few, many)
        out = shared().generate(
            {"prompt": "<image>\nWhat is shown?", "multi_modal_data": {"image": MEDIA / "wide.jpg"}},
            greedy(1),
            use_tqdm=False,
            mm_processor_kwargs={"max_num_tiles": 1},
        )
        self.assertEqual(len(out[0].prompt_token_ids), few)

    def test_pixels_are_borrowed_not_copied(self):
        array = np.zeros((40, 50, 3), np.uint8)
        self.assertTrue(_videre.Media.image(array).borrowed)
        self.assertTrue(_videre.Media.image(OnlyDlpack(array)).borrowed)
        self.assertTrue(_videre.Media.image(array.transpose(2, 0, 1)).borrowed)  # the same bytes in the same order
        self.assertFalse(_videre.Media.image(np.ascontiguousarray(array.transpose(2, 0, 1))).borrowed)
        clip = np.zeros((4, 40, 50, 3), np.uint8)
        self.assertTrue(_videre.Media.video(clip, [0, 1, 2, 3], 2.0).borrowed)

    def test_a_clip_is_not_copied_as_a_whole(self):
        import resource

        def peak():
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

        clip = np.ones((32, 1080, 1920, 3), np.uint8)
        ask = lambda frames: shared().generate(  # noqa: E731
            {
                "prompt": "<video>",
                "multi_modal_data": {"video": (frames, {"fps": 2.0, "frames_indices": range(len(frames))})},
            },
            greedy(1),
            use_tqdm=False,
        )
        ask(clip[:4])
        before = peak()
        ask(clip)
        self.assertLess(peak() - before, clip.nbytes / 2)

    def test_borrowed_arrays_are_let_go(self):
        import gc
        import weakref

        class Owned(np.ndarray):
            pass

        array = np.zeros((40, 50, 3), np.uint8).view(Owned)
        gone = weakref.ref(array)
        shared().generate({"prompt": "<image>", "multi_modal_data": {"image": array}}, greedy(1), use_tqdm=False)
        del array
        end = time.monotonic() + 5
        while gone() is not None:  # no other call is needed
            self.assertLess(time.monotonic(), end, "the array is still held")
            gc.collect()
            time.sleep(0.01)

    def test_bad_pictures(self):
        good = np.zeros((8, 8, 3), np.uint8)
        for value, pattern in (
            (good.astype(np.float32), "dtype is float32"),
            (good[..., 0], r"shape is \(8, 8\)"),
            (np.zeros((8, 8, 4), np.uint8), "shape is"),
            (np.zeros((0, 8, 3), np.uint8), "shape is"),
            (good[None], "shape is"),
            (object(), "type object is no array"),
            (b"not a picture", ""),
            ({"image_embeds": 1}, "embeddings"),
            (7, "type int is no array"),
        ):
            with self.subTest(pattern):
                self.refused(ValueError, pattern, lambda value=value: self.ids(value))
        self.refused(FileNotFoundError, "none.png", lambda: self.ids("/none.png"))
        self.refused(
            FileNotFoundError,
            "none.png",
            lambda: shared().chat([user("a", url_part("image", "none.png"))], use_tqdm=False),
        )
        self.refused(ValueError, "audio", lambda: shared().generate({"prompt": "a", "multi_modal_data": {"audio": 1}}))
        self.refused(ValueError, "multi_modal_dat", lambda: shared().generate({"prompt": "a", "multi_modal_dat": {}}))

    def test_placeholders_must_agree(self):
        picture = np.zeros((8, 8, 3), np.uint8)
        for prompt, images in (
            ("none", [picture]),
            ("<image>", []),
            ("<image><image>", [picture]),
            ("<image>", [picture] * 2),
        ):
            data = {"image": images} if images else None
            self.refused(
                ValueError,
                "placeholder",
                lambda: shared().generate({"prompt": prompt, "multi_modal_data": data}, use_tqdm=False),
            )
        self.refused(
            ValueError, "brings no image", lambda: shared().chat([user("a", {"type": "image"})], use_tqdm=False)
        )

    def test_uuids_stand_for_known_pictures(self):
        ask = lambda image: (
            shared()
            .generate(
                {
                    "prompt": "<image>",
                    "multi_modal_data": {"image": image},  # noqa: E731
                    "multi_modal_uuids": {"image": ["one"]},
                },
                greedy(4),
                use_tqdm=False,
            )[0]
            .outputs[0]
            .token_ids
        )
        first = ask([Image.open(MEDIA / "gray.png")])
        self.assertEqual(ask([None]), first)
        shared().reset_mm_cache()
        self.refused(ValueError, "is not known here", lambda: ask([None]))


class Clips(Case):
    frames = np.random.default_rng(5).integers(0, 255, (6, 40, 60, 3), np.uint8)
    fields = dict(fps=30.0, frames_indices=[0, 15, 30, 45, 60, 75], total_num_frames=90, duration=3.0)

    def ask(self, value, **kwargs):
        return shared().generate(
            {"prompt": "<video>\nWhat happens?", "multi_modal_data": {"video": value}, **kwargs},
            greedy(6),
            use_tqdm=False,
        )[0]

    def test_every_form_is_the_same_clip(self):
        expected = self.ask((self.frames, self.fields)).outputs[0].token_ids
        from transformers.video_utils import VideoMetadata

        values = {
            "object": (self.frames, Metadata(**self.fields)),
            "VideoMetadata": (self.frames, VideoMetadata(**self.fields)),
            "list of one": [(self.frames, self.fields)],
            "CHW": (self.frames.transpose(0, 3, 1, 2), self.fields),
            "list of arrays": (list(self.frames), self.fields),
            "list of pictures": ([Image.fromarray(f) for f in self.frames], self.fields),
            "numpy numbers": (
                self.frames,
                {**self.fields, "frames_indices": np.array(self.fields["frames_indices"]), "fps": np.float32(30)},
            ),
            "dlpack": (_Sized(self.frames), self.fields),
        }
        for name, value in values.items():
            with self.subTest(name):
                self.assertEqual(self.ask(value).outputs[0].token_ids, expected)

    def test_the_references_clip_decoded(self):
        import io

        case = e2e("video")[1]
        pictures = [np.asarray(Image.open(io.BytesIO(data))) for data in golden_clip()]
        plan = shared().plan([system(), user(case["text"], url_part("video", "clip.avi"))])[0].videos[0]
        self.assertEqual(plan.frames_indices, case["indices"])
        clip = (np.stack([pictures[i] for i in case["indices"]]), {"fps": plan.fps, "frames_indices": case["indices"]})
        out = shared().chat(
            [system(), user(case["text"], {"type": "video", "video": clip})],
            greedy(1),
            use_tqdm=False,
            mm_processor_kwargs={"video_pruning_rate": 0.5},
        )[0]
        self.assertEqual(out.outputs[0].token_ids, case["greedy"][:1])
        self.assertEqual(len(out.prompt_token_ids), len(case["prompt_ids"]))

    def test_pruning_rate_of_a_prompt(self):
        full = self.ask((self.frames, self.fields))
        half = self.ask((self.frames, self.fields), mm_processor_kwargs={"video_pruning_rate": 0.5})
        self.assertEqual(len(full.prompt_token_ids) - len(half.prompt_token_ids), 6 * 16 // 2)

    def test_times_come_from_indices_and_fps(self):
        text = shared().get_tokenizer().decode(self.ask((self.frames, self.fields)).prompt_token_ids)
        self.assertIn("Frame 2 sampled at 0.49 seconds", text)  # whole milliseconds a frame: 33

    def test_one_frame_needs_no_rate(self):
        text = (
            shared()
            .get_tokenizer()
            .decode(self.ask((self.frames[:1], dict(fps=None, frames_indices=[7]))).prompt_token_ids)
        )
        self.assertIn("Frame 1 sampled at 0.00 seconds", text)

    def test_a_rate_of_sampling_is_warned_about(self):
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            self.ask((self.frames, {**self.fields, "fps": 2.0, "duration": 2.5}))
        self.assertTrue(any("fps should be the rate" in str(warning.message) for warning in seen))

    def test_bad_clips(self):
        without = {key: value for key, value in self.fields.items() if key != "frames_indices"}
        for value, pattern in (
            (self.frames, "metadata"),
            ((self.frames, None), "metadata"),
            ((self.frames, without), "frames_indices is missing"),
            ((self.frames, {**self.fields, "frames_indices": [0, 1]}), "6 frames has 2 frames_indices"),
            ((self.frames, {**self.fields, "fps": None}), "fps is None"),
            ((self.frames, {**self.fields, "fps": 0}), "fps is 0"),
            ((self.frames.astype(float), self.fields), "dtype is float64"),
            ((self.frames[..., :2], self.fields), "shape is"),
            ((self.frames[0], {**self.fields, "frames_indices": range(40)}), "shape is"),
            ((list(self.frames[:5]) + [self.frames[5][:20]], self.fields), "frame 5 is 60 x 20 and frame 0 is 60 x 40"),
            ((self.frames, {**self.fields, "frames_indices": [-1, 1, 2, 3, 4, 5]}), "holds -1"),
            ((self.frames, {**self.fields, "frames_indices": [2**70] * 6}), "holds 1180591620717411303424"),
            ((self.frames, {**self.fields, "frames_indices": "abcdef"}), "no list of numbers"),
            ((self.frames, {**self.fields, "frames_indices": 5}), "no list of numbers"),
            ((self.frames, {**self.fields, "fps": "fast"}), "fps is 'fast'; expected a number"),
            ((self.frames, {**self.fields, "fps": float("inf")}), "fps is inf"),
            ((self.frames, {**self.fields, "duration": [3]}), r"duration is \[3\]"),
            ((self.frames[0], self.fields), r"shape is \(40, 60, 3\)"),
            ((5, self.fields), "frames are of type int"),
            (([], {**self.fields, "frames_indices": []}), ""),
        ):
            with self.subTest(pattern):
                self.refused(ValueError, pattern, lambda value=value: self.ask(value))

    def test_whole_clip_needs_no_indices(self):
        every = self.ask((self.frames, dict(fps=2.0, total_num_frames=6)))
        self.assertEqual(
            every.outputs[0].token_ids,
            self.ask((self.frames, dict(fps=2.0, frames_indices=range(6)))).outputs[0].token_ids,
        )

    def test_limits(self):
        with load(limit_mm_per_prompt={"video": 1}) as llm:
            self.refused(
                videre.Error,
                "at most 1",
                lambda: llm.generate(
                    {"prompt": "<video><video>", "multi_modal_data": {"video": [(self.frames, self.fields)] * 2}},
                    use_tqdm=False,
                ),
            )


class _Sized(OnlyDlpack):
    def __len__(self):
        return len(self._array)
