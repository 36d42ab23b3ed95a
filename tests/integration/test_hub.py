"""Uploading a model: the requests that a hub on loopback receives."""

import base64
import json
import os
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest

from tests.processes import Processes

PUSH = """
from model.pipeline import SubjectDiffusionPipeline
pipeline = SubjectDiffusionPipeline.from_pretrained("miniature/weights/subject_diffusion")
pipeline.push_to_hub("someone/small", token="hf_secret", variant="fp16")
"""


class Hub(ThreadingHTTPServer):
    """As much of the hub's interface as an upload needs; files are taken within the commit, not as LFS objects."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.tokens: set[str | None] = set()
        self.files: dict[str, bytes] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self) -> None:
        self._answer(404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound"})

    do_HEAD = do_GET

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.tokens.add(self.headers.get("Authorization"))
        if self.path == "/api/repos/create":
            self._answer(200, {"url": f"{self.server.url}/someone/small"})
        elif self.path.endswith("/preupload/main"):
            files = [{"path": one["path"], "uploadMode": "regular"} for one in json.loads(body)["files"]]
            self._answer(200, {"files": [{**one, "shouldIgnore": False, "oid": None} for one in files]})
        elif self.path.endswith("/commit/main"):
            for line in body.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    self.server.files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
            url = f"{self.server.url}/someone/small/commit/0123"
            self._answer(200, {"success": True, "commitUrl": url, "commitOid": "0123", "pullRequestUrl": None})
        else:
            self._answer(200, {"type": "pro", "name": "someone", "orgs": [], "errors": [], "warnings": []})

    def _answer(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[Hub]:
    server = Hub()
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_model_is_uploaded_whole_with_a_card(hub: Hub, processes: Processes, tmp_path: Any) -> None:
    settings = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path), "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0"}
    push = processes.start([sys.executable, "-c", PUSH], env={**os.environ, **settings})
    assert push.wait() == 0
    assert hub.tokens == {"Bearer hf_secret"}
    weights = {name for name in hub.files if name.endswith(".safetensors")}
    assert len(weights) == 5
    assert all(name.endswith(".fp16.safetensors") for name in weights)
    assert json.loads(hub.files["model_index.json"])["_class_name"] == "SubjectDiffusionPipeline"
    assert b"diffusers" in hub.files["README.md"]
    assert {"settings.json", "scheduler/scheduler_config.json", "tokenizer/tokenizer.json"} <= hub.files.keys()
