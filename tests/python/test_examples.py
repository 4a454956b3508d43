"""examples/python, each as a user runs it."""

import shutil
import subprocess
import sys

from videre import LLM, Error

from common import MEDIA, MODEL, TESTS, WORK, Case

EXAMPLES = TESTS.parent / "examples" / "python"


def chosen():
    """The built-in model, or tests/tiny-b for a build without one."""
    try:
        LLM("builtin", max_model_len=512).close()
    except Error:
        return MODEL
    return "builtin"


CHOSEN = chosen()


class Examples(Case):
    def run_example(self, name, *words):
        done = subprocess.run(
            [sys.executable, str(EXAMPLES / name), *map(str, words)],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        self.assertEqual(done.returncode, 0, done.stderr[-2000:])
        self.assertTrue(done.stdout.strip())
        return done.stdout

    def test_each_is_short(self):
        for path in EXAMPLES.glob("*.py"):
            self.assertLess(len(path.read_text().splitlines()), 60, path.name)

    def test_picture(self):
        self.assertIn("481x202 px", self.run_example("picture.py", MEDIA / "wide.jpg", CHOSEN))

    def test_video(self):
        out = self.run_example("video.py", MEDIA / "clip.avi", CHOSEN)
        self.assertIn("8 frames", out)
        self.assertIn("rate 0.5, prompt of", out)

    def test_own_sampling(self):
        self.run_example("own_sampling.py", MEDIA / "gray.png", MEDIA / "square.png", f"--model={CHOSEN}")

    def test_many_documents(self):
        folder = WORK / "pages"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for name in ("gray.png", "wide.jpg", "square.png"):
            shutil.copy(MEDIA / name, folder)
        (folder / "broken.png").write_bytes(b"no picture")
        lines = self.run_example("many_documents.py", folder, CHOSEN).splitlines()
        self.assertEqual(len(lines), 4)
        self.assertIn('"error"', lines[0])
        self.assertTrue(all('"answer"' in line for line in lines[1:]))

    def test_streaming(self):
        out = self.run_example("streaming.py", CHOSEN)
        self.assertIn("a: ", out)
        self.assertIn("b: ", out)

    def test_tool_loop(self):
        self.run_example("tool_loop.py", CHOSEN)
        sys.path.insert(0, str(EXAMPLES))
        try:
            from tool_loop import FUNCTIONS, tool_calls
        finally:
            sys.path.pop(0)
        call = tool_calls('I add.<TOOLCALL>[{"name": "add", "arguments": {"a": 17, "b": 25}}]</TOOLCALL>')[0]
        self.assertEqual(FUNCTIONS[call["name"]](**call["arguments"]), {"sum": 42})
        self.assertEqual(tool_calls("42"), [])

    def test_reasoning_budget(self):
        out = self.run_example("reasoning_budget.py", CHOSEN)
        self.assertIn("reasoning, ", out)
        self.assertIn("answer: ", out)
