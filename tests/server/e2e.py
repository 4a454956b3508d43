#!/usr/bin/env python3
"""End-to-end tests of `videre serve`: e2e.py BINARY --work DIR [TEST ...]. See README.md."""

import argparse
import os
import pathlib
import subprocess
import sys
import unittest

import harness

SKIPPED = 77  # what ctest takes for "skipped"


def with_openai(work):
    """Goes on in a virtual environment that has the requirements, made once."""
    wanted = (harness.HERE / "requirements.txt").read_text()
    venv = work / "venv"
    python = venv / "bin" / "python"
    stamp = venv / "requirements"
    if pathlib.Path(sys.prefix).resolve() == venv.resolve():
        return
    if not stamp.exists() or stamp.read_text() != wanted:
        print(f"making {venv} with {wanted.strip()}", flush=True)
        steps = [
            [sys.executable, "-m", "venv", "--clear", str(venv)],
            [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
             "-r", str(harness.HERE / "requirements.txt")],
        ]
        for step in steps:
            if subprocess.run(step, check=False).returncode != 0:
                print(f"SKIPPED: {' '.join(step)} failed, so the openai package is not at hand; "
                      "python3-venv and a way to PyPI are needed")
                sys.exit(SKIPPED)
        stamp.write_text(wanted)
    os.execv(python, [str(python), *sys.argv])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("binary", type=pathlib.Path)
    parser.add_argument("--work", type=pathlib.Path, required=True)
    parser.add_argument("--verbose", action="store_true")
    parser.add_argument("tests", nargs="*")
    arguments = parser.parse_intermixed_args()
    if not arguments.binary.is_file():
        sys.exit(f"{arguments.binary} is no file; build the target videre first")
    arguments.work.mkdir(parents=True, exist_ok=True)
    with_openai(arguments.work)

    harness.BINARY = arguments.binary.resolve()
    harness.WORK = arguments.work.resolve()
    import cases  # needs the openai package

    loader = unittest.defaultTestLoader
    suite = (loader.loadTestsFromNames(arguments.tests, cases) if arguments.tests
             else loader.loadTestsFromModule(cases))
    result = unittest.TextTestRunner(verbosity=2 if arguments.verbose else 1).run(suite)
    sys.exit(0 if result.wasSuccessful() else 1)


if __name__ == "__main__":
    main()
