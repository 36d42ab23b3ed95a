"""Captions by a chat API, which a server on loopback plays."""

import base64
import io
import json
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from PIL import Image

from labeling.backends.load import load_captioner
from labeling.config import CaptionConfig, Device, LabelingConfig
from labeling.errors import CaptionApiError
from labeling.execution.child import StageRunner
from labeling.sdd.schema import Caption, State
from labeling.sdd.shards import Refused
from labeling.stages.caption import CaptionInput, CaptionStage
from labeling.steps import Step, weights_identity
from tests.factories import jpeg, key

WIDTHS = [40, 41, 42, 43, 44, 45]


@dataclass
class Api:
    """A chat API that answers with the width of the image, unless it has another status for this width."""

    url: str = ""
    key: str = "secret"
    statuses: dict[int, list[int]] = field(default_factory=dict)
    """Statuses of the next requests with an image of this width."""
    texts: dict[int, str] = field(default_factory=dict)
    """Answers other than the usual."""
    bodies: list[dict[str, object]] = field(default_factory=list)
    together: threading.Barrier | None = None
    """Barrier that requests wait at, to show that they are made at the same time."""

    def answer(self, body: dict[str, object]) -> tuple[int, str]:
        self.bodies.append(body)
        if self.together:
            with suppress(threading.BrokenBarrierError):
                self.together.wait(timeout=60)
        width = picture_of(body).width
        status = (self.statuses.get(width) or [200]).pop(0)
        text = self.texts.get(width, f" a dog\n{width} px wide ")
        return status, json.dumps({"choices": [{"message": {"content": text}}]})


def picture_of(body: dict[str, object]) -> Image.Image:
    content = body["messages"][0]["content"]  # type: ignore[index]
    _, encoded = content[1]["image_url"]["url"].split("data:image/jpeg;base64,")
    return Image.open(io.BytesIO(base64.b64decode(encoded)))


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    served = Api()
    monkeypatch.setenv("TEST_CAPTION_KEY", "secret")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.reply(404, "no list of models")

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self.reply(*(served.answer(body) if self.path == "/v1/chat/completions" else (404, "no such path")))

        def reply(self, status: int, text: str) -> None:
            if self.headers["Authorization"] != f"Bearer {served.key}":
                status, text = 401, "wrong key"
            self.send_response(status)
            self.end_headers()
            with suppress(ConnectionError):  # a client that gave up
                self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    served.url = f"http://127.0.0.1:{server.server_port}/v1"
    yield served
    server.shutdown()
    server.server_close()


def config(url: str, **api: object) -> CaptionConfig:
    settings = {"url": url, "model": "eyes-1", "key_variable": "TEST_CAPTION_KEY", "wait_s": 0.01, "attempts": 3}
    return CaptionConfig.model_validate({"backend": "chat_api", "api": settings | api, "max_new_tokens": 25})


def outcomes(settings: CaptionConfig) -> list[object]:
    """Run the stage as a worker does, on one image of each width."""
    stage = CaptionStage(settings, load_captioner)
    stage.setup()
    runner = StageRunner(stage=stage, batch_limit=64)
    rows = [CaptionInput(key=key(width), image=jpeg(0, (width, 30))) for width in WIDTHS]
    return list(runner.run(rows, [runner.prepare(row) for row in rows]))


def test_each_image_is_one_request_and_all_are_made_at_once(api: Api) -> None:
    api.together = threading.Barrier(len(WIDTHS))
    found = outcomes(config(api.url))
    assert found == [Caption(key=key(width), caption=f"a dog {width} px wide") for width in WIDTHS]
    assert sorted(picture_of(body).width for body in api.bodies) == WIDTHS
    body = api.bodies[0]
    assert (body["model"], body["max_tokens"], body["temperature"]) == ("eyes-1", 25, 0)
    assert body["messages"][0]["content"][0]["text"] == config(api.url).api.instruction  # type: ignore[index]


def test_transient_errors_are_retried_and_others_are_verdicts_with_reasons(api: Api) -> None:
    api.statuses = {40: [429, 503], 41: [500, 500, 500], 42: [400], 44: [401]}
    api.texts = {43: ""}
    found = outcomes(config(api.url))
    assert isinstance(found[0], Caption)
    assert isinstance(found[5], Caption)
    verdicts = [outcome.verdict for outcome in found[1:5] if isinstance(outcome, Refused)]
    assert [(verdict.state, verdict.reason) for verdict in verdicts] == [
        (State.FAILED, "api_unavailable"),
        (State.FAILED, "api_refused"),
        (State.DROPPED, "empty_caption"),
        (State.FAILED, "api_unauthorised"),
    ]
    assert "no answer in 3 attempts (status 500" in verdicts[0].detail
    assert "status 400" in verdicts[1].detail
    assert len(api.bodies) == 3 + 3 + 4


def test_a_slow_api_is_given_up_at_the_timeout(api: Api) -> None:
    api.together = threading.Barrier(2 * len(WIDTHS))  # never reached: nobody is answered
    found = outcomes(config(api.url, timeout_s=0.05, attempts=1))
    api.together.abort()
    assert [outcome.verdict.reason for outcome in found if isinstance(outcome, Refused)] == ["api_unavailable"] * 6


def test_large_images_are_shrunk(api: Api) -> None:
    outcomes(config(api.url, max_side_px=20))
    assert {max(picture_of(body).size) for body in api.bodies} == {20}


def test_a_run_does_not_begin_with_a_wrong_key_or_without_an_api(api: Api, free_tcp_port: int) -> None:
    api.key = "another"
    with pytest.raises(CaptionApiError, match=r"put a valid key into the environment variable TEST_CAPTION_KEY"):
        load_captioner(config(api.url))
    with pytest.raises(CaptionApiError, match=r"eyes-1 at http://127\.0\.0\.1:\d+/v1 does not answer"):
        load_captioner(config(f"http://127.0.0.1:{free_tcp_port}/v1"))


def test_model_and_version_are_in_the_stamp_and_the_way_to_them_is_not() -> None:
    first = config("http://here/v1")
    for way in ({"url": "http://there/v1"}, {"timeout_s": 1.0}, {"attempts": 9}, {"key_variable": "K"}):
        assert config("http://here/v1").model_copy(update={"api": first.api.model_copy(update=way)}).fingerprint() == (
            first.fingerprint()
        )
    for choice in ({"model": "eyes-2"}, {"version": "2"}, {"instruction": "Say."}, {"max_side_px": 99}):
        assert config("http://here/v1", **choice).fingerprint() != first.fingerprint()
    assert first.fingerprint() != CaptionConfig(max_new_tokens=25).fingerprint()
    assert weights_identity("labeling.caption", first) == ""


def test_it_reserves_no_gpu() -> None:
    def device(settings: CaptionConfig) -> Device | None:
        return Step(stage=CaptionStage(settings, load_captioner), reads=("images",), identity="").device

    assert device(config("http://here/v1")) is None
    assert device(CaptionConfig()) is Device.AUTO


def test_a_model_must_be_named() -> None:
    with pytest.raises(ValueError, match=r"labeling\.caption\.api\.model is empty"):
        LabelingConfig.model_validate({"root": "out", "caption": {"backend": "chat_api"}})


def test_the_captioner_gets_upright_pixels(api: Api) -> None:
    captioner = load_captioner(config(api.url))
    picture = captioner.prepare(np.full((30, 40, 3), 200, np.uint8))
    assert Image.open(io.BytesIO(picture.encoded)).getpixel((5, 5)) == pytest.approx((200, 200, 200), abs=3)
