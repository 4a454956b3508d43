"""What clients see: answers, streams, errors, and nothing left behind."""

import concurrent.futures
import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import unittest
import zlib

import openai

import harness
from harness import (GOLDEN, MEDIA, TESTS, TINY, MediaServer, Server, data_url, file_url,
                     golden_request, part, raw_connection, read_until, send_chat, user, wait_for)

IMAGES = [case for case in GOLDEN["e2e"] if case["kind"] == "image"]
VIDEOS = [case for case in GOLDEN["e2e"] if case["kind"] == "video"]


class WithServer(unittest.TestCase):
    """One server and one media server for a class."""

    arguments = []
    env = {}

    @classmethod
    def setUpClass(cls):
        cls.media = MediaServer()
        cls.server = Server(cls.__name__, [str(TINY / "checkpoint"), "--dtype", "float32",
                                           "--served-model-name", "tiny", "other-name",
                                           *cls.arguments], env=cls.env)
        cls.client = openai.OpenAI(base_url=cls.server.url, api_key="none", max_retries=0,
                                   timeout=120)

    @classmethod
    def tearDownClass(cls):
        cls.client.close()
        code = cls.server.stop()
        cls.media.close()
        assert code == 0, f"exit code {code}: {cls.server.log()[-2000:]}"

    def create(self, **fields):
        fields.setdefault("model", "tiny")
        extra = {k: fields.pop(k) for k in list(fields)
                 if k in ("mm_processor_kwargs", "media_io_kwargs", "ignore_eos", "min_tokens",
                          "stop_token_ids", "top_k", "min_p", "repetition_penalty",
                          "return_token_ids")}
        return self.client.chat.completions.create(extra_body=extra, **fields)


MAIN = ["--media-io-kwargs", '{"video": {"fps": 2, "num_frames": 128}}', "--max-model-len", "8192",
        "--max-num-seqs", "8", "--allowed-local-media-path", str(TESTS),
        "--allow-private-media-hosts", "--enable-prompt-tokens-details"]


class Answers(WithServer):
    arguments = MAIN

    def url_makers(self):
        return {
            "file": lambda kind, name: file_url(name),
            "data": lambda kind, name: data_url(name, f"{kind}/any"),
            "http": lambda kind, name: f"{self.media.url}/{name}",
        }

    def test_reference_answers_by_every_kind_of_url(self):
        for case in GOLDEN["e2e"]:
            for scheme, url_of in self.url_makers().items():
                with self.subTest(files=case["files"], rate=case.get("video_pruning_rate"),
                                  scheme=scheme):
                    answer = self.create(**golden_request(case, url_of))
                    self.assertEqual(answer.choices[0].message.content, case["text_out"])
                    self.assertEqual(answer.choices[0].finish_reason, "length")
                    self.assertEqual(answer.usage.prompt_tokens, len(case["prompt_ids"]))
                    self.assertEqual(answer.usage.completion_tokens, len(case["greedy"]))
                    self.assertEqual(answer.model, "tiny")
                    self.assertEqual(answer.object, "chat.completion")

    def test_reference_answers_streamed(self):
        for case in GOLDEN["e2e"]:
            with self.subTest(files=case["files"], rate=case.get("video_pruning_rate")):
                request = golden_request(case, self.url_makers()["file"])
                stream = self.create(**request, stream=True, return_token_ids=True,
                                     stream_options={"include_usage": True})
                chunks = list(stream)
                self.assertEqual(chunks[0].choices[0].delta.role, "assistant")
                text = "".join(c.choices[0].delta.content or "" for c in chunks[:-1])
                self.assertEqual(text, case["text_out"])
                ids = [i for c in chunks[:-1] for i in getattr(c.choices[0], "token_ids", None) or []]
                self.assertEqual(ids, case["greedy"])
                self.assertEqual(chunks[-2].choices[0].finish_reason, "length")
                self.assertEqual(chunks[-1].choices, [])
                self.assertEqual(chunks[-1].usage.prompt_tokens, len(case["prompt_ids"]))
                self.assertEqual(len({c.id for c in chunks}), 1)

    def test_many_at_once_answer_as_they_do_alone(self):
        requests = [golden_request(c, self.url_makers()["file"]) for c in GOLDEN["e2e"]] * 4
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(lambda r: self.create(**r), requests))
        for case, answer in zip(GOLDEN["e2e"] * 4, answers):
            self.assertEqual(answer.choices[0].message.content, case["text_out"])

    def test_prompts_are_those_of_inspect_tokens(self):
        for system in ("/no_think", "/think", "You are terse. /think", "Plain."):
            body = {"messages": [{"role": "system", "content": system},
                                 user("Is it?", part("image", file_url("wide.jpg")))],
                    "max_tokens": 1}
            file = harness.WORK / "request.json"
            file.write_text(json.dumps(body))
            plan = json.loads(subprocess.run(
                [str(harness.BINARY), "inspect", "tokens", str(TINY / "checkpoint"), "--request",
                 str(file), "--json"], check=True, capture_output=True, text=True).stdout)
            answer = self.create(**body)
            self.assertEqual(answer.usage.prompt_tokens, len(plan["prompt_ids"]))
            thinks = "/think" in system
            self.assertTrue(plan["rendered"].endswith("<think>\n" if thinks else "<think></think>"),
                            plan["rendered"])

    def test_token_details_of_usage(self):
        for case in (IMAGES[0], VIDEOS[0]):
            usage = self.create(**golden_request(case, self.url_makers()["file"])).usage
            details = usage.prompt_tokens_details.model_dump()
            self.assertEqual(details["text_tokens"] + details["image_tokens"]
                             + details["video_tokens"], usage.prompt_tokens)
            self.assertGreater(details[case["kind"] + "_tokens"], 40)

    def test_requests_choose_frames_tiles_and_pruning(self):
        def tokens(kind, name, **fields):
            return self.create(messages=[user("?", part(kind, file_url(name)))], max_tokens=1,
                               **fields).usage.prompt_tokens

        self.assertGreater(tokens("image", "wide.jpg"),
                           tokens("image", "wide.jpg", mm_processor_kwargs={"max_num_tiles": 1}))
        whole = tokens("video", "clip.avi")
        self.assertGreater(whole, tokens("video", "clip.avi",
                                         mm_processor_kwargs={"video_pruning_rate": 0.5}))
        self.assertGreater(whole, tokens("video", "clip.avi",
                                         media_io_kwargs={"video": {"num_frames": 2}}))
        frames = ",".join(data_url("wide.jpg").split(",")[1] for _ in range(3))
        messages = [user("?", part("video", "data:video/jpeg;base64," + frames))]
        self.assertGreater(self.create(messages=messages, max_tokens=1).usage.prompt_tokens, 50)

    def test_media_named_by_uuid_are_sent_once(self):
        def ask(image):
            return self.server.chat(messages=[user("?", image)], max_tokens=1)

        status, first = ask({**part("image", data_url("square.png")), "uuid": "square-1"})
        self.assertEqual(status, 200, first)
        status, again = ask({"type": "image_url", "image_url": None, "uuid": "square-1"})
        self.assertEqual(status, 200, again)
        self.assertEqual(first["usage"], again["usage"])
        status, unknown = ask({"type": "image_url", "image_url": None, "uuid": "never sent"})
        self.assertEqual(status, 400)
        self.assertIn("never sent", unknown["error"]["message"])

    def test_several_choices_seeds_and_logprobs(self):
        request = dict(messages=[{"role": "user", "content": "Hello"}], n=3, temperature=1.0,
                       seed=5, max_tokens=8, logprobs=True, top_logprobs=3)
        first = self.create(**request)
        again = self.create(**request)
        texts = [c.message.content for c in first.choices]
        self.assertEqual(texts, [c.message.content for c in again.choices])
        self.assertGreater(len(set(texts)), 1)
        self.assertEqual([c.index for c in first.choices], [0, 1, 2])
        for choice in first.choices:
            self.assertLessEqual(len(choice.logprobs.content), 8)
            for token in choice.logprobs.content:
                tops = [t.logprob for t in token.top_logprobs]
                self.assertEqual(len(tops), 3)
                self.assertEqual(tops, sorted(tops, reverse=True))
                self.assertLessEqual(token.logprob, 0)
        joined = b"".join(bytes(t.bytes) for t in first.choices[0].logprobs.content)
        if first.choices[0].finish_reason == "length":
            self.assertEqual(joined.decode(errors="replace"), texts[0])
        streamed = {0: "", 1: "", 2: ""}
        for chunk in self.create(**{**request, "logprobs": False, "top_logprobs": None},
                                 stream=True):
            for choice in chunk.choices:
                streamed[choice.index] += choice.delta.content or ""
        self.assertEqual(list(streamed.values()), texts)

    def test_stops(self):
        base = dict(messages=[{"role": "user", "content": "Hello"}], temperature=0)
        whole = self.create(**base, max_tokens=20, ignore_eos=True).choices[0].message.content
        stop = whole[6:8]
        cut = self.create(**base, max_tokens=20, stop=stop, ignore_eos=True).choices[0]
        self.assertEqual(cut.message.content, whole[:whole.index(stop)])
        self.assertEqual(cut.finish_reason, "stop")
        self.assertEqual(cut.stop_reason, stop)
        text = "".join(c.choices[0].delta.content or "" for c in self.create(
            **base, max_tokens=20, stop=[stop, "never there"], ignore_eos=True, stream=True))
        self.assertEqual(text, whole[:whole.index(stop)])
        one = self.create(**base, max_tokens=1)
        self.assertEqual(one.usage.completion_tokens, 1)
        self.assertEqual(one.choices[0].finish_reason, "length")

    def test_conversations_and_plain_strings(self):
        answer = self.create(messages=[
            {"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "Hello."},
            {"role": "user", "content": [{"type": "text", "text": "And?"}]}], max_tokens=3)
        self.assertEqual(answer.choices[0].message.role, "assistant")
        self.assertGreater(answer.usage.prompt_tokens, 30)

    def test_small_endpoints(self):
        models = self.client.models.list()
        self.assertEqual([m.id for m in models], ["tiny", "other-name"])
        self.assertEqual(models.data[0].max_model_len, 8192)
        status, headers, body = self.server.get("/version")
        self.assertEqual((status, json.loads(body)["engine"]), (200, "videre"))
        self.assertEqual(self.server.get("/health")[::2], (200, ""))
        self.assertEqual(self.server.get("/ping")[0], 200)
        self.assertEqual(self.server.get("/nowhere")[0], 404)
        self.assertEqual(self.server.request("DELETE", "/v1/models")[0], 405)
        before = self.server.metrics()
        self.create(messages=[{"role": "user", "content": "Hello"}], max_tokens=4, ignore_eos=True)
        after = self.server.metrics()
        self.assertEqual(after["vllm:generation_tokens_total"]
                         - before["vllm:generation_tokens_total"], 4)
        self.assertEqual(after["vllm:time_to_first_token_seconds_count"]
                         - before["vllm:time_to_first_token_seconds_count"], 1)
        self.assertGreater(after["vllm:prompt_tokens_total"], before["vllm:prompt_tokens_total"])

    def test_request_ids_and_unknown_fields(self):
        raw = self.client.chat.completions.with_raw_response.create(
            model="tiny", messages=[{"role": "user", "content": "Hello"}], max_tokens=1,
            extra_headers={"X-Request-Id": "abc-1"}, extra_body={"no_such_field": {"a": 1}})
        self.assertEqual(raw.headers["x-request-id"], "abc-1")
        self.assertEqual(raw.parse().id, "chatcmpl-abc-1")
        wait_for(lambda: "no_such_field" in self.server.log(), "a warning of the unknown field")
        self.server.chat(max_tokens=1, no_such_field=2)
        self.assertEqual(self.server.log().count("no_such_field"), 1)


def png(width, height, rows=b""):
    def chunk(kind, data):
        return (struct.pack(">I", len(data)) + kind + data
                + struct.pack(">I", zlib.crc32(kind + data)))
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
            + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))


ROOT = harness.WORK / "root"  # a folder of media with ways out of it


def make_root():
    shutil.rmtree(ROOT, ignore_errors=True)
    shutil.copytree(MEDIA, ROOT)
    (ROOT / "sub").mkdir()
    (ROOT / "link.jpg").symlink_to(harness.WORK / "outside.jpg")
    (ROOT / "folder").symlink_to(harness.WORK)
    (ROOT / "inner-link.jpg").symlink_to(ROOT / "wide.jpg")
    os.mkfifo(ROOT / "pipe")


class Errors(WithServer):
    arguments = ["--max-model-len", "1024", "--allowed-local-media-path", str(ROOT),
                 "--limit-mm-per-prompt", '{"image": 3, "video": 1}']
    env = {"VLLM_IMAGE_FETCH_TIMEOUT": "3", "VLLM_MEDIA_FETCH_MAX_RETRIES": "0"}

    @classmethod
    def setUpClass(cls):
        make_root()
        super().setUpClass()

    def refused(self, status, words, param=None, **fields):
        """The request fails so, plain and streamed, and says nothing it should not."""
        for stream in (False, True):
            got, body = self.server.chat(**fields, stream=stream)
            error = body.get("error")
            self.assertIsNotNone(error, body)
            self.assertEqual((got, error["code"]), (status, status), error)
            self.assertEqual(set(error), {"message", "type", "param", "code"})
            self.assertRegex(error["message"], re.compile(words, re.I | re.S))
            if param is not None:
                self.assertEqual(error["param"], param, error)
            self.assertLess(len(json.dumps(error)), 1500)
            for secret in (str(TESTS), str(harness.WORK), "secret of the remote side", "0x7f", "/etc/passwd"):
                self.assertNotIn(secret, error["message"])

    def refused_media(self, kind, url, words, status=400):
        self.refused(status, words, param=f"{kind}_url", messages=[user("?", part(kind, url))])

    def test_wrong_types_in_any_field(self):
        for field, value in [("messages", "hello"), ("messages", [5]), ("model", 5), ("stop", 7),
                             ("temperature", "hot"), ("max_tokens", "many"), ("n", []),
                             ("logit_bias", []), ("seed", 0.5), ("stream_options", 3),
                             ("mm_processor_kwargs", "fast"), ("media_io_kwargs", []),
                             ("chat_template_kwargs", 1), ("tools", {}), ("user", 5)]:
            with self.subTest(field=field, value=value):
                self.refused(400, field, **{field: value})
        got, body = self.server.chat(stream="maybe")
        self.assertEqual((got, body["error"]["param"]), (400, "body.stream"))

    def test_values_out_of_range(self):
        for field, value in [("temperature", -1), ("top_p", 0), ("n", 0), ("max_tokens", 0),
                             ("presence_penalty", 3), ("top_k", -2), ("min_p", 2),
                             ("stop_token_ids", [-1]), ("logit_bias", {"x": 1}),
                             ("allowed_token_ids", []), ("top_logprobs", 2)]:
            with self.subTest(field=field):
                self.refused(400, field, param=field, **{field: value})
        for field, value in [("logit_bias", {"9999999": 1}), ("allowed_token_ids", [9999999])]:
            with self.subTest(field=field, value=value):
                self.refused(400, "vocabulary|token", param=field, **{field: value})

    def test_bodies_that_are_no_json(self):
        for body in ("", "{", "[1]", "null", "{\"messages\": [}", "\xff"):
            with self.subTest(body=body):
                status, _, text = self.server.request("POST", "/v1/chat/completions",
                                                      body.encode("latin-1"))
                self.assertEqual(status, 400)
                self.assertEqual(json.loads(text)["error"]["type"], "Bad Request")
        status, _, text = self.server.request("POST", "/v1/chat/completions", "{}",
                                              {"Content-Type": "text/plain"})
        self.assertEqual(status, 400)
        self.assertIn("Content-Type", text)

    def test_unknown_model_with_the_client(self):
        with self.assertRaises(openai.NotFoundError) as caught:
            self.create(model="gpt", messages=[{"role": "user", "content": "Hello"}])
        self.assertEqual(caught.exception.body["param"], "model")
        self.assertIn("does not exist", caught.exception.message)
        with self.assertRaises(openai.BadRequestError):
            self.create(messages=[])

    def test_prompts_too_long(self):
        self.refused(400, "maximum context length is 1024 tokens",
                     messages=[{"role": "user", "content": "many words " * 2000}])
        self.refused(400, "maximum context length is 1024 tokens",
                     messages=[{"role": "user", "content": "a" * 3_000_000}])
        self.refused(400, "maximum context length is|maximum model length|1024",
                     messages=[user("?", *[part("image", (ROOT / "wide.jpg").as_uri())] * 3,
                                    {"type": "text", "text": "word " * 300})])
        status, body = self.server.chat(max_tokens=100000, temperature=0)
        self.assertIn(status, (200, 400), body)  # clamped, or refused in the words clients match
        if status == 400:
            self.assertIn("maximum context length is", body["error"]["message"])

    def test_too_many_media(self):
        self.refused(400, r"at most 3 image",
                     messages=[user("?", *[part("image", data_url("tiny.png"))] * 4)])
        self.refused(400, r"at most 1 video",
                     messages=[user("?", *[part("video", data_url("clip.avi"))] * 2)])

    def test_broken_pictures(self):
        square = (MEDIA / "square.png").read_bytes()
        wide = (MEDIA / "wide.jpg").read_bytes()
        for name, raw in {"empty": b"", "text": b"hello", "cut png": square[:2000],
                          "cut header": square[:20], "cut jpeg": wide[:300],
                          "zero size": png(0, 10), "no rows": png(100, 100),
                          "svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
                          "pdf": b"%PDF-1.4 nothing", "a clip": (MEDIA / "clip.avi").read_bytes(),
                          "noise": os.urandom(3000)}.items():
            with self.subTest(name=name):
                self.refused_media("image", data_url(raw), "image|no data")

    def test_which_of_several_is_broken(self):
        good = part("image", data_url("tiny.png"))
        self.refused(400, "^item 3 of 3: ", param="image_url", messages=[
            user("?", good), user("?", good, part("image", data_url(b"hello")))])

    def test_bombs(self):
        self.refused_media("image", data_url(png(60000, 60000)), "60000x60000 px.*at most")
        self.refused_media("image", data_url(png(2**31 - 1, 2**31 - 1)), "image")
        self.refused_media("image", data_url(png(20000, 8000, b"\0" * 1000)), "image")
        y4m = b"YUV4MPEG2 W30000 H30000 F25:1 C420\nFRAME\n"
        self.refused_media("video", data_url(y4m, "video/any"), "30000x30000|video")

    def test_broken_videos(self):
        clip = (MEDIA / "clip.avi").read_bytes()
        for name, raw in {"empty": b"", "text": b"hello", "header only": clip[:60],
                          "picture": (MEDIA / "wide.jpg").read_bytes(),
                          "no frames": b"YUV4MPEG2 W16 H16 F25:1 C420\n",
                          "noise": os.urandom(3000)}.items():
            with self.subTest(name=name):
                self.refused_media("video", data_url(raw, "video/mp4"), "video|no data")
        self.refused_media("video", "data:video/jpeg;base64,AAAA,BBBB", "video|frame|image|picture")

    def test_urls_that_are_none(self):
        for url in ("ftp://host/a.png", "nonsense", "data:image/png,plain", "data:image/png;base64",
                    "data:image/png;base64,@@@@", "http://", "http://user:pw@host/a.png",
                    "http://host:99999/", "http://ho st/", "http://host\\@other/", "javascript:1"):
            with self.subTest(url=url):
                self.refused_media("image", url, ".")

    def test_files_outside_the_allowed_folder(self):
        inside = ROOT.as_uri()
        outside = harness.WORK / "outside.jpg"
        shutil.copy(MEDIA / "wide.jpg", outside)
        for url in ("file:///etc/passwd", inside + "/../outside.jpg", inside + "/%2e%2e/outside.jpg",
                    inside + "/..%2foutside.jpg", inside + "/sub/../../outside.jpg",
                    outside.as_uri(), inside + "/link.jpg", inside + "/folder/outside.jpg",
                    inside, inside + "/", inside + "/none.png", "file://elsewhere" + str(ROOT),
                    "file:wide.jpg", inside + "/wide.jpg%00.png", "file:///dev/zero",
                    "file:///proc/self/mem", inside + "/pipe"):
            with self.subTest(url=url):
                self.refused_media("image", url, ".")
        for name in ("wide.jpg", "inner-link.jpg"):
            self.assertEqual(self.server.chat(
                messages=[user("?", part("image", (ROOT / name).as_uri()))], max_tokens=1)[0], 200)

    def test_private_addresses_are_not_fetched(self):
        port = self.media.server_port
        for host in ("127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0", "2130706433",
                     "0x7f.1", "10.0.0.1", "169.254.169.254", "192.168.0.1"):
            with self.subTest(host=host):
                self.refused_media("image", f"http://{host}:{port}/wide.jpg", "private|address|host")

    def test_the_server_goes_on_and_nothing_is_left(self):
        # Last by name order or not: the books must balance whatever ran before.
        self.server.chat(max_tokens=1)
        before = self.server.belongings()
        for key in ("KV blocks", "state slots", "running", "waiting", "in flight"):
            self.assertEqual(before[key], 0, key)
        for _ in range(3):
            self.test_broken_pictures()
            self.test_broken_videos()
            self.test_files_outside_the_allowed_folder()
            self.test_prompts_too_long()
        self.server.settles_to(before)
        self.assertEqual(self.server.chat(max_tokens=1)[0], 200)


class RemoteErrors(WithServer):
    """HTTP media, with private addresses allowed so that a local server can stand for the world."""

    arguments = ["--max-model-len", "1024", "--allow-private-media-hosts"]
    env = {"VLLM_IMAGE_FETCH_TIMEOUT": "3", "VLLM_MEDIA_FETCH_MAX_RETRIES": "0"}

    refused = Errors.refused

    def test_remote_sides_that_fail(self):
        with harness.socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))
            nobody = f"http://127.0.0.1:{closed.getsockname()[1]}/"
        for url in ("/missing.png", "/broken", "/html", "/short", "/loop", "/to-file", "/hang"):
            with self.subTest(url=url):
                self.refused(400, ".", messages=[user("?", part("image", self.media.url + url))])
        self.refused(400, ".", messages=[user("?", part("image", nobody))])

    def test_files_are_refused_without_a_root(self):
        self.refused(400, "allowed-local-media-path",
                     messages=[user("?", part("image", file_url("wide.jpg")))])

    def test_redirects_are_followed(self):
        status, body = self.server.chat(
            messages=[user("?", part("image", self.media.url + "/to/wide.jpg"))], max_tokens=1)
        self.assertEqual(status, 200, body)


class Leaving(WithServer):
    """Clients that go away, at every moment."""

    arguments = [*MAIN, "--max-num-seqs", "4"]

    ENDLESS = {"max_tokens": 7000, "ignore_eos": True, "temperature": 0,
               "messages": [{"role": "user", "content": "Hello"}]}

    def busy(self):
        return self.server.metrics()["vllm:num_requests_running"]

    def idle(self):
        now = self.server.belongings()
        return not (now["running"] or now["waiting"] or now["in flight"])

    def test_nothing_is_left(self):
        for case in GOLDEN["e2e"]:  # every part has run once
            self.server.chat(**golden_request(case, lambda kind, name: f"{self.media.url}/{name}"))
        wait_for(self.idle, "an idle server")
        before = self.server.belongings()
        self.assertEqual((before["KV blocks"], before["state slots"]), (0, 0))
        aborted = 'vllm:request_success_total{finished_reason="abort"}'
        aborts = self.server.metrics()[aborted]

        for stream in (False, True):
            with raw_connection(self.server.port) as connection:
                send_chat(connection, {**self.ENDLESS, "stream": stream})
                wait_for(lambda: self.busy() == 1, "the request to run")
                if stream:
                    read_until(connection, b"content")
            wait_for(self.idle, "the abort of a request whose client left", 5)
        with raw_connection(self.server.port) as connection:  # all choices of a request
            send_chat(connection, {**self.ENDLESS, "stream": True, "n": 3, "temperature": 1})
            wait_for(lambda: self.busy() == 3, "three choices to run")
        wait_for(self.idle, "the abort of three choices", 5)
        with raw_connection(self.server.port) as connection:  # while media are fetched
            send_chat(connection, {"messages": [user("?", part("image", self.media.url + "/hang"))]})
            self.assertTrue(self.media.hanging.acquire(timeout=10))
        wait_for(self.idle, "the abort of a request whose picture never comes", 5)
        connections = []  # more than run at once: some leave while they wait
        for _ in range(12):
            connections.append(harness.socket.create_connection(("127.0.0.1", self.server.port)))
            send_chat(connections[-1], {**self.ENDLESS, "stream": True})
        wait_for(lambda: self.busy() == 4, "four to run")
        for connection in connections:
            connection.close()
        wait_for(self.idle, "the abort of all", 5)
        with raw_connection(self.server.port) as connection:  # in the middle of a body
            connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nContent-Type: application/json"
                               b"\r\nContent-Length: 1000\r\n\r\n{\"messages\"")
        self.server.settles_to(before)
        self.assertGreaterEqual(self.server.metrics()[aborted] - aborts, 2 + 3 + 12)
        case = IMAGES[0]
        status, body = self.server.chat(**golden_request(case, lambda kind, name: file_url(name)))
        self.assertEqual(body["choices"][0]["message"]["content"], case["text_out"])

    def test_a_full_queue_is_429(self):
        server = Server("queue", [str(TINY / "checkpoint"), "--max-num-seqs", "1",
                                  "--max-waiting-requests", "1", "--max-model-len", "8192"])
        try:
            connections = []
            statuses = []
            for _ in range(6):
                connections.append(harness.socket.create_connection(("127.0.0.1", server.port)))
                send_chat(connections[-1], {**self.ENDLESS, "stream": True})
            for connection in connections:
                connection.settimeout(2)
                try:
                    statuses.append(int(connection.recv(12).split()[1]))
                except TimeoutError:
                    statuses.append(0)  # waits its turn
                connection.close()
            self.assertIn(429, statuses)
            self.assertIn(200, statuses)
        finally:
            self.assertEqual(server.stop(), 0)


class Life(unittest.TestCase):
    """Start, stop and exit codes of the program."""

    MODEL = str(TINY / "checkpoint")

    def code(self, *arguments, env=None):
        environment = {**os.environ, **(env or {})}
        done = subprocess.run([str(harness.BINARY), *arguments], capture_output=True, text=True,
                              timeout=60, env=environment, check=False)
        return done.returncode, done.stderr

    def test_drain(self):
        server = Server("drain", [self.MODEL, "--shutdown-timeout", "30", "--max-model-len", "4096"])
        with raw_connection(server.port) as connection:
            send_chat(connection, {**Leaving.ENDLESS, "max_tokens": 400, "stream": True})
            read_until(connection, b"content")
            server.process.send_signal(signal.SIGTERM)
            wait_for(lambda: server.get("/health")[0] == 503, "draining")
            self.assertEqual(server.chat()[0], 503)
            seen = read_until(connection, b"[DONE]")
            self.assertIn(b'"finish_reason":"length"', seen)
        self.assertEqual(server.process.wait(20), 0)

    def test_stop_without_drain(self):
        server = Server("stop", [self.MODEL, "--max-model-len", "8192"])
        with raw_connection(server.port) as connection:
            send_chat(connection, {**Leaving.ENDLESS, "stream": True})
            read_until(connection, b"content")
            self.assertEqual(server.stop(signal.SIGINT), 0)
            self.assertIn(b"shutting down", read_until(connection, b"[DONE]"))

    def test_exit_codes(self):
        with harness.socket.socket() as taken:
            taken.bind(("0.0.0.0", 0))
            taken.listen()
            code, text = self.code("serve", self.MODEL, "--port", str(taken.getsockname()[1]))
            self.assertEqual(code, 5, text)
            self.assertIn("--port", text)
        for arguments, expected, words in [
            (["/no/such/folder"], 3, "no/such/folder"),
            (["org/not-there"], 3, "org"),
            ([self.MODEL, "--no-such-flag"], 2, "no-such-flag"),
            ([self.MODEL, "--data-parallel-size", "2"], 2, "data-parallel-size"),
            ([self.MODEL, "--quantization", "modelopt"], (2, 3), "quantization"),
            ([self.MODEL, "--dtype", "float16"], 2, "dtype"),
            ([self.MODEL, "--media-io-kwargs", "{"], 2, "media-io-kwargs"),
            ([self.MODEL, "--video-pruning-rate", "1"], 2, "video-pruning-rate"),
            ([self.MODEL, "--allowed-local-media-path", "/no/such/folder"], 2, "allowed-local"),
            ([self.MODEL, "--max-model-len", "10000000"], 2, "max-model-len"),
        ]:
            with self.subTest(arguments=arguments):
                code, text = self.code("serve", *arguments, "--port", str(harness.free_port()))
                self.assertIn(code, expected if isinstance(expected, tuple) else (expected,), text)
                self.assertIn(words, text)


class Seeds(unittest.TestCase):
    """What users of vLLM are told to type for this model, word for word but for the places."""

    SEEDS = harness.HERE / "seeds"

    @classmethod
    def setUpClass(cls):
        # A hub cache with the model's three repositories.
        cls.hub = harness.WORK / "hub"
        shutil.rmtree(cls.hub, ignore_errors=True)
        for repository, folder in {"BF16": "checkpoint", "FP8": "checkpoint-fp8",
                                   "NVFP4-QAD": "checkpoint-nvfp4"}.items():
            root = cls.hub / f"models--nvidia--NVIDIA-Nemotron-Nano-12B-v2-VL-{repository}"
            commit = "0123456789abcdef0123456789abcdef01234567"
            (root / "refs").mkdir(parents=True)
            (root / "refs" / "main").write_text(commit)
            (root / "snapshots").mkdir()
            (root / "snapshots" / commit).symlink_to(TINY / folder)
        cls.env = {"HF_HUB_CACHE": str(cls.hub)}

    def text(self, name, **changes):
        text = (self.SEEDS / name).read_text(encoding="utf-8")
        for old, new in changes.items():
            text = text.replace(old, new)
        return text

    def client(self, script):
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True,
                              timeout=300, check=False)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout

    def places(self, text, port):
        return (text.replace("localhost:5566", f"localhost:{port}")
                .replace("127.0.0.1:5566", f"127.0.0.1:{port}")
                .replace("localhost:8000", f"localhost:{port}")
                .replace("file:///path/to/video.mp4", file_url("clip.avi"))
                .replace("file:///path/to/image.jpg", file_url("wide.jpg"))
                .replace("https://blogs.nvidia.com/wp-content/uploads/2025/08/"
                         "gamescom-g-assist-nv-blog-1280x680-1.jpg", data_url("wide.jpg")))

    def test_user_guide(self):
        def script(port):
            text = self.text("user_guide_serve.sh").replace("--port 5566", f"--port {port}")
            module = "python3 -m vllm.entrypoints.openai.api_server"
            self.assertEqual(text.count(module), 1)
            return text.replace(module, f"exec {harness.BINARY} serve")

        server = Server("user_guide", script=script, env=self.env)
        try:
            curl = self.places(self.text("user_guide_curl.sh"), server.port)
            done = subprocess.run(["bash", "-c", curl], capture_output=True, text=True, timeout=300,
                                  check=False)
            self.assertEqual(done.returncode, 0, done.stderr)
            answer = json.loads(done.stdout)
            self.assertEqual(answer["model"], "nvidia/NVIDIA-Nemotron-Nano-12B-v2-VL-BF16")
            self.assertIn(answer["choices"][0]["finish_reason"], ("stop", "length"))
            # The server's pruning rate and frame choice hold for it.
            case = next(c for c in VIDEOS if c["video_pruning_rate"] == 0.75)
            self.assertEqual(answer["usage"]["prompt_tokens"], len(case["prompt_ids"]))
            output = self.client(self.places(self.text("user_guide_client.py"), server.port))
            self.assertGreater(len(output), 2)
        finally:
            self.assertEqual(server.stop(), 0)

    def test_announcement(self):
        commands = [line for line in self.text("announcement_serve.sh").splitlines()
                    if line.startswith("vllm serve")]
        self.assertEqual(len(commands), 3)
        for command in commands:
            with self.subTest(command=command):
                def script(port, command=command):
                    return command.replace("vllm serve", f"exec {harness.BINARY} serve") + \
                        f" --port {port}"

                server = Server("announcement", script=script, env=self.env)
                try:
                    name = command.split()[2]
                    snippet = self.places(self.text("announcement_client.py"), server.port)
                    snippet = snippet.replace("nvidia/Nemotron-Nano-12B-v2-VL-BF16", name)
                    self.assertGreater(len(self.client(snippet)), 2)
                    # Greedy. In bfloat16 the first run may round differently: its prompt is cut
                    # where the picture is still being encoded.
                    off = self.client(snippet)
                    self.assertEqual(self.client(snippet), off)
                    # Reasoning on: another prompt, so another answer.
                    on = self.client(snippet.replace("/no_think", "/think"))
                    self.assertNotEqual(on, off)
                    self.check_streams(server, name)
                finally:
                    self.assertEqual(server.stop(), 0)

    def check_streams(self, server, name):
        client = openai.OpenAI(base_url=server.url, api_key="null")
        for system in ("/think", "/no_think"):
            request = dict(model=name, temperature=0.0, max_tokens=40, messages=[
                {"role": "system", "content": system},
                user("What is it?", part("image", data_url("square.png")))])
            client.chat.completions.create(**{**request, "max_tokens": 1})
            plain = client.chat.completions.create(**request).choices[0].message.content
            with client.chat.completions.create(**request, stream=True) as stream:
                self.assertEqual("".join(c.choices[0].delta.content or "" for c in stream), plain)
        client.close()
