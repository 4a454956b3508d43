"""Servers, clients and media for the tests of `videre serve`."""

import base64
import contextlib
import http.client
import http.server
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent
TESTS = HERE.parent
TINY = TESTS / "tiny-b"
MEDIA = TINY / "media"
GOLDEN = json.loads((TINY / "golden.json").read_text(encoding="utf-8"))

BINARY = None  # set by e2e.py
WORK = None


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(condition, what, timeout_s=20.0):
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        if condition():
            return
        time.sleep(0.02)
    raise AssertionError(f"not within {timeout_s} s: {what}")


class Server:
    """A running `videre serve`; its log is in WORK/NAME.log."""

    def __init__(self, name, arguments=None, script=None, env=None, port=None, wait=True):
        self.port = port or free_port()
        self.log_path = WORK / f"{name}.log"
        if script is None:
            command = [str(BINARY), "serve", *arguments, "--port", str(self.port)]
        else:
            command = ["bash", "-c", script(self.port)]
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("VLLM_", "VIDERE_"))}
        environment.update(env or {})
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        if wait:
            wait_for(lambda: self.exited() or self.get("/health")[0] == 200,
                     f"{command} ready, see {self.log_path}", 60)
            if self.exited():
                raise AssertionError(f"{command} ended: {self.log()}")

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}/v1"

    def exited(self):
        return self.process.poll() is not None

    def log(self):
        return self.log_path.read_text(encoding="utf-8", errors="replace")

    def request(self, method, path, body=None, headers=None, timeout_s=60):
        """Status, headers and body text of one exchange; status 0 when there is no server."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout_s)
        try:
            if isinstance(body, (dict, list)):
                body = json.dumps(body)
            if isinstance(body, str):
                body = body.encode()
            given = {"Content-Type": "application/json"} if body is not None else {}
            given.update(headers or {})
            connection.request(method, path, body, given)
            answer = connection.getresponse()
            return answer.status, dict(answer.headers), answer.read().decode()
        except ConnectionError:
            return 0, {}, ""
        finally:
            connection.close()

    def get(self, path):
        return self.request("GET", path)

    def chat(self, **fields):
        """Status and parsed body of a chat request."""
        fields.setdefault("messages", [{"role": "user", "content": "Hello"}])
        status, _, text = self.request("POST", "/v1/chat/completions", fields)
        return status, json.loads(text)

    def metrics(self):
        """Samples by name and labels, model name and engine left out."""
        samples = {}
        for line in self.get("/metrics")[2].splitlines():
            if line.startswith("#"):
                continue
            name, value = line.rsplit(" ", 1)
            name = re.sub(r'model_name="[^"]*",engine="0",?', "", name).replace("{}", "")
            samples[name] = float(value)
        return samples

    def belongings(self):
        """What must be the same before and after: memory of sequences, files, threads."""
        metrics = self.metrics()
        pid = self.process.pid
        return {
            "KV blocks": metrics['videre_kv_blocks{state="used"}'],
            "state slots": metrics['videre_state_slots{state="used"}'],
            "running": metrics["vllm:num_requests_running"],
            "waiting": metrics["vllm:num_requests_waiting"],
            "in flight": metrics["videre_chat_requests_in_flight"],
            "files": len(os.listdir(f"/proc/{pid}/fd")),
            "threads": len(os.listdir(f"/proc/{pid}/task")),
        }

    def settles_to(self, expected, timeout_s=20):
        end = time.monotonic() + timeout_s
        while (now := self.belongings()) != expected:
            if time.monotonic() > end:
                raise AssertionError(f"left behind: {now}; before: {expected}")
            time.sleep(0.05)

    def stop(self, number=signal.SIGTERM, timeout_s=20):
        if not self.exited():
            self.process.send_signal(number)
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"no end within {timeout_s} s: {self.log()[-2000:]}") from None


class MediaServer(http.server.ThreadingHTTPServer):
    """Serves tests/tiny-b/media, and addresses that misbehave."""

    daemon_threads = True

    def __init__(self):
        self.hanging = threading.Semaphore(0)  # released for each request that is kept waiting
        self.let_go = threading.Event()
        super().__init__(("127.0.0.1", 0), MediaHandler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"

    def close(self):
        self.let_go.set()
        self.shutdown()
        self.server_close()


class MediaHandler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def reply(self, status, body=b"", **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        file = MEDIA / self.path.lstrip("/")
        if self.path.startswith("/to/"):
            self.reply(302, Location=self.path[3:])
        elif self.path == "/to-file":
            self.reply(302, Location="file:///etc/passwd")
        elif self.path == "/loop":
            self.reply(302, Location="/loop")
        elif self.path == "/html":
            self.reply(200, b"<html>not a picture</html>")
        elif self.path == "/broken":
            self.reply(500, b"secret of the remote side")
        elif self.path == "/hang":
            self.server.hanging.release()
            self.server.let_go.wait(60)
        elif self.path == "/short":
            self.send_response(200)
            self.send_header("Content-Length", "100000")
            self.end_headers()
            self.wfile.write((MEDIA / "square.png").read_bytes()[:1000])
            self.close_connection = True
        elif file.is_file():
            self.reply(200, file.read_bytes())
        else:
            self.reply(404, b"secret of the remote side")


def data_url(name_or_bytes, mime="image/png"):
    raw = name_or_bytes
    if isinstance(raw, str):
        raw = (MEDIA / raw).read_bytes()
    return f"data:{mime};base64,{base64.b64encode(raw).decode()}"


def file_url(name):
    return (MEDIA / name).as_uri()


def part(kind, url):
    return {"type": f"{kind}_url", f"{kind}_url": {"url": url}}


def user(text, *parts):
    return {"role": "user", "content": [*parts, {"type": "text", "text": text}]}


def golden_request(case, url_of):
    """The body of a reference case with its media at `url_of(kind, file)`."""
    messages = [
        {"role": "system", "content": "/no_think"},
        user(case["text"], *(part(case["kind"], url_of(case["kind"], f)) for f in case["files"])),
    ]
    processor = {}
    if "max_num_tiles" in case:
        processor["max_num_tiles"] = case["max_num_tiles"]
    if "video_pruning_rate" in case:
        processor["video_pruning_rate"] = case["video_pruning_rate"]
    return {
        "messages": messages,
        "temperature": 0,
        "max_tokens": len(case["greedy"]),
        "mm_processor_kwargs": processor,
    }


@contextlib.contextmanager
def raw_connection(port):
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        yield connection


def send_chat(connection, body):
    data = json.dumps(body).encode()
    connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: test\r\n"
                       b"Content-Type: application/json\r\n"
                       b"Content-Length: %d\r\n\r\n" % len(data) + data)


def read_until(connection, text):
    seen = b""
    while text not in seen:
        piece = connection.recv(65536)
        if not piece:
            raise AssertionError(f"the connection ended after {seen[-500:]!r}")
        seen += piece
    return seen
