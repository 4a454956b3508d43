#!/usr/bin/env python3
"""The installed library as its users have it: run.py --build BUILD --work DIR.

Installs BUILD into DIR, builds examples/cpp over it with find_package(videre), shared and static, runs every
example, and holds the library to the names that it may show.
"""

import argparse
import pathlib
import re
import shutil
import subprocess
import sys
import unittest

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
EXAMPLES = ROOT / "examples" / "cpp"
MEDIA = ROOT / "tests" / "tiny-b" / "media"
PUBLIC = {"error_status", "version", "read_all", "Engine::load"}
options = argparse.Namespace()


def run(*words):
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False, timeout=600)
    if done.returncode != 0:
        raise AssertionError(
            f"{' '.join(map(str, words))}: exit code {done.returncode}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
        )
    return done.stdout


def build(name, *definitions, target="all"):
    folder = options.work / name
    run(
        "cmake",
        "-S",
        EXAMPLES,
        "-B",
        folder,
        "-G",
        "Ninja",
        f"-DCMAKE_PREFIX_PATH={options.prefix}",
        "-DCMAKE_CXX_FLAGS=-Wall -Wextra -Werror -Wno-missing-field-initializers",
        *definitions,
    )
    run("cmake", "--build", folder, "--target", target)
    return folder


class Library(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        options.prefix = options.work / "prefix"
        shutil.rmtree(options.prefix, ignore_errors=True)
        run("cmake", "--install", options.build, "--prefix", options.prefix)
        cls.shared = build("shared")

    def example(self, name, *words, folder=None):
        out = run((folder or self.shared) / name, *words, options.model)
        self.assertTrue(out.strip())
        return out

    def test_only_public_names_show(self):
        library = next(options.prefix.glob("lib*/**/libvidere.so"))
        shown = {
            re.sub(r"^videre::|\(.*", "", line.split(" ", 2)[2])
            for line in run("nm", "-DC", "--defined-only", library).splitlines()
        }
        self.assertEqual(shown, PUBLIC)
        headers = {
            str(path.relative_to(options.prefix / "include")) for path in (options.prefix / "include").rglob("*.h")
        }
        self.assertEqual(headers, {f"videre/{path.name}" for path in (ROOT / "include/videre").glob("*.h")})

    def test_versions(self):
        version = re.search(r"project\(videre VERSION ([0-9.]+)", (ROOT / "CMakeLists.txt").read_text())[1]
        library = next(options.prefix.glob("lib*/**/libvidere.so"))
        self.assertEqual(library.resolve().name, f"libvidere.so.{version}")
        self.assertIn(f"libvidere.so.{version.rpartition('.')[0]}]", run("readelf", "-d", library))

    def test_each_example_is_short(self):
        for path in EXAMPLES.glob("*.cc"):
            self.assertLess(len(path.read_text().splitlines()), 60, path.name)

    def test_static_gives_the_same(self):
        static = build("static", "-DSTATIC=ON", target="picture")
        self.assertNotIn("libvidere", run("ldd", static / "picture"))
        self.assertEqual(
            self.example("picture", MEDIA / "wide.jpg", folder=static), self.example("picture", MEDIA / "wide.jpg")
        )

    def test_picture(self):
        self.assertIn("481x202 px", self.example("picture", MEDIA / "wide.jpg"))

    def test_refusals_have_exit_codes(self):
        done = subprocess.run(
            [self.shared / "picture", MEDIA / "wide.jpg", "/nowhere"], capture_output=True, text=True, check=False
        )
        self.assertEqual(done.returncode, 3)
        self.assertIn("/nowhere", done.stderr)

    def test_video(self):
        out = self.example("video", MEDIA / "clip.avi")
        self.assertIn("8 frames, ", out)
        self.assertIn("at rate 0.5", out)

    def test_own_sampling(self):
        self.example("own_sampling")

    def test_many_documents(self):
        folder = options.work / "pages"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for i in range(20):
            shutil.copy(MEDIA / "gray.png", folder / f"{i:02}.png")
        (folder / "07.png").write_bytes(b"no picture")
        lines = [line for line in self.example("many_documents", folder).splitlines() if re.match(r"\d\d\.png: ", line)]
        self.assertEqual(len(lines), 20)
        self.assertTrue(lines[7].startswith("07.png: error: "))

    def test_streaming(self):
        out = self.example("streaming")
        self.assertRegex(out, "(?m)^0: ")
        self.assertRegex(out, "(?m)^1: ")

    def test_tool_loop(self):
        self.example("tool_loop")

    def test_reasoning_budget(self):
        self.assertIn("answer: ", self.example("reasoning_budget"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build", type=pathlib.Path, required=True)
    parser.add_argument("--work", type=pathlib.Path, required=True)
    parser.parse_args(namespace=options)
    options.work = options.work.resolve()
    # The built-in model, or tests/tiny-b for a build without one.
    own = (
        subprocess.run([options.build / "videre", "inspect", "builtin"], capture_output=True, check=False).returncode
        == 0
    )
    options.model = "builtin" if own else ROOT / "tests/tiny-b/checkpoint"
    options.work.mkdir(parents=True, exist_ok=True)
    result = unittest.TextTestRunner().run(unittest.defaultTestLoader.loadTestsFromTestCase(Library))
    sys.exit(0 if result.wasSuccessful() else 1)
