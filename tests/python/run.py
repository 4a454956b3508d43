#!/usr/bin/env python3
"""Wheel, virtual environment, tests: run.py --build BUILD --work DIR [TEST ...]. See README.md."""

import argparse
import os
import pathlib
import shutil
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
SKIPPED = 77  # what ctest takes for "skipped"
BUILD_TOOLS = ["nanobind==3.1.0", "scikit-build-core==1.1.2"]


class Step(Exception):
    pass


def run(*words, env=None, quiet=True):
    started = time.monotonic()
    done = subprocess.run(
        [str(word) for word in words],
        check=False,
        env=env,
        text=True,
        stdout=subprocess.PIPE if quiet else None,
        stderr=subprocess.STDOUT if quiet else None,
    )
    if done.returncode != 0:
        raise Step(f"{' '.join(map(str, words))}: exit code {done.returncode}\n{(done.stdout or '')[-4000:]}")
    return time.monotonic() - started


def environment(python, folder, wanted):
    """A virtual environment with packages, made once."""
    stamp = folder / "packages"
    text = f"{python}\n" + "\n".join(map(str, wanted))
    if not stamp.exists() or stamp.read_text() != text:
        run(python, "-m", "venv", "--clear", folder)
        if wanted:
            run(folder / "bin/python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *wanted)
        stamp.write_text(text)
    return folder / "bin/python"


def make_wheel(python, build, work):
    """The wheel for this Python, out of what is compiled already."""
    version = subprocess.check_output(
        [python, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"], text=True
    ).strip()
    tools = environment(python, work / f"tools-{version}", BUILD_TOOLS)
    out = work / f"wheel-{version}"
    shutil.rmtree(out, ignore_errors=True)
    seconds = run(
        tools,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--disable-pip-version-check",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        out,
        "--config-settings",
        f"build-dir={work / ('build-' + version)}",
        "--config-settings",
        f"cmake.define.VIDERE_PREBUILT={build}",
        ROOT,
        env={**os.environ, "CMAKE_BUILD_PARALLEL_LEVEL": "2"},
    )
    wheel = next(out.glob("*.whl"))
    print(f"{wheel.name}: {wheel.stat().st_size / 1e6:.1f} MB, made in {seconds:.0f} s", flush=True)
    return wheel


def install(python, wheel):
    run(
        python,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--no-deps",
        "--force-reinstall",
        wheel,
    )


def other_pythons():
    """One CPython of each version from 3.11 on, but the one that runs this."""
    found = {}
    places = [
        *os.environ.get("PATH", "").split(os.pathsep),
        *map(str, pathlib.Path.home().glob(".pyenv/versions/*/bin")),
    ]
    for place in places:
        for path in pathlib.Path(place).glob("python3.1[0-9]"):
            minor = int(path.name.rpartition(".")[2])
            works = (
                minor >= 11
                and minor != sys.version_info.minor
                and minor not in found
                and subprocess.run(
                    [str(path), "-c", "import sys, venv; assert sys.implementation.name == 'cpython'"],
                    check=False,
                    capture_output=True,
                ).returncode
                == 0
            )
            if works:
                found[minor] = path
    return [found[minor] for minor in sorted(found)]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build", type=pathlib.Path, required=True)
    parser.add_argument("--work", type=pathlib.Path, required=True)
    parser.add_argument("tests", nargs="*")
    arguments = parser.parse_intermixed_args()
    work = arguments.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    env = {k: v for k, v in os.environ.items() if not k.startswith(("VLLM_", "VIDERE_", "PYTHON"))}
    env.update(PYTHONPATH=str(HERE), PYTHONDONTWRITEBYTECODE="1", VIDERE_TEST_WORK=str(work))
    try:
        packages = [line for line in (HERE / "requirements.txt").read_text().splitlines() if line]
        python = environment(sys.executable, work / "venv", packages)
        tools = environment(sys.executable, work / f"tools-3.{sys.version_info.minor}", BUILD_TOOLS)
    except Step as problem:
        print(f"SKIPPED: {problem}\npython3-venv and a way to PyPI are needed")
        sys.exit(SKIPPED)
    assert tools
    try:
        install(python, make_wheel(sys.executable, arguments.build.resolve(), work))
        names = arguments.tests or ["discover", "-s", str(HERE), "-p", "test_*.py"]
        run(python, "-m", "unittest", *names, env=env, quiet=False)
        stable = None
        for other in [] if arguments.tests else other_pythons():
            alone = environment(other, work / f"alone-{other.name}", [])
            try:
                wheel = stable or make_wheel(other, arguments.build.resolve(), work)
            except Step as problem:  # no headers of that version
                print(f"no wheel for {other.name}: {problem}"[:500])
                continue
            if "abi3" in wheel.name:
                stable = wheel
            install(alone, wheel)
            print(f"{other.name} with {wheel.name}:", flush=True)
            run(alone, "-m", "unittest", "test_alone", env=env, quiet=False)
    except Step as problem:
        print(problem)
        sys.exit(1)


if __name__ == "__main__":
    main()
