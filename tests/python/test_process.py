"""Threads, signals, forks, and the end of an LLM."""

import gc
import os
import signal
import subprocess
import sys
import threading
import time

import videre
from common import MODEL, Case, greedy, load, shared, user

LONG = 6000


class Threads(Case):
    def test_many_threads_share_one_llm(self):
        expected = shared().chat([user("Hello")], greedy(8), use_tqdm=False)[0].outputs[0].token_ids
        seen, problems = [], []

        def work(n):
            try:
                for _ in range(5):
                    outs = shared().chat([[user("Hello")]] * n, greedy(8), use_tqdm=False)
                    seen.extend(out.outputs[0].token_ids for out in outs)
            except Exception as error:  # noqa: BLE001
                problems.append(error)

        threads = [threading.Thread(target=work, args=(n,)) for n in (1, 2, 3, 4, 5, 6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(problems, [])
        self.assertEqual(seen, [expected] * 105)

    def test_the_gil_is_free_meanwhile(self):
        ticks, stop = [], threading.Event()

        def tick():
            while not stop.wait(0.002):
                ticks.append(time.monotonic())

        thread = threading.Thread(target=tick)
        thread.start()
        started = time.monotonic()
        shared().generate("Hello", greedy(300, ignore_eos=True), use_tqdm=False)
        took = time.monotonic() - started
        stop.set()
        thread.join()
        during = [t for t in ticks if started <= t <= started + took]
        self.assertGreater(len(during), took / 0.002 / 20)
        self.assertLess(max(b - a for a, b in zip(during, during[1:])), 0.5)


class Interrupts(Case):
    def test_ctrl_c_ends_the_call_and_leaves_the_engine_usable(self):
        llm = shared()
        expected = llm.generate("Hello", greedy(4), use_tqdm=False)[0].outputs[0].token_ids
        for call in (
            lambda: llm.generate(["Hello"] * 3, greedy(LONG, ignore_eos=True), use_tqdm=False),
            lambda: list(llm.generate("Hello", greedy(LONG, ignore_eos=True), stream=True)),
        ):
            sent = []

            def send():
                sent.append(time.monotonic())
                os.kill(os.getpid(), signal.SIGINT)

            timer = threading.Timer(0.3, send)
            timer.start()
            with self.assertRaises(KeyboardInterrupt):
                call()
            self.assertLess(time.monotonic() - sent[0], 1)
            self.settles(llm)
            self.assertEqual(llm.generate("Hello", greedy(4), use_tqdm=False)[0].outputs[0].token_ids, expected)


class Life(Case):
    def test_with_and_close(self):
        with load() as llm:
            llm.generate("a", greedy(1), use_tqdm=False)
        self.refused(videre.Error, "closed", lambda: llm.generate("a", use_tqdm=False))
        llm.close()
        self.assertEqual(repr(llm), "LLM(closed)")

    def test_closing_ends_what_runs(self):
        llm = load()
        seen = []

        def work():
            try:
                seen.append(
                    llm.generate("a", greedy(LONG, ignore_eos=True), use_tqdm=False)[0].outputs[0].finish_reason
                )
            except videre.Error as error:
                seen.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        time.sleep(0.3)
        llm.close()
        thread.join(10)
        self.assertFalse(thread.is_alive())
        self.assertEqual(len(seen), 1)
        self.assertTrue(seen[0] == "abort" or isinstance(seen[0], videre.Error), seen)

    def test_two_at_once_and_deletion_frees(self):
        def threads():
            return len(os.listdir("/proc/self/task"))

        shared().generate("a", greedy(1), use_tqdm=False)
        before = threads()
        for _ in range(3):
            one, two = load(), load()
            self.assertEqual(
                one.generate("a", greedy(4), use_tqdm=False)[0].outputs[0].token_ids,
                two.generate("a", greedy(4), use_tqdm=False)[0].outputs[0].token_ids,
            )
            del one, two
            gc.collect()
        end = time.monotonic() + 10
        while threads() > before and time.monotonic() < end:
            time.sleep(0.05)
        self.assertLessEqual(threads(), before)

    def test_memory_does_not_grow(self):
        def resident():
            gc.collect()
            with open("/proc/self/statm") as file:
                return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

        with load(num_threads=1, mm_processor_cache_gb=0) as llm:
            pixels = bytes(3 * 512 * 512)

            def work(count):
                for _ in range(count):
                    picture = memoryview(pixels).cast("B", (512, 512, 3))
                    llm.generate(
                        {"prompt": "<image>", "multi_modal_data": {"image": picture}},
                        greedy(2),
                        use_tqdm=False,
                        mm_processor_kwargs={"max_num_tiles": 1},
                    )

            work(30)
            before = resident()
            work(120)
            self.assertLess(resident() - before, 20 << 20)


class Processes(Case):
    def run_script(self, text, code=0):
        done = subprocess.run(
            [sys.executable, "-c", text],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            env={**os.environ, "MODEL": MODEL},
        )
        self.assertEqual(done.returncode, code, done.stderr[-2000:])
        return done.stdout

    def test_a_fork_is_told_and_may_load_its_own(self):
        out = self.run_script("""
import os, sys, warnings
warnings.simplefilter("ignore")
from videre import LLM, SamplingParams, Error
params = SamplingParams(temperature=0, max_tokens=4)
llm = LLM(os.environ["MODEL"], max_model_len=1024)
first = llm.generate("a", params, use_tqdm=False)[0].outputs[0].token_ids
sys.stdout.flush()
pid = os.fork()
if pid == 0:
    try:
        llm.generate("a", params, use_tqdm=False)
    except Error as error:
        print("child:", error)
    own = LLM(os.environ["MODEL"], max_model_len=1024)
    print("child same:", own.generate("a", params, use_tqdm=False)[0].outputs[0].token_ids == first)
    sys.exit(0)
print("status:", os.waitpid(pid, 0)[1])
print("parent same:", llm.generate("a", params, use_tqdm=False)[0].outputs[0].token_ids == first)
""")
        for line in (
            "child: this LLM was made before the process forked",
            "child same: True",
            "status: 0",
            "parent same: True",
        ):
            self.assertIn(line, out)

    def test_ends_cleanly_whatever_is_left(self):
        start = """
import os, sys, threading
from videre import LLM, Error, SamplingParams
llm = LLM(os.environ['MODEL'], max_model_len=1024)
params = SamplingParams(max_tokens=900, ignore_eos=True)
def work():
    try:
        llm.generate('a', params, use_tqdm=False)
    except Error:
        pass
"""
        for end in (
            "",
            "sys.exit(3)",
            "stream = llm.generate('a', params, stream=True); next(stream)",
            "threading.Thread(target=work, daemon=True).start()",
        ):
            with self.subTest(end=end):
                self.run_script(start + end, 3 if "exit" in end else 0)
