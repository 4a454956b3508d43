"""The package with nothing else installed: what any Python must do."""

import subprocess
import sys
import time
import unittest

from videre import LLM, Error

from common import MEDIA, MODEL, Case, e2e, greedy, processor, shared, system, url_part, user


class Alone(Case):
    def test_import_is_quick_and_brings_no_other_package(self):
        code = (
            "import sys, time; t = time.process_time(); import videre; took = time.process_time() - t; "
            "print(took, ','.join(m for m in ('numpy', 'PIL', 'torch', 'asyncio', 'tqdm') if m in sys.modules))"
        )
        runs = [
            subprocess.check_output([sys.executable, "-c", code], text=True).strip().partition(" ") for _ in range(4)
        ]
        self.assertEqual({run[2] for run in runs}, {""})
        self.assertLess(min(float(run[0]) for run in runs), 0.1)

    def test_pictures_and_clips_give_the_references_tokens(self):
        llm = shared()
        for case in e2e("image") + e2e("video"):
            messages = [system(), user(case["text"], *(url_part(case["kind"], name) for name in case["files"]))]
            out = llm.chat(messages, greedy(len(case["greedy"])), use_tqdm=False, mm_processor_kwargs=processor(case))
            self.assertEqual(out[0].outputs[0].token_ids, case["greedy"])
            self.assertEqual(out[0].prompt, case["rendered"])
            self.assertEqual(out[0].outputs[0].text, case["text_out"])

    def test_bytes_of_pixels_without_numpy(self):
        pixels = memoryview(bytes(range(256)) * 9).cast("B", (24, 32, 3))
        out = shared().generate({"prompt": "<image>", "multi_modal_data": {"image": pixels}}, greedy(2), use_tqdm=False)
        self.assertEqual(len(out[0].outputs[0].token_ids), 2)

    def test_command_and_module_are_the_native_program(self):
        for words in (["-m", "videre", "--version"], ["-m", "videre", "tokenize", MODEL]):
            done = subprocess.run([sys.executable, *words], input="Hello", capture_output=True, text=True, check=True)
            self.assertTrue(done.stdout.strip())
        done = subprocess.run(
            [sys.executable, "-m", "videre.entrypoints.openai.api_server", "--prot", "1"],
            capture_output=True,
            text=True,
            check=False,
        )
        self.assertEqual(done.returncode, 2)
        self.assertIn("--port", done.stderr)

    def test_the_command_starts_itself_again(self):
        import json

        command = [sys.executable, "-m", "videre", "bench", "startup", MODEL, "--num-iters", "1", "--json"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        self.assertEqual(done.returncode, 0, done.stderr)
        times = json.loads(done.stdout)
        self.assertGreater(times["first_token"]["min"], times["ready"]["min"])

    def test_the_built_in_model_answers(self):
        try:
            llm = LLM(max_model_len=2048)
        except Error as error:
            self.skipTest(str(error))
        with llm:
            picture = {"type": "image", "image": MEDIA / "square.png"}
            out = llm.chat([user("What does the picture show?", picture)], greedy(32), use_tqdm=False)[0].outputs[0]
            self.assertGreater(len(out.text.split()), 1)
            self.assertEqual(out.finish_reason, "stop")

    def test_streaming_pieces_make_the_answer(self):
        params = greedy(12)
        whole = shared().chat([user("Hello")], params, use_tqdm=False)[0].outputs[0]
        pieces = list(shared().chat([user("Hello")], params, stream=True))
        self.assertEqual("".join(piece.outputs[0].text for piece in pieces), whole.text)
        self.assertEqual(sum((piece.outputs[0].token_ids for piece in pieces), []), whole.token_ids)
        self.assertEqual([piece.finished for piece in pieces].count(True), 1)

    def test_server_line_of_the_guide(self):
        import http.client
        import json
        import signal
        import socket

        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        server = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "videre.entrypoints.openai.api_server",
                "--model",
                MODEL,
                "--trust-remote-code",
                "--media-io-kwargs",
                '{"video": {"fps": 2, "num_frames": 128} }',
                "--max-model-len",
                "4096",
                "--data-parallel-size",
                "1",
                "--port",
                str(port),
                "--allowed-local-media-path",
                "/",
                "--video-pruning-rate",
                "0.75",
                "--served-model-name",
                "nvidia/NVIDIA-Nemotron-Nano-12B-v2-VL-BF16",
            ],
            stderr=subprocess.DEVNULL,
        )
        try:
            end = time.monotonic() + 30
            while True:
                try:
                    client = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
                    body = {"messages": [user("Describe the image.", url_part("image", "wide.jpg"))], "max_tokens": 4}
                    client.request(
                        "POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"}
                    )
                    answer = client.getresponse()
                    text = answer.read()
                    client.close()
                    if answer.status == 200:
                        break
                except OSError:
                    pass
                self.assertLess(time.monotonic(), end, "no answer")
                time.sleep(0.1)
            self.assertEqual(json.loads(text)["usage"]["completion_tokens"], 4)
            server.send_signal(signal.SIGTERM)
            self.assertEqual(server.wait(20), 0)
        finally:
            server.kill()
            server.wait()


if __name__ == "__main__":
    assert MEDIA
    unittest.main()
