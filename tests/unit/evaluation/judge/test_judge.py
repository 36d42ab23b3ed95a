"""A judge behind a chat API: an HTTP server of the test answers on loopback."""

import base64
import io
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from evaluation.errors import EvaluationError, ImagesError, JudgeError
from evaluation.judge.chat import ChatConfig
from evaluation.judge.judge import Judge, summarize
from evaluation.judge.questions import QUESTIONS_HASH, Criterion, Question, read_answer
from evaluation.judge.verdicts import read_verdicts

Reply = tuple[int, dict[str, str], str]
"""Status, headers and body of a response."""


def chat_reply(text: str) -> Reply:
    return 200, {}, json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]})


@dataclass
class Api:
    """A chat API."""

    url: str = ""
    replies: list[Reply] = field(default_factory=list)
    """Replies to the next requests; then every question is graded 3."""
    requests: list[dict[str, Any]] = field(default_factory=list)
    """Bodies of the requests, with the key under `authorization`."""
    released: threading.Event = field(default_factory=threading.Event)
    """Set while requests are answered at once."""

    def reply(self, body: bytes, authorization: str | None) -> Reply:
        self.requests.append(json.loads(body) | {"authorization": authorization})
        self.released.wait()
        return self.replies.pop(0) if self.replies else chat_reply('{"grade": 3, "reason": "a detail differs"}')


@pytest.fixture
def api() -> Iterator[Api]:
    served = Api()
    served.released.set()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            status, headers, text = served.reply(body, self.headers["Authorization"])
            if self.path != "/v1/chat/completions":
                status, text = 404, "no such path"
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(text.encode())))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    served.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield served
    served.released.set()
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def make_judge(api: Api, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Judge]:
    monkeypatch.setenv("TEST_JUDGE_KEY", "secret")
    defaults = {"url": api.url, "model": "eyes-1", "key_variable": "TEST_JUDGE_KEY", "attempts": 3, "wait_s": 0.01}
    return lambda **changes: Judge(ChatConfig(**(defaults | changes)))


@pytest.fixture
def questions(tmp_path: Path) -> list[Question]:
    photo, image = tmp_path / "photo.png", tmp_path / "image.png"
    for path, value in ((photo, 200), (image, 90)):
        Image.fromarray(np.full((6, 8, 3), value, np.uint8)).save(path)
    return [
        Question(Criterion.CONCEPT_PRESERVATION, image, reference=photo),
        Question(Criterion.PROMPT_FOLLOWING, image, prompt="a cat on the moon"),
    ]


def test_questions_carry_images_words_model_and_key(
    api: Api, make_judge: Callable[..., Judge], questions: list[Question], tmp_path: Path
) -> None:
    verdicts = make_judge().judge(questions, tmp_path / "v.jsonl", parallel=1)
    assert [verdict.score for verdict in verdicts] == [0.75, 0.75]
    likeness, prompt = (request["messages"][0]["content"] for request in api.requests)
    assert {(request["model"], request["authorization"]) for request in api.requests} == {("eyes-1", "Bearer secret")}
    sent = [base64.b64decode(part["image_url"]["url"].removeprefix("data:image/png;base64,")) for part in likeness[1:]]
    assert [int(np.asarray(Image.open(io.BytesIO(png))).mean()) for png in sent] == [200, 90]
    assert "a cat on the moon" in prompt[0]["text"]
    assert len(prompt) == 2


def test_answered_questions_are_not_asked_again(
    api: Api, make_judge: Callable[..., Judge], questions: list[Question], tmp_path: Path
) -> None:
    file, seen = tmp_path / "v.jsonl", list[tuple[int, int]]()
    first = make_judge().judge(questions[:1], file)
    again = make_judge().judge(questions, file, on_progress=lambda done, total: seen.append((done, total)))
    assert (len(api.requests), again[0], seen) == (2, first[0], [(2, 2)])
    make_judge(model="eyes-2").judge(questions, file)
    assert len(api.requests) == 4
    Image.new("RGB", (8, 6)).save(questions[0].image)
    make_judge().judge(questions, file)
    assert len(api.requests) == 6


def test_a_torn_line_is_asked_again_and_a_damaged_one_named(
    api: Api, make_judge: Callable[..., Judge], questions: list[Question], tmp_path: Path
) -> None:
    file = tmp_path / "v.jsonl"
    make_judge().judge(questions, file, parallel=1)
    file.write_bytes(file.read_bytes()[:-9])
    make_judge().judge(questions, file)
    assert (len(api.requests), len(read_verdicts(file))) == (3, 2)
    file.write_bytes(b"{}\n" + file.read_bytes())
    with pytest.raises(EvaluationError, match=r"v\.jsonl, line 1 is damaged"):
        make_judge().judge(questions, file)


@pytest.mark.parametrize("transient", [(429, {"Retry-After": "0"}, "slow down"), (503, {}, ""), (200, {}, "not JSON")])
def test_a_transient_error_is_asked_again(
    api: Api, make_judge: Callable[..., Judge], questions: list[Question], tmp_path: Path, transient: Reply
) -> None:
    api.replies = [transient, transient]
    (verdict,) = make_judge().judge(questions[:1], tmp_path / "v.jsonl")
    assert (verdict.score, len(api.requests)) == (0.75, 3)


def test_the_api_sets_the_wait(
    api: Api, make_judge: Callable[..., Judge], questions: list[Question], tmp_path: Path
) -> None:
    api.replies = [(429, {"Retry-After": "1"}, "")]
    start = time.monotonic()
    make_judge().judge(questions[:1], tmp_path / "v.jsonl")
    assert time.monotonic() - start >= 1  # a lower bound holds on any machine


def test_an_api_that_stays_away_is_an_error_and_keeps_the_verdicts(
    api: Api, make_judge: Callable[..., Judge], questions: list[Question], tmp_path: Path
) -> None:
    api.replies = [chat_reply('{"grade": 4}'), *[(500, {}, "overloaded")] * 3]
    with pytest.raises(JudgeError, match=r"eyes-1 at http.* no answer in 3 attempts \(status 500: overloaded\)"):
        make_judge().judge(questions, tmp_path / "v.jsonl", parallel=1)
    assert [verdict.score for verdict in read_verdicts(tmp_path / "v.jsonl").values()] == [1.0]


def test_a_silent_api_times_out(
    api: Api, make_judge: Callable[..., Judge], questions: list[Question], tmp_path: Path
) -> None:
    api.released.clear()
    with pytest.raises(JudgeError, match=r"no answer in 2 attempts \(TimeoutError"):
        make_judge(timeout_s=0.2, attempts=2).judge(questions[:1], tmp_path / "v.jsonl")
    assert len(api.requests) == 2


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        ((401, {}, "bad key"), r"status 401 \(bad key\): put a valid key into the environment variable TEST_JUDGE_KEY"),
        ((404, {}, "no model eyes-1"), r"status 404 \(no model eyes-1\): check the name of the model"),
        ((200, {}, '{"error": "odd"}'), r"answers with .*odd.*, which is no chat completion"),
    ],
)
def test_a_refusal_is_not_repeated(
    api: Api,
    make_judge: Callable[..., Judge],
    questions: list[Question],
    tmp_path: Path,
    reply: Reply,
    message: str,
) -> None:
    api.replies = [reply]
    with pytest.raises(JudgeError, match=message):
        make_judge().judge(questions[:1], tmp_path / "v.jsonl")
    assert len(api.requests) == 1


def test_malformed_answers_are_counted_and_shown(
    api: Api, make_judge: Callable[..., Judge], questions: list[Question], tmp_path: Path
) -> None:
    api.replies = [chat_reply("I cannot help with that."), chat_reply('{"grade": 2}')]
    summary = summarize(make_judge().judge(questions, tmp_path / "v.jsonl", parallel=1))
    assert (summary.mean, summary.count, summary.malformed) == (0.5, 1, ("I cannot help with that.",))
    assert summarize([]).mean is None


@pytest.mark.parametrize(
    ("answer", "score"),
    [
        ('{"grade": 0, "reason": ""}', 0.0),
        ('Sure:\n```json\n{"grade": 4}\n```', 1.0),
        ('{"grade": 5}', None),
        ('{"grade": -1}', None),
        ('{"grade": 2.5}', None),
        ('{"grade": "3"}', None),
        ('{"grade": true}', None),
        ('{"score": 3}', None),
        ("{grade: 3}", None),
        ("", None),
    ],
)
def test_only_whole_grades_count(answer: str, score: float | None) -> None:
    assert read_answer(answer).score == score


def test_an_unreadable_image_is_named(
    make_judge: Callable[..., Judge], questions: list[Question], tmp_path: Path
) -> None:
    questions[0].image.write_bytes(b"no image")
    with pytest.raises(ImagesError, match=r"image\.png is unreadable \(not_an_image"):
        make_judge().judge(questions, tmp_path / "v.jsonl")
    questions[0].image.unlink()
    with pytest.raises(ImagesError, match=r"image\.png is unreadable \(No such file"):
        make_judge().judge(questions, tmp_path / "v.jsonl")


def test_the_stamp_names_model_and_questions_but_no_secret(make_judge: Callable[..., Judge]) -> None:
    stamp = make_judge(url="https://user:secret@host/v1?key=secret").stamp()
    assert (stamp["model"], stamp["questions"]) == ("eyes-1", QUESTIONS_HASH)
    assert "secret" not in str(stamp)
